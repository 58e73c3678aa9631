// How the ranks of an attempt agree on one step, across daemons: records below `attempts/000017/`, each published by `link`.
import CairnIO
import CairnMessages
import CairnModel
import CairnStore

final class Restores: Sendable {
    private let folders: TierFolders
    private let steps: StepFolders
    private let decisions: Decisions
    private let beside: BesideFiles
    /// What each node settled, by path: it never changes, and rank 0's daemon looks again and again until all have.
    private let settled = Monitor<[String: SettleRecord]>([:])

    init(_ folders: TierFolders, steps: StepFolders, decisions: Decisions, beside: BesideFiles) {
        self.folders = folders
        self.steps = steps
        self.decisions = decisions
        self.beside = beside
    }

    private func folder(_ run: RunKey, _ attempt: Int) -> String { "\(Names.runFolder(run))/\(Names.attemptFolder(attempt))" }

    private func lastName(_ path: String) -> String { path.split(separator: "/").last.map(String.init) ?? path }

    private func path(of restore: Int, _ run: RunKey, _ attempt: Int) -> String { "\(Names.runFolder(run))/\(Names.restoreChoice(attempt: attempt, restore: restore))" }

    func readChoice(_ run: RunKey, attempt: Int, restore: Int) throws -> RestoreChoice? {
        try folders.readIfPresent(RestoreChoice.self, folders.first, path(of: restore, run, attempt))?.value
    }

    func choose(_ run: RunKey, attempt: Int, restore: Int, step: Int?, candidate: Candidate?) throws -> RestoreChoice {
        if let choice = try readChoice(run, attempt: attempt, restore: restore) { return choice }
        let bound = try failedBefore(run, attempt, restore)
        let best = try summaries(run).filter { summary in
            if let bound, summary.sequence >= bound { return false }
            return step.map { $0 == summary.step } ?? !summary.superseded
        }.max { $0.sequence < $1.sequence }
        var choice = RestoreChoice(attempt: attempt, restore: restore, step: best?.step, sequence: best?.sequence, save: best?.save,
                                   level: best == nil ? nil : .committed)
        if let candidate, best.map({ $0.sequence < candidate.sequence }) ?? true, bound.map({ candidate.sequence < $0 }) ?? true,
           step.map({ $0 == candidate.step }) ?? true {
            choice = RestoreChoice(attempt: attempt, restore: restore, step: candidate.step, sequence: candidate.sequence, save: candidate.save, level: candidate.level)
        }
        try folders.makeFolders(folders.first, folder(run, attempt))
        let name = lastName(Names.restoreChoice(attempt: attempt, restore: restore))
        return try folders.publishRecord(folders.first, folder(run, attempt), name, choice)
    }

    /// What may be chosen. A tier beside is asked only while the committing one is down, and then only what is whole here can be restored.
    private func summaries(_ run: RunKey) throws -> [StepSummary] {
        if folders.start.form == .beside { return try beside.summaries(run, wholeOnly: true) }
        try decisions.completeAll(run)
        return try steps.summaries(run)
    }

    /// The oldest choice of this attempt that failed since one succeeded: what could not be restored is not tried again, while a
    /// restore after a good one begins at the newest.
    private func failedBefore(_ run: RunKey, _ attempt: Int, _ restore: Int) throws -> CommitSequence? {
        let folder = folder(run, attempt)
        var numbers: [Int] = [], refused: Set<Int> = []
        for entry in try folders.names(folders.first, folder) {
            if let number = Names.restoreNumber(entry.name), number < restore { numbers.append(number) }
            if let (number, _) = Names.settled(entry.name), let record = try? settled("\(folder)/\(entry.name)"), !record.ok {
                refused.insert(number)
            }
        }
        var bound: CommitSequence?
        for number in numbers.sorted(by: >) {
            let verdict = try folders.readIfSound(SettleVerdict.self, folders.first, "\(folder)/\(lastName(Names.settle(attempt: attempt, restore: number)))")
            // Without a verdict, what a daemon wrote down of its own ranks counts: one that failed is a failure.
            guard !(verdict?.ok ?? !refused.contains(number)) else { break }
            guard let sequence = try folders.readIfSound(RestoreChoice.self, folders.first, path(of: number, run, attempt))?.sequence else { continue }
            bound = min(bound ?? sequence, sequence)
        }
        return bound
    }

    private func settled(_ path: String) throws -> SettleRecord? {
        if let record = settled.withLock({ $0[path] }) { return record }
        guard let record = try folders.readIfPresent(SettleRecord.self, folders.first, path)?.value else { return nil }
        settled.withLock { settled in
            if settled.count >= TierLimits.cachedLists { settled.removeAll() }
            settled[path] = record
        }
        return record
    }

    func settled(_ run: RunKey, attempt: Int, restore: Int, ranks: [Int], ok: Bool, reason: String?) throws {
        try folders.makeFolders(folders.first, folder(run, attempt))
        let record = SettleRecord(node: folders.node, attempt: attempt, restore: restore, ranks: ranks, ok: ok, reason: reason)
        // What this node said first of a rank stands; of ranks that came since, a further file says it.
        var told: Set<Int> = []
        for part in 0..<StoreLimits.worldSize {
            let name = lastName(Names.settled(attempt: attempt, restore: restore, node: folders.node, part: part))
            told.formUnion(try folders.publishRecord(folders.first, folder(run, attempt), name, record).ranks)
            if told.isSuperset(of: ranks) { return }
        }
    }

    func verdict(_ run: RunKey, attempt: Int, restore: Int, worldSize: Int, publish: Bool, force: Bool) throws -> SettleVerdict? {
        let name = lastName(Names.settle(attempt: attempt, restore: restore)), folder = folder(run, attempt)
        if let standing = try folders.readIfPresent(SettleVerdict.self, folders.first, "\(folder)/\(name)") { return standing.value }
        guard publish else { return nil }
        var ranks: Set<Int> = [], refusal: String?, refused = false
        for entry in try folders.names(folders.first, folder) {
            guard let (number, _) = Names.settled(entry.name), number == restore,
                  let record = try settled("\(folder)/\(entry.name)") else { continue }
            if record.ok { ranks.formUnion(record.ranks) } else {
                refused = true
                refusal = refusal ?? record.reason
            }
        }
        let missing = (0..<worldSize).filter { !ranks.contains($0) }
        let verdict: SettleVerdict
        if refused {
            verdict = SettleVerdict(attempt: attempt, restore: restore, ok: false, reason: refusal ?? "a rank could not restore")
        } else if missing.isEmpty {
            verdict = SettleVerdict(attempt: attempt, restore: restore, ok: true, reason: nil)
        } else if force {
            verdict = SettleVerdict(attempt: attempt, restore: restore, ok: false, reason: "ranks \(TilingError.listed(missing)) did not settle in time")
        } else {
            return nil
        }
        return try folders.publishRecord(folders.first, folder, name, verdict)
    }
}
