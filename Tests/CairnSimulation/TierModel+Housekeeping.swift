// Scans, retention, removal.
import CairnEngine
import CairnMessages
import CairnModel

extension TierModel {
    private func found(_ key: RankSaveKey, _ file: PublishedFile) -> FoundRankSave {
        // Beside, an attempt's own number stands here only if this tier gave it.
        let token = isCommitting ? nil : disk.attempts[key.save.attempt]?.token
        return FoundRankSave(key: key, step: key.save.step, worldSize: file.worldSize, fileBytes: file.fileBytes, count: file.count,
                             decision: isUnreadable(key.save) ? nil : see(disk.decisions, key.save)?.outcome, upto: file.upto, participants: file.participants, tokenHash: token)
    }
    private func sorted(_ files: [RankSaveKey: PublishedFile]) -> [(key: RankSaveKey, value: PublishedFile)] {
        files.sorted { ($0.key.save, $0.key.rank) < ($1.key.save, $1.key.rank) }
    }

    func scan(_ id: Int) {
        operate(id) { [self] in
            let parts = sorted(all(disk.files))
            if !parts.isEmpty { world.mark(.scanFoundParts) }
            for (save, decision) in all(disk.decisions).sorted(by: { $0.key < $1.key }) where isCommitting && !isUnreadable(save) { complete(save, decision) }
            for (key, _) in parts { disk.files.sync(key) }
            return .reply(.scanned(id: id, parts.map(found)))
        }
    }

    func held(_ id: Int, _ step: Int?) {
        operate(id) { [self] in
            let parts = sorted(all(disk.files)).filter { step == nil || $0.key.save.step == step }
            return .reply(.scanned(id: id, parts.filter { key, _ in disk.decisions[key.save].map { $0.sequence != nil } ?? true }.map(found)))
        }
    }

    func remove(_ id: Int, _ ref: StepRef) {
        guard let save = ref.save, !isCommitting else { return world.fail("the engine removes only what its tier beside holds, by its save") }
        operate(id) { [self] in
            for key in disk.files.entries.keys where key.save == save {
                disk.files.remove(key)
                disk.retired.insert(key)
            }
            return .reply(.done(id: id))
        }
    }

    /// Decided by the function that the worker decides by (CairnModel).
    func retain(_ id: Int, _ rules: RetentionRules, _ given: RetentionGiven) {
        daemon.checkRetention(tier, given.protectedSaves, given.protectedSequences)
        var doomed: [RetentionDecision] = []
        operate(id, { [self] in
            let situation = RetentionSituation(isBeside: !isCommitting, standing: given.standing)
            doomed = Retention.decide(retainable(given), rules, situation).filter { !$0.isKept }
            return .next
        }, { [self] in
            for gone in doomed {
                if isCommitting { world.removing(gone.sequence) }
                for key in disk.files.entries.keys where key.save == gone.save {
                    disk.files.remove(key)
                    if !gone.isCommitted { disk.retired.insert(key) }
                }
                guard gone.isCommitted else { continue }
                disk.steps.remove(gone.sequence)
                disk.removed.insert(gone.sequence)
                world.mark(.retentionRemoved)
            }
            return .reply(.removed(id: id, doomed))
        })
    }

    private func retainable(_ given: RetentionGiven) -> [RetentionStep] {
        func step(_ save: SaveID, _ sequence: CommitSequence, isCommitted: Bool, isOrdered: Bool = true) -> RetentionStep {
            let isHeld = given.protectedSaves.contains(save) || given.protectedSequences.contains(sequence)
            return RetentionStep(StepSummary(step: save.step, sequence: sequence, save: save, parent: nil, worldSize: 1, bytes: 0, pinned: false, superseded: false, savedAt: ""),
                                 isCommitted: isCommitted, isOrdered: isOrdered, hold: isHeld ? .restoring : nil)
        }
        let decided = all(disk.decisions)
        let committed = decided.compactMap { save, decision in decision.sequence.map { step(save, $0, isCommitted: true) } }
            .filter { step in isCommitting ? disk.steps[step.summary.sequence] != nil : disk.files.entries.keys.contains { $0.save == step.summary.save } }
        guard !isCommitting else { return committed }
        // Beside: saves that were to go no further.
        let ends = disk.files.entries.filter { world.settings.finalLevel($0.value.value.upto) != .committed && disk.decisions[$0.key.save] == nil && !given.protectedSaves.contains($0.key.save) }
        return committed + Dictionary(grouping: ends, by: \.key.save).map { save, files in
            let count = files.lazy.compactMap(\.value.value.count).first
            return step(save, CommitSequence(attempt: save.attempt, count: count ?? 0), isCommitted: false, isOrdered: count != nil)
        }
    }
}
