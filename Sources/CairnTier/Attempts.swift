// The numbers of launches: `attempts/000017.json` belongs to the launch whose token's hash is inside, and was linked first.
// A tier beside numbers them while the committing tier is down: above every attempt that a name here tells of, since the saves of an
// attempt outlive its record there. Such a number is claimed on the committing tier once that is back.
import CairnIO
import CairnMessages
import CairnModel
import CairnStore

final class Attempts: Sendable {
    private let folders: TierFolders
    private let beside: BesideFiles
    /// Records never change, so each is read once.
    private let known = Monitor<[RunKey: [Int: AttemptRecord]]>([:])

    init(_ folders: TierFolders, beside: BesideFiles) {
        self.folders = folders
        self.beside = beside
    }

    private func folder(_ run: RunKey) -> String { "\(Names.runFolder(run))/\(Names.attempts)" }

    private func numbers(_ run: RunKey) throws -> (records: [Int], highest: Int) {
        var records: [Int] = [], highest = 0
        for entry in try folders.names(folders.first, folder(run)) {
            if entry.isFolder {
                highest = max(highest, Names.attemptFolderNumber(entry.name) ?? 0)
            } else if let number = Names.attemptNumber(entry.name) {
                records.append(number)
                highest = max(highest, number)
            }
        }
        if folders.start.form == .beside { highest = max(highest, try beside.highestAttempt(run)) }
        return (records.sorted(by: >), highest)
    }

    func record(_ run: RunKey, _ number: Int) throws -> AttemptRecord? {
        if let record = known.withLock({ $0[run]?[number] }) { return record }
        guard let record = try folders.readIfPresent(AttemptRecord.self, folders.first, "\(Names.runFolder(run))/\(Names.attempt(number))")?.value,
              record.number == number else { return nil }
        known.withLock { $0[run, default: [:]][number] = record }
        return record
    }

    func find(_ run: RunKey, tokenHash: String) throws -> Int? {
        for number in try numbers(run).records {
            // A damaged record is nobody's: its number stays taken.
            if let record = try? record(run, number), record.tokenHash == tokenHash { return number }
        }
        return nil
    }

    func newest(_ run: RunKey) throws -> Int? {
        let highest = try numbers(run).highest
        return highest > 0 ? highest : nil
    }

    func number(_ run: RunKey, tokenHash: String, worldSize: Int, notAfter: Int? = nil) throws -> Int {
        try folders.makeFolders(folders.first, folder(run))
        for _ in 0..<TierLimits.attemptTries {
            if let number = try find(run, tokenHash: tokenHash) {
                if let record = try record(run, number), record.worldSize != worldSize {
                    throw TierFailure(kind: .invalid, text: "attempt \(number) of run \(run) has a world of \(record.worldSize), not \(worldSize): a new launch needs a new token (CAIRN_ATTEMPT)")
                }
                return number
            }
            // A local tier knows only what it names: far above that, the number is nobody else's on the committing tier.
            let isBeside = folders.start.form == .beside
            let number = try numbers(run).highest + 1 + (isBeside ? Int.random(in: 0..<TierLimits.numbersBeside) : 0)
            if let notAfter, Clock.monotonicNanoseconds() > notAfter {
                throw TierFailure(kind: .io, text: "numbering an attempt of run \(run) took too long; it is asked for again")
            }
            if try publish(run, number, tokenHash, worldSize) == .linked { return number }
        }
        throw TierFailure(kind: .io, text: "\(TierLimits.attemptTries) numbers for an attempt of run \(run) were taken by others, one after the other")
    }

    /// Nil: that number, or a higher one, is another launch's.
    func claim(_ run: RunKey, number: Int, tokenHash: String, worldSize: Int) throws -> Int? {
        guard number >= 1, (1...StoreLimits.worldSize).contains(worldSize) else {
            throw TierFailure(kind: .invalid, text: "attempt \(number) with a world of \(worldSize) cannot be claimed")
        }
        try folders.makeFolders(folders.first, folder(run))
        // Claimed before: what has begun since changes nothing of that.
        if let own = try record(run, number), own.tokenHash == tokenHash { return number }
        if try isAnothers(run, from: number, tokenHash) { return nil }
        if case .stood = try publish(run, number, tokenHash, worldSize) { return try record(run, number)?.tokenHash == tokenHash ? number : nil }
        // A higher number that was taken meanwhile is the newer launch's, whichever came first: its numbering saw this one or not.
        return try isAnothers(run, from: number + 1, tokenHash) ? nil : number
    }

    private func isAnothers(_ run: RunKey, from number: Int, _ tokenHash: String) throws -> Bool {
        let (records, highest) = try numbers(run)
        // A folder without a record is a launch whose record is lost.
        if highest > number, highest > records.first ?? 0 { return true }
        // A damaged record is nobody's, and its number stays taken.
        return records.contains { $0 >= number && (try? record(run, $0))?.tokenHash != tokenHash }
    }

    private func publish(_ run: RunKey, _ number: Int, _ tokenHash: String, _ worldSize: Int) throws -> TierFolders.Published {
        let record = AttemptRecord(run: run, number: number, tokenHash: tokenHash, worldSize: worldSize, node: folders.node,
                                   startedAt: Clock.iso8601(Clock.utcSeconds()))
        let name = String(Names.attempt(number).dropFirst(Names.attempts.count + 1))
        return try folders.publish(folders.first, folder(run), name, Record.encode(record))
    }
}
