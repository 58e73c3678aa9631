// Restore by agreement: one answer for all ranks of an attempt (I12), settled by all before any goes on.
// Across daemons the committing tier is the meeting place; where this daemon serves the whole world, it agrees with itself.
import CairnMessages
import CairnModel

extension Engine {
    func choose(call: CallID, session token: SessionToken, restore number: Int, step: Int?, deadline: Int?) {
        guard let session = sessions[token], let attempt = attempt(of: session) else { return reply(call, .failed(.notOpen)) }
        if number > 1, attempt.restores[number] == nil, attempt.restores[number - 1] == nil, attempt.servesWorld {
            return reply(call, .failed(.invalid(name: "restore", reason: "restore \(number) comes after restore \(number - 1)")))
        }
        let restore = attempt.restores[number] ?? Restore(startedAt: now, step: step)
        attempt.restores[number] = restore
        if restore.step != step {
            return reply(call, .failed(.invalid(name: "step", reason: "another rank of this attempt asked restore \(number) for another step")))
        }
        if case .chosen(let step, let sequence, _) = restore.phase { return answerChoice(call, step, sequence, asked: restore.step) }
        restore.calls.append((call, token, deadline))
        advance(attempt, number, restore)
    }

    func answerChoice(_ call: CallID, _ step: Int?, _ sequence: CommitSequence?, asked: Int?) {
        guard let step, let sequence else { return reply(call, .failed(.noSuchStep(asked ?? -1))) }
        reply(call, .chosen(step: step, sequence: sequence))
    }

    /// What older attempts of this run left unfinished here.
    func leftovers(_ attempt: Attempt) -> [Save] {
        guard let number = attempt.number, let run = runs[attempt.key.run] else { return [] }
        return run.unfinished.sorted().filter { $0.attempt < number }.compactMap { saves[SaveKey(run: run.key, save: $0)] }
            .filter { finalLevel($0.upto) == .committed }
    }

    /// What can be finished is, within `leftoverMs` of the new attempt's opening; then each daemon voids what it knows of, for
    /// rank 0's daemon may never have heard of a save that rank 0 missed.
    func endLeftovers(_ attempt: Attempt) {
        guard let run = runs[attempt.key.run], let number = attempt.number, number == run.newest, !attempt.sessions.isEmpty else { return }
        // Where all ranks of the older attempt were served here, one that is missing will not come: nothing is waited for.
        for save in leftovers(attempt) where save.isServedHere && save.ranks.count < save.worldSize {
            void(save, "its attempt ended before all ranks had saved")
        }
        guard now - attempt.openedAt >= ms(limits.leftoverMs) else { return }
        for save in leftovers(attempt) { void(save, "its attempt ended before all ranks were durable") }
        for (save, worldSize) in run.orphans.sorted(by: { $0.key < $1.key })
        where save.attempt < number && !run.orphansAsked.contains(save) && isUp(committing) {
            run.orphansAsked.insert(save)
            voidOrphan(attempt.key.run, save, worldSize: worldSize)
        }
    }

    func advance(_ attempt: Attempt, _ number: Int, _ restore: Restore) {
        guard case .waiting = restore.phase, now >= restore.pollAt else { return }
        let key = attempt.key
        // A quick restart must not lose the best save: what can be finished is, the rest is voided, before anything is chosen.
        let left = leftovers(attempt)
        let waited = now - restore.startedAt
        if !left.isEmpty, waited < ms(limits.leftoverMs) { return }
        // The decisions have the last word on what is newest; a tier that cannot say is waited for no longer than once more.
        if !left.isEmpty, isUp(committing), waited < ms(2 * limits.leftoverMs) { return }
        let asks = attempt.sessions[0] != nil || now - restore.startedAt > ms(limits.choiceStandInMs)
        guard isUp(committing), tierStates[committing]?.stalled == false else {
            guard attempt.servesWorld, let beside, isUp(beside) else { return }
            restore.phase = .asking
            ask(beside, .chooseBeside(key, number)) { .list(id: $0, run: key.run) }
            return
        }
        restore.phase = .asking
        if asks {
            let candidate = bestHere(attempt, number)
            ask(committing, .choose(key, number)) {
                .choose(id: $0, run: key.run, attempt: attempt.number ?? 0, restore: number, step: restore.step, candidate: candidate)
            }
        } else {
            ask(committing, .readChoice(key, number)) { .readChoice(id: $0, run: key.run, attempt: attempt.number ?? 0, restore: number) }
        }
    }

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

    /// The newest save that this daemon holds whole for the whole world though no file says committed.
    func bestHere(_ attempt: Attempt, _ number: Int) -> Candidate? {
        let failed = oldestFailed(attempt, before: number)
        var best: Candidate?
        for save in saves.values where save.key.run == attempt.key.run && save.decision == nil && save.voidReason == nil {
            let parts = (0..<save.worldSize).compactMap { rank in save.ranks[rank].flatMap { rankSaves[$0] } }
            guard parts.count == save.worldSize, let count = parts.first?.count,
                  parts.allSatisfy({ $0.failure == nil && ($0.published(on: .local) || ($0.isStaged && $0.isResident)) }) else { continue }
            let sequence = CommitSequence(attempt: save.key.save.attempt, count: count)
            if let failed, sequence >= failed { continue }
            if let step = attempt.restores[number]?.step, step != save.key.save.step { continue }
            let level = parts.map(\.level).min() ?? .staged
            if best.map({ $0.sequence < sequence }) ?? true {
                best = Candidate(step: save.key.save.step, sequence: sequence, save: save.key.save, level: level)
            }
        }
        return best
    }

    func choiceRead(_ key: AttemptKey, _ number: Int, chosen: Bool, step: Int?, sequence: CommitSequence?, save: SaveID?) {
        guard let attempt = runs[key.run]?.attempts[key.tokenHash], let restore = attempt.restores[number] else { return }
        guard chosen else {
            restore.phase = .waiting
            restore.pollAt = now + ms(100)
            return
        }
        restore.phase = .chosen(step: step, sequence: sequence, save: save)
        for (call, _, _) in restore.calls { answerChoice(call, step, sequence, asked: restore.step) }
        restore.calls.removeAll()
    }

    func choseBeside(_ key: AttemptKey, _ number: Int, _ steps: [StepSummary]) {
        guard let attempt = runs[key.run]?.attempts[key.tokenHash], let restore = attempt.restores[number] else { return }
        let failed = oldestFailed(attempt, before: number)
        let best = steps.filter { step in
            if let failed, step.sequence >= failed { return false }
            return restore.step.map { $0 == step.step } ?? !step.superseded
        }.max { $0.sequence < $1.sequence }
        log(.warning, "the \(committing) tier is down: restore \(number) is chosen from the local copies of commits")
        choiceRead(key, number, chosen: true, step: best?.step, sequence: best?.sequence, save: best?.save)
    }

    func choiceFailed(_ key: AttemptKey, _ number: Int, _ failure: TierFailure) {
        guard let attempt = runs[key.run]?.attempts[key.tokenHash], let restore = attempt.restores[number] else { return }
        restore.phase = .waiting
        restore.pollAt = now + ms(limits.pollLongestMs)
        log(.warning, "the \(committing) tier cannot say which step to restore: \(failure.text)")
    }

    // MARK: settle

    func settle(call: CallID, session token: SessionToken, restore number: Int, ok: Bool, reason: String?) {
        guard let session = sessions[token], let attempt = attempt(of: session) else { return reply(call, .failed(.notOpen)) }
        guard let restore = attempt.restores[number], case .chosen = restore.phase else {
            return reply(call, .failed(.invalid(name: "restore", reason: "restore \(number) was not chosen yet")))
        }
        if let verdict = restore.verdict { return reply(call, .settled(again: !verdict)) }
        restore.settled[session.rank] = (ok, reason)
        restore.settleCalls.append(call)
        restore.settleStartedAt = restore.settleStartedAt ?? now
        if !ok { log(.warning, "rank \(session.rank) could not restore: \(reason ?? "no reason given")") }
        advanceSettle(attempt, number, restore)
    }

    func advanceSettle(_ attempt: Attempt, _ number: Int, _ restore: Restore) {
        guard restore.verdict == nil, let startedAt = restore.settleStartedAt, !restore.verdictAsking else { return }
        let allOk = restore.settled.values.allSatisfy(\.ok), late = now - startedAt > ms(limits.settleMs)
        // Also where this daemon serves the whole world the verdict stands on the committing tier before anyone is told: a
        // restart between two ranks' replies must not lead to another one (I12).
        if attempt.servesWorld, !isUp(committing) {
            if restore.settled.count == attempt.worldSize || !allOk || late {
                conclude(attempt, restore, ok: allOk && restore.settled.count == attempt.worldSize)
            }
            return
        }
        let expected = attempt.localWorldSize ?? attempt.sessions.count
        let key = attempt.key
        guard isUp(committing), now >= restore.pollAt else { return }
        if restore.resumed {
            restore.verdictAsking = true
            ask(committing, .verdict(key, number)) {
                .verdict(id: $0, run: key.run, attempt: attempt.number ?? 0, restore: number, worldSize: attempt.worldSize, publish: false, force: false)
            }
        } else if !restore.settledPublished {
            guard restore.settled.count >= expected || !allOk || late else { return }
            restore.verdictAsking = true
            let ranks = restore.settled.keys.sorted(), reason = restore.settled.values.first { !$0.ok }?.reason
            ask(committing, .settled(key, number)) {
                .settled(id: $0, run: key.run, attempt: attempt.number ?? 0, restore: number, ranks: ranks, ok: allOk, reason: reason)
            }
        } else {
            restore.verdictAsking = true
            let publishes = attempt.sessions[0] != nil || now - startedAt > ms(limits.standInMs)
            ask(committing, .verdict(key, number)) {
                .verdict(id: $0, run: key.run, attempt: attempt.number ?? 0, restore: number, worldSize: attempt.worldSize,
                         publish: publishes, force: late)
            }
        }
    }

    func settledRecorded(_ key: AttemptKey, _ number: Int) {
        guard let attempt = runs[key.run]?.attempts[key.tokenHash], let restore = attempt.restores[number] else { return }
        restore.verdictAsking = false
        restore.settledPublished = true
        restore.pollAt = now
        advanceSettle(attempt, number, restore)
    }

    func verdictRead(_ key: AttemptKey, _ number: Int, ok: Bool?) {
        guard let attempt = runs[key.run]?.attempts[key.tokenHash], let restore = attempt.restores[number] else { return }
        restore.verdictAsking = false
        guard restore.verdict == nil else { return }
        restore.resumed = false
        guard let ok else {
            restore.pollAt = now + (restore.settledPublished ? ms(100) : 0)
            return advanceSettle(attempt, number, restore)
        }
        conclude(attempt, restore, ok: ok)
    }

    func settleFailed(_ key: AttemptKey, _ number: Int) {
        guard let restore = runs[key.run]?.attempts[key.tokenHash]?.restores[number] else { return }
        restore.verdictAsking = false
        restore.pollAt = now + ms(limits.pollLongestMs)
    }

    func conclude(_ attempt: Attempt, _ restore: Restore, ok: Bool) {
        restore.verdict = ok
        if ok, case .chosen(_, let sequence?, _) = restore.phase { attempt.parent = sequence }
        for call in restore.settleCalls { reply(call, .settled(again: !ok)) }
        restore.settleCalls.removeAll()
    }

    func tickRestore() {
        for run in runs.values.sorted(by: { $0.key < $1.key }) {
            for attempt in run.attempts.values.sorted(by: { $0.key.tokenHash < $1.key.tokenHash }) {
                endLeftovers(attempt)
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
