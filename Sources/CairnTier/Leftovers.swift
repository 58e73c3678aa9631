// What older attempts left undecided, put together from all daemons' `have-NODE.json` and the manifests that stand.
//   cost      one listing of the run's folder and of the attempts' in question, each have-NODE.json once, one listing per undecided save
// (1) A save's folder is listed before its decision is looked at: a commit renames the folder after its decision stands, so a save that
//     is still undecided then was listed whole.
import CairnIO
import CairnMessages
import CairnModel
import CairnStore

final class Leftovers: Sendable {
    private let folders: TierFolders
    private let attempts: Attempts
    private let decisions: Decisions
    private struct Known: Sendable {
        /// By path: they never change.
        var lists: [String: HaveRecord] = [:]
        /// The attempt that asked last.
        var listed: [RunKey: Int] = [:]
        /// Voided saves whose folder may stay for long: their decision is not read again.
        var void: [RunKey: Set<SaveID>] = [:]
    }
    private let known = Monitor(Known())

    init(_ folders: TierFolders, attempts: Attempts, decisions: Decisions) {
        self.folders = folders
        self.attempts = attempts
        self.decisions = decisions
    }

    private func folder(_ run: RunKey, _ attempt: Int) -> String { "\(Names.runFolder(run))/\(Names.attemptFolder(attempt))" }

    func have(_ run: RunKey, attempt: Int, _ list: HaveList) throws {
        let record = HaveRecord(run: run, attempt: attempt, node: folders.node, list: list)
        if let problem = record.problem() { throw TierFailure(kind: .invalid, text: "what this node has for attempt \(attempt): \(problem)") }
        try folders.makeFolders(folders.first, folder(run, attempt))
        // What this node said first stands. Where that cannot be read any more, here at least is known what it holds.
        let name = Names.have(node: folders.node)
        var stands: HaveRecord? = record   // nil: it is read like any other
        do {
            if case .stood(let bytes) = try folders.publish(folders.first, folder(run, attempt), name, Record.encode(record)) {
                stands = (try? Record.decode(HaveRecord.self, from: bytes)) == nil ? record : nil
            }
        } catch {
            guard TierFailure(error).kind == .corrupt else { throw error }
        }
        if let stands { known.withLock { $0.lists["\(folder(run, attempt))/\(name)"] = stands } }
    }

    func find(_ run: RunKey, before attempt: Int) throws -> (serving: Int, leftovers: [Leftover]) {
        let records = try lists(run, attempt), lists = records.map(\.list)
        let serving = Set(lists.flatMap(\.serves)).count
        let newWorld = try attempts.record(run, attempt)?.worldSize
        var saves: Set<SaveID> = Set(lists.flatMap { $0.saves.map(\.save) })
        // A branch's first step is of attempt 0: it is finished by who makes it, and no attempt's leftover.
        for entry in try folders.names(folders.first, Names.runFolder(run)) where entry.isFolder {
            if let save = Names.saving(entry.name), save.attempt >= 1, save.attempt < attempt { saves.insert(save) }
        }
        let void = known.withLock { $0.void[run] ?? [] }
        var found: [Leftover] = [], ended: Set<SaveID> = []
        for save in saves.sorted() {
            if void.contains(save) { ended.insert(save); continue }
            let names = try CommitCheck.manifestNames(folders, decisions.savingFolder(run, save))
            do {
                if let standing = try decisions.standing(run, save) {
                    try decisions.complete(run, standing)
                    if case .void = standing.record.decision { ended.insert(save) }
                    continue
                }
            } catch {
                // A damaged decision is one: it cannot be taken again, and no restore waits for it.
                if let failure = error as? TierFailure, failure.kind == .corrupt { continue }
                throw error
            }
            if let leftover = try leftover(run, save, names, records, newWorld) { found.append(leftover) }
        }
        let voided = ended, needed = Set([attempt] + found.map(\.save.attempt))
        known.withLock { known in
            known.void[run] = voided
            // Once for each launch: the lists of those before are as many as there were launches.
            guard known.listed.updateValue(attempt, forKey: run) != attempt else { return }
            let folders = needed.map { folder(run, $0) + "/" }, ofRun = Names.runFolder(run) + "/"
            known.lists = known.lists.filter { name, _ in !name.hasPrefix(ofRun) || folders.contains(where: name.hasPrefix) }
        }
        return (serving, found)
    }

    private func lists(_ run: RunKey, _ attempt: Int) throws -> [HaveRecord] {
        let folder = folder(run, attempt)
        let nodes = try folders.names(folders.first, folder).filter { !$0.isFolder }.compactMap { Names.haveNode($0.name) }
        let unread = known.withLock { known in nodes.filter { known.lists["\(folder)/\(Names.have(node: $0))"] == nil } }
        let read = try concurrently(unread.count, threads: TierLimits.commitThreads) { [folders] index -> HaveRecord? in
            // A damaged one tells of nothing: what only it knew is then missing, and its daemon may still finish it in time.
            let record = try? folders.readIfPresent(HaveRecord.self, folders.first, "\(folder)/\(Names.have(node: unread[index]))")?.value
            guard let record, record.runKey == run, record.attempt == attempt, record.node == unread[index] else { return nil }
            return record
        }
        return known.withLock { known in
            // Lists of attempts that are over are not asked for again.
            if known.lists.count + read.count > TierLimits.cachedLists { known.lists = known.lists.filter { $0.key.hasPrefix("\(folder)/") } }
            for record in read.compactMap({ $0 }) { known.lists["\(folder)/\(Names.have(node: record.node))"] = record }
            return nodes.compactMap { known.lists["\(folder)/\(Names.have(node: $0))"] }
        }
    }

    /// Nil where nothing says how large its world was: no manifest, no daemon, no attempt's record.
    private func leftover(_ run: RunKey, _ save: SaveID, _ names: [Int: String], _ records: [HaveRecord], _ newWorld: Int?) throws -> Leftover? {
        let lists = records.map(\.list)
        let held = lists.flatMap { list in list.saves.filter { $0.save == save } }
        var manifest: Manifest?
        for (_, name) in names.sorted(by: { $0.key < $1.key }) where manifest == nil { manifest = try decisions.manifest(run, save, name) }
        guard let worldSize = try manifest?.worldSize ?? held.first?.worldSize ?? attempts.record(run, save.attempt)?.worldSize else { return nil }
        let participants = manifest.map(\.participants) ?? held.first?.participants
        // A part that its daemon does not flush keeps the save from being finished: it is what its least holder says.
        let upto = held.filter { !Set($0.ranks).isSubset(of: names.keys) }.map(\.upto).min() ?? manifest?.upto ?? held.first?.upto ?? .committed
        let expected = participants ?? Array(0..<worldSize)
        let holders = held.reduce(into: Set(names.keys)) { $0.formUnion($1.ranks) }
        // A node that has told what it holds holds no more: neither of the ranks that it served, as it knows itself or as its own list in the
        // save's attempt says.
        var served = lists.flatMap(\.served).filter { $0.attempt == save.attempt }.reduce(into: Set<Int>()) { $0.formUnion($1.ranks) }
        let told = Set(records.map(\.node))
        for record in try self.lists(run, save.attempt) where told.contains(record.node) { served.formUnion(record.list.serves) }
        let missing = expected.filter { !holders.contains($0) }
        return Leftover(save: save, worldSize: worldSize, upto: upto, participants: participants, missing: missing, absent: missing.filter(served.contains),
                        isPublished: expected.allSatisfy { names[$0] != nil },
                        everywhere: worldSize == newWorld && expected.count == worldSize ? everywhere(save, worldSize, lists) : nil)
    }

    /// Each rank of the new attempt finds its part at the daemon that serves it.
    private func everywhere(_ save: SaveID, _ worldSize: Int, _ lists: [HaveList]) -> Candidate? {
        var covered: Set<Int> = [], level = Level.global, count: Int?
        for list in lists where !list.serves.isEmpty {
            guard let held = list.saves.first(where: { $0.save == save }), Set(list.serves).isSubset(of: held.ranks) else { return nil }
            covered.formUnion(list.serves)
            level = min(level, held.level)
            count = count ?? held.count
        }
        guard covered.count == worldSize, level >= .staged, let count else { return nil }
        return Candidate(step: save.step, sequence: CommitSequence(attempt: save.attempt, count: count), save: save, level: level)
    }
}
