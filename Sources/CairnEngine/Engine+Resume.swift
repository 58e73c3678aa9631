// An attempt that a former life of this daemon may have served: what its restores chose, which step is its commits' parent, and
// how far rank 0's count of saves has come. Nothing is opened before this is known: a count that began anew would give a sequence
// twice, and a verdict asked anew could differ from the one that some rank was told (I12). Records of restores stand on the
// committing tier, or beside where that was down.
import CairnMessages
import CairnModel

extension Engine {
    func resume(_ attempt: Attempt) {
        guard attempt.number != nil, !attempt.resumed, !attempt.isResuming else { return }
        let waited = now - attempt.firstOpenedAt > ms(limits.leftoverMs)
        // Manifests that no commit lists yet carry counts too: the scans find them. A tier that stays down is not waited for.
        guard allScanned || waited || attempt.isProvisional else { return }
        // Without the committing tier only what stands beside is known: enough where nothing of the attempt can stand elsewhere.
        guard isUp(committing) || attempt.isProvisional || attempt.toldNumber == attempt.number else { return }
        // Whether a number given beside is this launch's on the committing tier too decides what may stand there.
        guard !attempt.isProvisional || !isHealthy(committing) else { return tickClaims(attempt.key.run) }
        guard let first = [beside, committing].compactMap({ $0 }).first(where: isUp) else { return }
        readChoices(attempt, at: first)
    }

    private func readChoices(_ attempt: Attempt, at tier: Tier) {
        attempt.isResuming = true
        let key = attempt.key, next = attempt.resumedRestores + 1
        ask(tier, .resumeChoice(key, next)) { .readChoice(id: $0, run: key.run, attempt: attempt.number ?? 0, restore: next) }
    }

    func choiceResumed(_ key: AttemptKey, _ restore: Int, at tier: Tier, chosen: Bool, step: Int?, sequence: CommitSequence?, save: SaveID?) {
        guard let attempt = runs[key.run]?.attempts[key.tokenHash] else { return }
        guard chosen else {
            // Until its number is claimed on the committing tier nothing of it stands there.
            guard !attempt.isProvisional, isUp(committing) else {
                attempt.resumedWithout = !attempt.isProvisional
                return resumed(attempt, committed: 0)
            }
            if tier != committing { return readChoices(attempt, at: committing) }
            ask(committing, .resumeSteps(key)) { .list(id: $0, run: key.run) }
            return
        }
        attempt.isResuming = false
        attempt.resumedRestores = restore
        // That nothing was found beside settles nothing.
        guard attempt.restores[restore] == nil, step != nil || tier == committing else { return resume(attempt) }
        let found = Restore(startedAt: now, step: nil)
        found.phase = .chosen(step: step, sequence: sequence, save: save)
        found.choicePlace = tier
        found.resumed = true
        found.isStepKnown = false
        attempt.restores[restore] = found
        // Saves follow a restore that all ranks settled: the last one that was chosen.
        attempt.parent = sequence
        resume(attempt)
    }

    func stepsResumed(_ key: AttemptKey, _ steps: [StepSummary]) {
        guard let attempt = runs[key.run]?.attempts[key.tokenHash], let number = attempt.number else { return }
        resumed(attempt, committed: steps.lazy.map(\.sequence).filter { $0.attempt == number }.map(\.count).max() ?? 0)
    }

    private func resumed(_ attempt: Attempt, committed: Int) {
        guard let run = runs[attempt.key.run], let number = attempt.number else { return }
        attempt.count = max(attempt.count, committed, run.foundCounts[number] ?? 0)
        // What was not scanned may hold higher counts: sequences need not be without gaps, only without repeats.
        if !allScanned || attempt.resumedWithout { attempt.count += 1 << 20 }
        attempt.isResuming = false
        attempt.resumed = true
        finishOpens(attempt)
    }

    /// The committing tier is back: what an attempt that was resumed without it chose there, its commits' parent among it.
    func resumeAgain() {
        for run in orderedRuns {
            for attempt in run.orderedAttempts where attempt.resumedWithout {
                attempt.resumedWithout = false
                attempt.resumed = false
                resume(attempt)
            }
        }
    }

    var allScanned: Bool { tiers.allSatisfy { allScanned($0) } }
    /// What this tier held at this daemon's start is known.
    public func allScanned(_ tier: Tier) -> Bool { tierStates[tier]?.scanned == true }

    func finishOpens(_ attempt: Attempt) {
        for token in attempt.sessions.values.sorted() { if let session = sessions[token] { finishOpen(session) } }
    }
}
