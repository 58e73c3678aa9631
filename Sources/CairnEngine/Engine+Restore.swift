// Restore by agreement: one answer for all ranks of an attempt (I12), settled by all before any goes on.
// The committing tier is the meeting place; where it is down and this daemon serves the whole world, its local tier is.
import CairnMessages
import CairnModel

extension Engine {
    func choose(call: CallID, session token: SessionToken, restore number: Int, step: Int?, deadline: Int?) {
        guard let session = sessions[token], let attempt = attempt(of: session) else { return reply(call, .failed(.notOpen)) }
        askForNewest(run(session.run))
        if number > 1, attempt.restores[number] == nil, attempt.restores[number - 1] == nil, attempt.servesWorld, !attempt.restores.isEmpty {
            return reply(call, .failed(.invalid(name: "restore", reason: "restore \(number) comes after restore \(number - 1)")))
        }
        let restore = attempt.restores[number] ?? Restore(startedAt: now, step: step)
        attempt.restores[number] = restore
        if !restore.isStepKnown, case .chosen(let chosen, _, _) = restore.phase, step == nil || chosen == nil || step == chosen {
            restore.step = step
            restore.isStepKnown = true
        }
        if restore.step != step {
            return reply(call, .failed(.invalid(name: "step", reason: "another rank of this attempt asked restore \(number) for another step")))
        }
        if case .chosen = restore.phase { return answerChoice(call, restore) }
        restore.calls.append((call, token, deadline))
        advance(attempt, number, restore)
    }

    func answerChoice(_ call: CallID, _ restore: Restore) {
        guard case .chosen(let step?, let sequence?, _) = restore.phase else {
            // What is not here may be on the tier that does not answer: to start over is not what was asked for.
            if let place = restore.choicePlace, place != committing {
                return reply(call, .failed(.tierDown(tier: committing.rawValue, reason: tierStates[committing]?.downReason ?? "it did not answer")))
            }
            return reply(call, .failed(.noSuchStep(restore.step ?? -1)))
        }
        reply(call, .chosen(step: step, sequence: sequence))
    }

    func advance(_ attempt: Attempt, _ number: Int, _ restore: Restore) {
        guard case .waiting = restore.phase, !restore.calls.isEmpty, now >= restore.pollAt, let place = placeOfChoice(attempt, restore) else { return }
        // A worker that is being started anew is no outage: newer steps may be on the committing tier alone.
        if place == beside, restore.choicePlace == nil, !attempt.isProvisional, now - restore.startedAt < ms(limits.numberBesideMs) { return }
        let key = attempt.key, late = now - restore.startedAt > ms(limits.choiceStandInMs)
        guard place == beside || attempt.sessions[0] != nil || late else {
            restore.phase = .asking
            return ask(committing, .readChoice(key, number)) { .readChoice(id: $0, run: key.run, attempt: attempt.number ?? 0, restore: number) }
        }
        // A quick restart must not lose the best save: what can be finished is, the rest is voided, before anything is chosen.
        let bound = ms(limits.leftoverMs + limits.leftoverFinishMs)
        if place == committing, !attempt.isCleared, now - restore.startedAt < bound { return clear(attempt) }
        restore.phase = .asking
        if attempt.servesWorld, let beside, isUp(beside), restore.held == nil {
            return ask(beside, .held(key, number)) { .held(id: $0, run: key.run, step: restore.step) }
        }
        restore.choicePlace = place
        let candidate = candidate(attempt, number, restore)
        if place == beside { log(.warning, "the \(committing) tier is down: restore \(number) is chosen from what this node has") }
        ask(place, .choose(key, number)) {
            .choose(id: $0, run: key.run, attempt: attempt.number ?? 0, restore: number, step: restore.step, candidate: candidate)
        }
    }

    func heldRead(_ key: AttemptKey, _ number: Int, _ found: [FoundRankSave]) {
        guard let attempt = runs[key.run]?.attempts[key.tokenHash], let restore = attempt.restores[number], case .asking = restore.phase else { return }
        restore.held = found
        restore.phase = .waiting
        advance(attempt, number, restore)
    }

    /// Where this daemon serves the whole world and the committing tier is down, it agrees with itself, by records beside.
    func placeOfChoice(_ attempt: Attempt, _ restore: Restore) -> Tier? { restore.choicePlace.map { isUp($0) ? $0 : nil } ?? place(attempt) }

    func place(_ attempt: Attempt) -> Tier? {
        if isHealthy(committing), !attempt.isProvisional { return committing }
        // What a former life chose on the committing tier is not known.
        guard attempt.servesWorld, !attempt.resumedWithout, let beside, isHealthy(beside) else { return nil }
        return beside
    }

    func isHealthy(_ tier: Tier) -> Bool { tierStates[tier].map { $0.up && !$0.stalled } ?? false }

    /// What could not be restored is not tried again; a restore after a good one begins at the newest.
    func oldestFailed(_ attempt: Attempt, before number: Int) -> CommitSequence? {
        var oldest: CommitSequence?
        for (_, restore) in attempt.restores.filter({ $0.key < number }).sorted(by: { $0.key > $1.key }) {
            if restore.verdict == true { break }
            guard case .chosen(_, let sequence?, _) = restore.phase else { continue }
            oldest = oldest.map { min($0, sequence) } ?? sequence
        }
        return oldest
    }

    /// The newest save that may be restored though no file says committed: every rank finds its own part at its own daemon.
    func candidate(_ attempt: Attempt, _ number: Int, _ restore: Restore) -> Candidate? {
        guard let run = runs[attempt.key.run] else { return nil }
        var known: [Candidate] = []
        if attempt.servesWorld {
            for held in heldHere(run, found: restore.held ?? []) {
                guard let count = held.count, held.level >= .staged, held.ranks == held.participants ?? Array(0..<held.worldSize) else { continue }
                known.append(Candidate(step: held.save.step, sequence: CommitSequence(attempt: held.save.attempt, count: count), save: held.save, level: held.level))
            }
        } else {
            known = attempt.leftovers.compactMap(\.everywhere)
        }
        let failed = oldestFailed(attempt, before: number)
        return known.filter { one in
            if let failed, one.sequence >= failed { return false }
            return restore.step.map { $0 == one.step } ?? true
        }.max { $0.sequence < $1.sequence }
    }

    func choiceRead(_ key: AttemptKey, _ number: Int, chosen: Bool, step: Int?, sequence: CommitSequence?, save: SaveID?) {
        guard let attempt = runs[key.run]?.attempts[key.tokenHash], let restore = attempt.restores[number] else { return }
        guard chosen else {
            restore.phase = .waiting
            restore.pollAt = now + jittered(min(ms(limits.pollLongestMs), ms(100) + (now - restore.startedAt) / 4))
            return
        }
        restore.phase = .chosen(step: step, sequence: sequence, save: save)
        for (call, _, _) in restore.calls { answerChoice(call, restore) }
        restore.calls.removeAll()
        guard step == nil, let place = restore.choicePlace, place != committing else { return }
        // Asked again, the committing tier may answer.
        restore.phase = .waiting
        restore.choicePlace = nil
        restore.held = nil
    }

    func choiceFailed(_ key: AttemptKey, _ number: Int, _ failure: TierFailure, _ tier: Tier) {
        guard let attempt = runs[key.run]?.attempts[key.tokenHash], let restore = attempt.restores[number], case .asking = restore.phase else { return }
        restore.phase = .waiting
        restore.pollAt = now + ms(limits.pollLongestMs)
        log(.warning, "the \(tier) tier cannot say which step to restore: \(failure.text)")
        guard failure.kind == .corrupt else { return }
        refuse(restore.calls.map(\.call), failure)
        restore.calls.removeAll()
    }

    /// What all ranks were to agree by cannot be read, and is never written again.
    private func refuse(_ calls: [CallID], _ failure: TierFailure) {
        for call in calls { reply(call, .failed(.invalid(name: "restore", reason: "\(failure.text); start the job anew"))) }
    }

    // MARK: settle

    func settle(call: CallID, session token: SessionToken, restore number: Int, ok: Bool, reason: String?) {
        guard let session = sessions[token], let attempt = attempt(of: session) else { return reply(call, .failed(.notOpen)) }
        guard let restore = attempt.restores[number], case .chosen = restore.phase else {
            return reply(call, .failed(.invalid(name: "restore", reason: "restore \(number) was not chosen yet")))
        }
        if let verdict = restore.verdict { return reply(call, .settled(again: !verdict, reason: restore.refusal)) }
        askForNewest(run(session.run))
        restore.settled[session.rank] = (ok, reason)
        restore.settleCalls.append(call)
        restore.settleStartedAt = restore.settleStartedAt ?? now
        if !ok { log(.warning, "rank \(session.rank) could not restore: \(reason ?? "no reason given")") }
        advanceSettle(attempt, number, restore)
    }

    func advanceSettle(_ attempt: Attempt, _ number: Int, _ restore: Restore) {
        guard restore.verdict == nil, let startedAt = restore.settleStartedAt, !restore.verdictAsking else { return }
        let allOk = restore.settled.values.allSatisfy(\.ok), late = now - startedAt > ms(limits.settleMs)
        // Also where this daemon serves the whole world the verdict stands in a file before anyone is told: a restart between two
        // ranks' replies must not lead to another one (I12).
        guard now >= restore.pollAt, let place = restore.verdictPlace.map({ isUp($0) ? $0 : nil }) ?? place(attempt) else { return }
        let expected = attempt.localWorldSize ?? attempt.sessions.count
        let key = attempt.key
        if restore.resumed {
            // A former life may have asked either tier.
            restore.verdictAsking = true
            let first = restore.resumedVerdicts.isEmpty ? beside.flatMap { isUp($0) ? $0 : nil } ?? place : place
            return ask(first, .verdict(key, number)) {
                .verdict(id: $0, run: key.run, attempt: attempt.number ?? 0, restore: number, worldSize: attempt.worldSize, publish: false, force: false)
            }
        }
        guard !restore.publishedRanks.isEmpty || restore.settled.count >= expected || !allOk || late else { return }
        restore.verdictPlace = place
        restore.verdictAsking = true
        let ranks = restore.settled.keys.filter { !restore.publishedRanks.contains($0) }.sorted()
        if !ranks.isEmpty {
            let reason = restore.settled.filter { !$0.value.ok }.min { $0.key < $1.key }.map { "rank \($0.key): \($0.value.reason ?? "no reason given")" }
            ask(place, .settled(key, number, ranks)) {
                .settled(id: $0, run: key.run, attempt: attempt.number ?? 0, restore: number, ranks: ranks, ok: allOk, reason: reason)
            }
        } else {
            let publishes = place == beside || attempt.sessions[0] != nil || now - startedAt > ms(limits.standInMs)
            ask(place, .verdict(key, number)) {
                .verdict(id: $0, run: key.run, attempt: attempt.number ?? 0, restore: number, worldSize: attempt.worldSize,
                         publish: publishes, force: late)
            }
        }
    }

    func settledRecorded(_ key: AttemptKey, _ number: Int, _ ranks: [Int]) {
        guard let attempt = runs[key.run]?.attempts[key.tokenHash], let restore = attempt.restores[number] else { return }
        restore.verdictAsking = false
        restore.publishedRanks.formUnion(ranks)
        restore.pollAt = now
        advanceSettle(attempt, number, restore)
    }

    func verdictRead(_ key: AttemptKey, _ number: Int, ok: Bool?, reason: String?, by tier: Tier) {
        guard let attempt = runs[key.run]?.attempts[key.tokenHash], let restore = attempt.restores[number] else { return }
        restore.verdictAsking = false
        guard restore.verdict == nil else { return }
        if restore.resumed {
            restore.resumedVerdicts.insert(tier)
            restore.resumed = ok == nil && tier == beside && place(attempt) == committing
        }
        guard let ok else {
            let waited = now - (restore.settleStartedAt ?? now)
            restore.pollAt = now + (!restore.publishedRanks.isEmpty ? jittered(min(ms(limits.pollLongestMs), ms(100) + waited / 4)) : 0)
            return advanceSettle(attempt, number, restore)
        }
        conclude(attempt, restore, ok: ok, reason: reason)
    }

    func settleFailed(_ key: AttemptKey, _ number: Int, _ failure: TierFailure) {
        guard let restore = runs[key.run]?.attempts[key.tokenHash]?.restores[number] else { return }
        restore.verdictAsking = false
        restore.pollAt = now + ms(limits.pollLongestMs)
        guard failure.kind == .corrupt else { return }
        refuse(restore.settleCalls, failure)
        restore.settleCalls.removeAll()
    }

    func conclude(_ attempt: Attempt, _ restore: Restore, ok: Bool, reason: String?) {
        restore.verdict = ok
        restore.refusal = reason
        if ok, case .chosen(_, let sequence?, _) = restore.phase { attempt.parent = sequence }
        for call in restore.settleCalls { reply(call, .settled(again: !ok, reason: reason)) }
        restore.settleCalls.removeAll()
    }

    func tickRestore() {
        for run in orderedRuns {
            for attempt in run.orderedAttempts {
                for (number, restore) in attempt.restores.sorted(by: { $0.key < $1.key }) {
                    advance(attempt, number, restore)
                    advanceSettle(attempt, number, restore)
                    restore.calls.removeAll { call, _, deadline in
                        guard let deadline, now >= deadline else { return false }
                        let down = isUp(committing) ? nil : tierStates[committing]?.downReason
                        reply(call, .failed(down.map { .tierDown(tier: committing.rawValue, reason: $0) } ?? .timedOut(.committed)))
                        return true
                    }
                }
            }
        }
    }
}
