// An attempt that a former life of this daemon may have served: what its restores chose, which step is its commits' parent, and
// how far rank 0's count of saves has come stand on the committing tier. Nothing is opened before this is known: a count that
// began anew would give a sequence twice, and a verdict asked anew could differ from the one that some rank was told (I12).
import CairnMessages
import CairnModel

extension Engine {
    func resume(_ attempt: Attempt) {
        guard attempt.number != nil, !attempt.resumed, !attempt.asking, isUp(committing) else { return }
        // Manifests that no commit lists yet carry counts too: the scans find them. A tier that stays down is not waited for.
        guard allScanned || now - attempt.openedAt > ms(limits.leftoverMs) else { return }
        attempt.asking = true
        let key = attempt.key, next = attempt.resumedRestores + 1
        ask(committing, .resumeChoice(key, next)) { .readChoice(id: $0, run: key.run, attempt: attempt.number ?? 0, restore: next) }
    }

    func choiceResumed(_ key: AttemptKey, _ restore: Int, chosen: Bool, step: Int?, sequence: CommitSequence?, save: SaveID?) {
        guard let attempt = runs[key.run]?.attempts[key.tokenHash] else { return }
        guard chosen else {
            ask(committing, .resumeSteps(key)) { .list(id: $0, run: key.run) }
            return
        }
        attempt.asking = false
        attempt.resumedRestores = restore
        let found = Restore(startedAt: now, step: nil)
        found.phase = .chosen(step: step, sequence: sequence, save: save)
        found.resumed = true
        attempt.restores[restore] = found
        // Saves follow a restore that all ranks settled: the last one that was chosen.
        attempt.parent = sequence
        resume(attempt)
    }

    func stepsResumed(_ key: AttemptKey, _ steps: [StepSummary]) {
        guard let run = runs[key.run], let attempt = run.attempts[key.tokenHash], let number = attempt.number else { return }
        let committed = steps.lazy.map(\.sequence).filter { $0.attempt == number }.map(\.count).max() ?? 0
        attempt.count = max(attempt.count, committed, run.foundCounts[number] ?? 0)
        // What was not scanned may hold higher counts: sequences need not be without gaps, only without repeats.
        if !allScanned { attempt.count += 1 << 20 }
        attempt.asking = false
        attempt.resumed = true
        finishOpens(attempt)
    }

    var allScanned: Bool { tiers.allSatisfy { tierStates[$0]?.scanned == true } }

    func finishOpens(_ attempt: Attempt) {
        for token in attempt.sessions.values.sorted() { if let session = sessions[token] { finishOpen(session) } }
    }
}
