// What status shows and restores from memory need, and the invariants that the simulation checks after every event.
import CairnMessages
import CairnModel

public struct SaveReport: Sendable {
    public var run: RunKey, save: SaveID, level: Level, worldSize: Int, ranks: [Int], stagedRanks: Int
    public var bytes: Int, stagedBytes: Int, localBytes: Int, globalBytes: Int, ageNs: Int, reason: String?
    /// Participants whose manifest was not on the committing tier when it was last looked at; nil: not looked for.
    public var missing: [Int]?
}

public struct PoolReport: Sendable {
    public var slots: Int, filled: Int, free: Int, needed: Int, cached: Int, quarantined: Int
}

public struct TierReport: Sendable {
    public var tier: Tier, up: Bool, stalled: Bool, reason: String?, queuedBytes: Int, writtenBytes: Int
}

/// Where a rank's file lies in the pool: a slot for each chunk. `rank` is the file's number: above `Copies.base`, it is the rank's copies.
public struct ResidentRank: Sendable {
    public var handle: Int, rank: Int, slots: [Int]
}

extension Engine {
    public var poolReport: PoolReport {
        var needed = 0, cached = 0
        for rankSave in rankSaves.values {
            for (chunk, slot) in rankSave.slots.enumerated() where slot != nil {
                if rankSave.failure == nil, isCache(rankSave, chunk) { cached += 1 } else { needed += 1 }
            }
        }
        return PoolReport(slots: limits.slots, filled: pool.filled, free: pool.freeCount, needed: needed, cached: cached,
                          quarantined: pool.quarantinedCount + resting.count)
    }

    public var tierReports: [TierReport] {
        tiers.map { tier in
            let state = tierStates[tier]
            let queued = rankSaves.values.reduce(0) { sum, rankSave in
                guard rankSave.failure == nil, targets(rankSave.upto).contains(tier), !rankSave.published(on: tier), !isEnded(rankSave) else { return sum }
                return sum + rankSave.fileBytes - min(rankSave.fileBytes, (rankSave.files[tier]?.writtenCount ?? 0) * Sizes.chunkBytes)
            }
            return TierReport(tier: tier, up: state?.up ?? false, stalled: state?.stalled ?? false, reason: state?.downReason,
                              queuedBytes: queued, writtenBytes: state?.writtenBytes ?? 0)
        }
    }

    /// Its worker is up and does not owe a reply for long; one that only starts may hang as well.
    public func answers(_ tier: Tier) -> Bool { isHealthy(tier) }

    /// This session's save of that id, held or not, which is or was being staged; `failure`: why it will not be.
    public func saving(session token: SessionToken, save: SaveID) -> (handle: Int, failure: String?)? {
        guard let session = sessions[token] else { return nil }
        let key = RankSaveKey(run: session.run, save: save, rank: session.rank)
        let found = rankSaves.values.first { $0.session == token && $0.key == key && !$0.isStaged }
        return found.map { ($0.handle, $0.failure) }
    }

    public func knows(handle: Int) -> Bool { rankSaves[handle] != nil }
    public func key(ofHandle handle: Int) -> RankSaveKey? { rankSaves[handle]?.key }
    /// How far this rank save is to go by now: a promotion raises it.
    public func upto(ofHandle handle: Int) -> Level? { rankSaves[handle]?.upto }

    /// Whether anything waits for time to pass: a tick is needed then.
    public var needsTick: Bool {
        tierStates.values.contains { $0.scanAt != nil } || rankSaves.values.contains(where: \.isHeld) || !resting.isEmpty || !waits.isEmpty || pool.quarantinedCount > 0
            || tierStates.values.contains { !$0.pending.isEmpty }
            || runs.values.contains { run in
                !run.unfinished.isEmpty || !run.unclaimed.isEmpty || run.attempts.values.contains { attempt in
                    attempt.sessions.values.contains { sessions[$0]?.openCall != nil } || mayClear(attempt, run) || attempt.restores.values.contains {
                        !$0.calls.isEmpty || !$0.settleCalls.isEmpty
                    }
                }
            }
    }

    public var unfinishedCount: Int { runs.values.reduce(0) { $0 + $1.unfinished.count } }
    /// Unfinished saves that a drain can still finish: every rank here is staged. Not those whose local copy stands while the
    /// other tier is down, stalled or full: the next start goes on with them.
    public var drainableCount: Int {
        saves.values.count { save in
            let parts = save.ranks.values.map { rankSaves[$0] }
            return runs[save.key.run]?.unfinished.contains(save.key.save) == true
                && parts.allSatisfy { $0.map { $0.isStaged && $0.failure == nil } ?? false }
                && !parts.allSatisfy { $0.map(isLeftToNextStart) ?? false } && !waitsForOthers(save)
        }
    }

    /// All that this daemon can do for it is done: other daemons' ranks are missing.
    private func waitsForOthers(_ save: Save) -> Bool {
        save.ranks.count < save.memberCount && save.ranks.values.allSatisfy { rankSaves[$0]?.published(on: committing) == true }
    }

    private func isLeftToNextStart(_ rankSave: RankSave) -> Bool {
        guard let beside, rankSave.published(on: beside), let state = tierStates[committing] else { return false }
        return !state.up || state.stalled || rankSave.files[committing]?.retryAt != nil
    }

    /// Why a file is not being written: it is tried again.
    func waitsFor(_ parts: [RankSave]) -> String? {
        for tier in tiers {
            for file in parts.compactMap({ $0.files[tier] }) where file.retryAt != nil {
                if let failure = file.failure { return "\(tier) tier: \(failure)" }
            }
        }
        return nil
    }

    public func saveReports(run: RunKey? = nil) -> [SaveReport] {
        runs.values.filter { run == nil || $0.key == run }.sorted { $0.key < $1.key }.flatMap { run in
            run.unfinished.sorted().compactMap { id -> SaveReport? in
                guard let save = saves[SaveKey(run: run.key, save: id)] else { return nil }
                let parts = ownParts(save)
                let reason = save.voidReason ?? parts.compactMap(\.failure).first ?? waitsFor(parts)
                return SaveReport(
                    run: run.key, save: id, level: parts.map(\.level).min() ?? .accepted, worldSize: save.worldSize, ranks: save.ranks.keys.sorted(),
                    stagedRanks: parts.count { $0.isStaged }, bytes: parts.reduce(0) { $0 + $1.fileBytes },
                    stagedBytes: parts.reduce(0) { $0 + $1.stagedBytes }, localBytes: parts.reduce(0) { $0 + ($1.bytesWritten[.local] ?? 0) },
                    globalBytes: parts.reduce(0) { $0 + ($1.bytesWritten[.global] ?? 0) }, ageNs: now - save.acceptedAt, reason: reason, missing: save.missing)
            }
        }
    }

    /// The latest level of each unfinished save, for a watch that begins (also after a reconnect).
    public func notices(run: RunKey, rank: Int?) -> [Notice] {
        rankSaves.keys.sorted().compactMap { rankSaves[$0] }.filter { $0.key.run == run && !$0.isCopies && (rank == nil || $0.key.rank == rank) }.map {
            Notice(run: $0.key.run, save: $0.key.save, rank: $0.key.rank, level: $0.level, bytes: $0.toldBytes, totalBytes: $0.fileBytes,
                   at: now, reason: $0.failure)
        }
    }

    public var sessionTotal: Int { sessions.count }
    public var knownRuns: [RunKey] { runs.keys.sorted() }
    public func attemptNumber(session token: SessionToken) -> Int? { sessions[token].flatMap { attempt(of: $0)?.number } }
    /// The step that this session's attempt restored.
    public func attemptParent(session token: SessionToken) -> CommitSequence? { sessions[token].flatMap { attempt(of: $0)?.parent } }

    /// How many restores of this session's attempt have ended: a process that is new in it goes on after them.
    public func endedRestores(session token: SessionToken) -> Int {
        guard let attempt = sessions[token].flatMap({ attempt(of: $0) }), let last = attempt.restores.keys.max(),
              let restore = attempt.restores[last] else { return 0 }
        return restore.verdict == nil ? last - 1 : last   // the last one may be under way; those before it are not
    }
    public func lastCommit(run: RunKey) -> (save: SaveID, sequence: CommitSequence, at: Int)? { runs[run]?.lastCommit }

    /// The save behind a sequence, if this daemon still knows it, be it only from a restore's choice.
    public func save(run: RunKey, sequence: CommitSequence) -> SaveID? {
        if let attempts = runs[run]?.attempts.values {
            for restore in attempts.flatMap({ $0.restores.values }) {
                if case .chosen(_, let chosen?, let save?) = restore.phase, chosen == sequence { return save }
            }
        }
        return saves.values.first { save in
            guard save.key.run == run, save.key.save.attempt == sequence.attempt else { return false }
            if case .committed(let decided)? = save.decision { return decided == sequence }
            return save.ranks[0].flatMap { rankSaves[$0]?.count } == sequence.count && save.voidReason == nil
        }?.key.save
    }

    /// The files of this save's ranks that lie whole in the pool here (a restore from memory); another daemon may have the others.
    public func resident(run: RunKey, save id: SaveID) -> [ResidentRank] {
        guard let save = saves[SaveKey(run: run, save: id)], save.lostReason == nil else { return [] }
        return (ownParts(save) + copyParts(save)).compactMap { rankSave in
            guard rankSave.failure == nil, rankSave.isStaged else { return nil }
            let slots = rankSave.slots.compactMap { $0 }
            guard slots.count == rankSave.chunkCount else { return nil }
            return ResidentRank(handle: rankSave.handle, rank: rankSave.key.rank, slots: slots)
        }
    }

    /// The save that a restore of this run chose though no file says that it is committed: it is read from wherever it is.
    public func isChosen(run: RunKey, save id: SaveID) -> Bool {
        guard saves[SaveKey(run: run, save: id)]?.lostReason == nil, let attempts = runs[run]?.attempts.values else { return false }
        return attempts.contains { attempt in
            attempt.restores.values.contains { if case .chosen(_, _, let save?) = $0.phase { save == id } else { false } }
        }
    }

    private func mayClear(_ attempt: Attempt, _ run: Run) -> Bool {
        attempt.number == run.newest && !attempt.sessions.isEmpty && (!attempt.hasListed || (!attempt.isCleared && clears(attempt)))
    }

    /// The invariants that can be read off the state. The first that does not hold, or nil.
    public func violatedInvariant() -> String? {
        var owners: [Int: (Int, Int)] = [:]
        for (handle, rankSave) in rankSaves {
            for (chunk, slot) in rankSave.slots.enumerated() {
                guard let slot else { continue }
                if let other = owners[slot] { return "I5: slot \(slot) belongs to chunk \(other) and to \((handle, chunk))" }
                owners[slot] = (handle, chunk)
                guard case .chunk(handle, chunk, _) = pool.slots[slot].content else { return "I5: slot \(slot) does not know its chunk \((handle, chunk))" }
            }
            if rankSave.isHeld, !rankSave.files.isEmpty { return "I2: \(rankSave.key) is held, and goes to a tier" }
            if rankSave.level == .committed, rankSave.failure != nil { return "I11: \(rankSave.key) is committed and failed" }
            if rankSave.level >= .local, rankSave.level != .failed, rankSave.failure == nil,
               !tiers.contains(where: { rankSave.published(on: $0) }) { return "I1: \(rankSave.key) was told \(rankSave.level) but is published nowhere" }
        }
        for (slot, state) in pool.slots.enumerated() {
            if case .free = state.content, state.holds != 0 { return "I5: free slot \(slot) is held" }
            if case .chunk = state.content, owners[slot] == nil { return "I6: slot \(slot) is lost: its save is gone" }
        }
        for run in runs.values {
            for id in run.unfinished where saves[SaveKey(run: run.key, save: id)] == nil { return "I4: save \(id) is unfinished but forgotten" }
            if let over = run.attempts.values.first(where: { ($0.number ?? run.newest) < run.newest }) {
                return "I6: attempt \(over.number ?? 0) is over and still remembered"
            }
            if run.ended.count > limits.endedPerRun { return "I6: \(run.ended.count) ended saves are remembered" }
        }
        for state in tierStates.values where state.writesInFlight < 0 || state.writesInFlight > limits.writesPerTier {
            return "I6: \(state.writesInFlight) writes in flight on the \(state.tier) tier"
        }
        return nil
    }
}

extension Engine {
    /// A restore that runs in this run's attempts names this step: it may not be deleted.
    public func isNamedByRestore(run: RunKey, sequence: CommitSequence) -> Bool {
        guard let run = runs[run] else { return false }
        return run.attempts.values.contains { attempt in
            attempt.restores.values.contains { restore in
                guard restore.verdict == nil, case .chosen(_, let chosen?, _) = restore.phase else { return false }
                return chosen == sequence
            }
        }
    }
}
