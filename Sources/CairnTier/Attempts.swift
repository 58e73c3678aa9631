// The numbers of launches: `attempts/000017.json` belongs to the launch whose token's hash is inside, and was linked first.
import CairnIO
import CairnMessages
import CairnModel
import CairnStore
import Synchronization

final class Attempts: Sendable {
    private let folders: TierFolders
    /// Records never change, so each is read once.
    private let known = Mutex<[RunKey: [Int: AttemptRecord]]>([:])

    init(_ folders: TierFolders) { self.folders = folders }

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
        return (records.sorted(by: >), highest)
    }

    private func record(_ run: RunKey, _ number: Int) throws -> AttemptRecord? {
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

    func number(_ run: RunKey, tokenHash: String, worldSize: Int) throws -> Int {
        try folders.makeFolders(folders.first, folder(run))
        for _ in 0..<TierLimits.attemptTries {
            if let number = try find(run, tokenHash: tokenHash) {
                if let record = try record(run, number), record.worldSize != worldSize {
                    throw TierFailure(kind: .invalid, text: "attempt \(number) of run \(run) has a world of \(record.worldSize), not \(worldSize): a new launch needs a new token (CAIRN_ATTEMPT)")
                }
                return number
            }
            let number = try numbers(run).highest + 1
            let record = AttemptRecord(run: run, number: number, tokenHash: tokenHash, worldSize: worldSize, node: folders.node,
                                       startedAt: Clock.iso8601(Clock.utcSeconds()))
            let name = String(Names.attempt(number).dropFirst(Names.attempts.count + 1))
            if try folders.publish(folders.first, folder(run), name, Record.encode(record)) == .linked { return number }
        }
        throw TierFailure(kind: .io, text: "\(TierLimits.attemptTries) numbers for an attempt of run \(run) were taken by others, one after the other")
    }
}
