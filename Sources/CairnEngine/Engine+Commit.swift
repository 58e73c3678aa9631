// Commit or void: one file decides, and it has the last word. This daemon asks for a decision and tells what it says.
import CairnMessages
import CairnModel

extension Engine {
    /// All is written here: rank 0's daemon decides once all manifests are there, the others look.
    func seekDecision(_ save: Save) {
        guard save.decision == nil, !save.asking, isUp(committing), !isUnclaimed(save.key) else { return }
        save.asking = true
        let key = save.key, participants = save.participants
        // Their rows of the commit are kept on the local tier, where they prove what lies there.
        let ranks = beside == nil ? [] : save.ranks.keys.sorted()
        if let reason = save.voidReason {
            ask(committing, .void(key)) { .void(id: $0, run: key.run, save: key.save, reason: reason, ranks: ranks) }
        } else if save.ranks[0] != nil || standIn(save) {
            let parent = save.parent ?? runs[key.run]?.attempts.values.first { $0.number == key.save.attempt }?.parent
            ask(committing, .decide(key)) { .decide(id: $0, run: key.run, save: key.save, worldSize: save.worldSize, participants: participants, parent: parent, ranks: ranks) }
        } else {
            // Rank 0's daemon decides; only where it is late does another look for the manifests, so that no listing is made ranks x nodes times.
            let lists = isRankZeroLate(save) && now >= save.listsAt
            if lists { save.listsAt = now + ms(limits.listsMs) }
            ask(committing, .look(key)) { .look(id: $0, run: key.run, save: key.save, worldSize: save.worldSize, participants: participants, lists: lists, ranks: ranks) }
        }
    }

    func isRankZeroLate(_ save: Save) -> Bool { save.publishedAt.map { now - $0 > ms(limits.standInMs) } ?? false }

    /// Rank 0's daemon has had its time and all manifests are there.
    func standIn(_ save: Save) -> Bool { save.missing?.isEmpty == true && isRankZeroLate(save) }

    func undecided(_ key: SaveKey, missing: [Int]?) {
        guard let save = saves[key] else { return }
        save.asking = false
        save.isSought = false
        save.damagedAnswers = 0
        if let missing { save.missing = missing }
        save.pollAt = now + jittered(ms(save.pollInterval))
        save.pollInterval = min(save.pollInterval * 2, limits.pollLongestMs)
    }

    func decisionFailed(_ key: SaveKey, _ failure: TierFailure) {
        guard let save = saves[key] else { return }
        save.asking = false
        save.pollAt = now + jittered(ms(limits.pollLongestMs))
        if failure.kind == .corrupt { save.damagedAnswers += 1 }
        guard save.decision == nil, save.damagedAnswers >= limits.decisionTries else {
            return log(.warning, "\(committing) tier: \(failure.text); the decision is asked for again", save: key, tier: committing)
        }
        // Where only a part of it is damaged no file decides yet, and a void does. Else nothing ever will: whoever told another end had read one.
        let reason = "what decides on it is damaged: \(failure.text); earlier steps are not concerned: save again"
        if save.voidReason == nil { void(save, reason) } else { decided(key, .void(reason: reason), isRead: false) }
    }

    /// This save shall not be committed. Told only once the decision file says so, except to a rank whose own part failed.
    func void(_ save: Save, _ reason: String) {
        guard save.decision == nil, save.voidReason == nil else { return }
        save.voidReason = reason
        if finalLevel(save.upto) != .committed {
            // Nothing of it is on the committing tier: no file decides, its ranks here are told.
            decided(save.key, .void(reason: reason), isRead: false)
            return discard(save.key)
        }
        save.pollAt = now
        seekDecision(save)
    }

    /// `isRead`: the decision file says so, and the reply that told it carries its record; else no file decides.
    func decided(_ key: SaveKey, _ outcome: DecisionOutcome, isRead: Bool = true) {
        guard let save = saves[key] else { return }
        save.asking = false
        guard save.decision == nil else { return }
        save.decision = outcome
        let run = run(key.run)
        run.decided.append(key.save)
        if run.decided.count > limits.decidedPerRun { run.decided.removeFirst() }
        let ranks = ownParts(save)
        let servesRankZero = save.ranks[0] != nil
        switch outcome {
        case .committed(let sequence):
            for rankSave in ranks {
                guard rankSave.failure == nil else {
                    log(.error, "the decision says committed though this rank's part failed", rankSave.key)
                    continue
                }
                stopStaging(rankSave)
                if !rankSave.isStaged, let copies = partOfCopies(rankSave) { stopStaging(copies) }
                standsCommitted(rankSave)
                keep(rankSave)
                tell(rankSave, .committed)
            }
            run.lastCommit = (key.save, sequence, now)
            log(.notice, "committed step \(key.save.step) as sequence \(sequence)", save: key, tier: committing)
        case .void(let reason):
            log(.warning, "void: \(reason)", save: key)
            for rankSave in ranks { drop(rankSave) }
            // What has reached the level it asked for has ended (I4).
            for rankSave in parts(save) where !isEnded(rankSave) { failRankSave(rankSave, reason) }
        }
        // A start while the committing tier is down knows from this copy what is committed, and flushes nothing that is void.
        if isRead, let beside, isUp(beside) {
            let id = newID()
            tierStates[beside]?.pending[id] = (.record(key), nil, now)
            actions.append(.recordDecision(beside, id: id, run: key.run, save: key.save))
        }
        for rankSave in parts(save) { endRankSaveIfDone(rankSave) }
        endSaveIfDone(save)
        if case .committed = outcome { retain(key.run, tiers: servesRankZero ? tiers : tiers.filter { $0 == beside }) }
    }

    /// The commit lists this rank's file: it stands on the committing tier, whatever this daemon's own try at it came to.
    func standsCommitted(_ rankSave: RankSave) {
        guard !rankSave.published(on: committing) else { return }
        if let file = rankSave.files[committing], file.retryAt == nil { abandon(file) }
        let file = rankSave.files[committing] ?? FileState(tier: committing, file: newID(), fileTry: 0, chunkCount: rankSave.chunkCount)
        file.phase = .published
        file.retryAt = nil
        for chunk in file.chunks.indices { file.chunks[chunk] = .synced }
        rankSave.files[committing] = file
    }

    /// Retention after each commit, by the daemon of the newest attempt's rank 0; a local tier beside keeps its own count, also of the saves
    /// that go no further.
    func retain(_ key: RunKey, tiers: [Tier]) {
        guard let run = runs[key], !run.attempts.isEmpty else { return }
        for tier in tiers where isUp(tier) {
            // Before the worker has recorded the commit it would count one step too few, and keep one too many: its reply asks again.
            guard unrecorded(key, on: tier).isEmpty, let rules = retention[tier], rules.keep != nil, let given = retentionGiven(key, on: tier) else { continue }
            ask(tier, .retain(key)) { .retain(id: $0, run: key, rules: rules, given: given) }
        }
    }

    public func rules(of tier: Tier) -> RetentionRules { retention[tier] ?? RetentionRules(keep: nil) }

    /// What of a run retention must leave, whoever asks for it; nil while that is not known.
    public func retentionGiven(_ key: RunKey, on tier: Tier) -> RetentionGiven? {
        guard let run = runs[key] else { return RetentionGiven(protectedSaves: [], protectedSequences: []) }
        // After a restart nothing is removed before it is known again what the attempt's restores name, which the committing tier tells.
        guard run.attempts.values.allSatisfy({ $0.resumed && !$0.resumedWithout }) else { return nil }
        // What an attempt that has ended restored is nobody's any more.
        let newest = run.attempts.values.compactMap(\.number).max()
        let live = run.attempts.values.filter { $0.number == nil || $0.number == newest }
        var sequences = live.compactMap(\.parent)
        for attempt in live {
            for restore in attempt.restores.values {
                if case .chosen(_, let sequence?, _) = restore.phase { sequences.append(sequence) }
            }
        }
        sequences.sort()
        // A commit that no copy tells of yet looks like a save that no commit comes for.
        let protected = run.unfinished.union(unrecorded(key, on: tier)).sorted()
        var given = RetentionGiven(protectedSaves: protected, protectedSequences: sequences)
        given.standing = run.lastCommit?.sequence
        return given
    }

    /// Saves whose decision the tier was asked to write down and has not.
    private func unrecorded(_ key: RunKey, on tier: Tier) -> [SaveID] {
        (tierStates[tier]?.pending.values.map(\.what) ?? []).compactMap { what in
            if case .record(let save) = what, save.run == key { save.save } else { nil }
        }
    }

    // MARK: ends

    func isEnded(_ rankSave: RankSave) -> Bool {
        rankSave.failure != nil || (!rankSave.isHeld && rankSave.level == finalLevel(rankSave.upto))
    }

    func endRankSaveIfDone(_ rankSave: RankSave) {
        guard isEnded(rankSave) else { return }
        if rankSave.isHeld, !rankSave.cancelling, rankSave.slots.allSatisfy({ $0 == nil }) { return forget(rankSave) }
        guard let save = saves[rankSave.saveKey] else { return }
        endSaveIfDone(save)
        guard !run(rankSave.key.run).unfinished.contains(rankSave.key.save), rankSave.slots.allSatisfy({ $0 == nil }),
              !rankSave.cancelling else { return }
        forget(rankSave)
    }

    func forget(_ rankSave: RankSave) {
        guard rankSaves.removeValue(forKey: rankSave.handle) != nil else { return }
        actions.append(.forget(handle: rankSave.handle))
        guard let save = saves[rankSave.saveKey] else { return }
        if rankSave.isCopies { save.copies[Copies.rank(rankSave.key.rank)] = nil } else { save.ranks[rankSave.key.rank] = nil }
    }

    /// I4: every accepted save ends exactly once. A save that a file decides ends with the decision.
    func endSaveIfDone(_ save: Save) {
        let run = run(save.key.run)
        guard run.unfinished.contains(save.key.save) else { return }
        if finalLevel(save.upto) == .committed { guard save.decision != nil else { return } }
        let ranks = parts(save)
        guard ranks.allSatisfy({ isEnded($0) && !$0.cancelling }) else { return }
        run.unfinished.remove(save.key.save)
        run.ended.append(save.key.save)
        defer { if let beside, targets(save.upto).contains(beside), !isVoid(save) { retain(run.key, tiers: [beside]) } }
        for rankSave in ranks where rankSave.slots.allSatisfy({ $0 == nil }) { forget(rankSave) }
        while run.ended.count > limits.endedPerRun {
            let old = SaveKey(run: run.key, save: run.ended.removeFirst())
            guard let gone = saves.removeValue(forKey: old) else { continue }
            for rankSave in parts(gone) {
                for (chunk, slot) in rankSave.slots.enumerated() {
                    guard let slot else { continue }
                    if pool.slots[slot].holds == 0 { pool.release(slot) } else { pool.quarantine(slot, until: now + ms(limits.quarantineMs)) }
                    rankSave.slots[chunk] = nil
                }
                rankSaves[rankSave.handle] = nil
                actions.append(.forget(handle: rankSave.handle))
            }
        }
    }

    private func isVoid(_ save: Save) -> Bool { if case .void? = save.decision { true } else { false } }

    func tickCommit() {
        for save in saves.values.sorted(by: { $0.key < $1.key }) where save.decision == nil && finalLevel(save.upto) == .committed {
            if save.voidReason == nil, now - save.acceptedAt > ms(limits.commitTimeoutMs) {
                let here = Self.listed(save.ranks.keys.sorted())
                let missing = save.missing.map { $0.isEmpty ? "" : "; missing: ranks \(Self.listed($0))" } ?? ""
                void(save, "not committed within \(limits.commitTimeoutMs / 60_000) min (this daemon serves ranks \(here) of \(save.worldSize))\(missing)")
            }
            // A save of which something stands on the committing tier may be decided by others at any time.
            guard now >= save.pollAt, save.voidReason != nil || save.isSought || anyAtTier(save) || save.memberCount > save.ranks.count else { continue }
            seekDecision(save)
        }
    }

    /// Something of it stands on the committing tier, or may, or was refused there because it is decided.
    func anyAtTier(_ save: Save) -> Bool {
        save.ranks.values.contains { handle in
            guard let file = rankSaves[handle]?.files[committing] else { return false }
            return file.phase == .published || file.phase == .failed || file.mayStand
        }
    }

    // MARK: waits

    func wait(call: CallID, run: RunKey, save: SaveID, rank: Int?, level: Level, deadline: Int?) {
        guard let known = saves[SaveKey(run: run, save: save)] else {
            guard let rank, let held = heldSave(RankSaveKey(run: run, save: save, rank: rank)), level <= .staged, waits.count < limits.waits else {
                return reply(call, .failed(.unknownSave(save.description)))
            }
            if held.level >= level { return reply(call, .waited(held.level, reason: nil)) }
            if level == .staged, held.stagerKnows, !held.cancelling { actions.append(.stager(.hurry(handle: held.handle))) }
            return waits.append((call, run, save, rank, level, deadline))
        }
        let parts = ownParts(known).filter { rank == nil || $0.key.rank == rank }
        if let failed = parts.first(where: { $0.failure != nil }) { return reply(call, .waited(.failed, reason: failed.failure)) }
        if case .void(let reason)? = known.decision { return reply(call, .waited(.failed, reason: reason)) }
        if case .committed? = known.decision { return reply(call, .waited(.committed, reason: nil)) }
        // All of its ranks' parts may be forgotten once it has ended.
        let hasEnded = parts.isEmpty && runs[run]?.ended.contains(save) == true
        let reached = hasEnded ? finalLevel(known.upto) : parts.map(\.level).min()
        if let reached, reached >= level { return reply(call, .waited(reached, reason: nil)) }
        if finalLevel(known.upto) < level, finalLevel(known.upto) != .committed {
            return reply(call, .failed(.invalid(name: "level", reason: "this save ends at '\(finalLevel(known.upto))' (its `upto`)")))
        }
        guard waits.count < limits.waits else {
            return reply(call, .failed(.invalid(name: "wait", reason: "\(limits.waits) waits are pending already")))
        }
        if level == .staged {
            for part in parts where part.stagerKnows && !part.cancelling && !part.isStaged { actions.append(.stager(.hurry(handle: part.handle))) }
        }
        waits.append((call, run, save, rank, level, deadline))
    }

    func answerWaits(_ rankSave: RankSave, _ level: Level, _ reason: String?) {
        guard !waits.isEmpty else { return }
        waits.removeAll { wait in
            guard wait.run == rankSave.key.run, wait.save == rankSave.key.save, wait.rank == nil || wait.rank == rankSave.key.rank else { return false }
            if level == .failed { reply(wait.call, .waited(.failed, reason: reason)); return true }
            guard level >= wait.level else { return false }
            if wait.rank == nil, let save = saves[rankSave.saveKey],
               save.ranks.values.contains(where: { (rankSaves[$0]?.level ?? .committed) < wait.level }) { return false }
            reply(wait.call, .waited(level, reason: nil))
            return true
        }
    }

    func tickWaits() {
        waits.removeAll { wait in
            guard let deadline = wait.deadline, now >= deadline else { return false }
            let parts = saves[SaveKey(run: wait.run, save: wait.save)]?.ranks.filter { wait.rank == nil || wait.rank == $0.key } ?? [:]
            // Of a rank's part that was lost with a former life nothing is known.
            reply(wait.call, .failed(.timedOut(parts.values.compactMap { rankSaves[$0]?.level }.min() ?? .accepted)))
            return true
        }
    }
}
