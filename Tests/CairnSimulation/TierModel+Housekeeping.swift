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

    func retain(_ id: Int, _ keep: Int?, _ saves: [SaveID], _ sequences: [CommitSequence]) {
        daemon.checkRetention(tier, saves, sequences)
        var doomed: [(CommitSequence, SaveID)] = []
        operate(id, { [self] in
            let known = all(disk.decisions).compactMap { save, decision in decision.sequence.map { ($0, save) } }
                .filter { sequence, save in isCommitting ? disk.steps[sequence] != nil : disk.files.entries.keys.contains { $0.save == save } }
                .sorted { $0.0 > $1.0 }
            doomed = known.dropFirst(max(1, keep ?? Int.max)).filter { !saves.contains($0.1) && !sequences.contains($0.0) }
            return .next
        }, { [self] in
            for (sequence, save) in doomed {
                if isCommitting { world.removing(sequence) }
                for key in disk.files.entries.keys where key.save == save { disk.files.remove(key) }
                disk.steps.remove(sequence)
                disk.removed.insert(sequence)
                world.mark(.retentionRemoved)
            }
            retainUncommitted(keep, saves)
            return .reply(.removed(id: id, doomed.map(\.0)))
        })
    }

    /// Beside: saves that were to go no further keep a count of their own.
    private func retainUncommitted(_ keep: Int?, _ saves: [SaveID]) {
        guard !isCommitting, let keep else { return }
        let ends = Set(disk.files.entries.filter { world.settings.finalLevel($0.value.value.upto) != .committed && disk.decisions[$0.key.save] == nil }.keys.map(\.save))
        for save in ends.sorted(by: >).dropFirst(max(1, keep)) where !saves.contains(save) {
            for key in disk.files.entries.keys where key.save == save {
                disk.files.remove(key)
                disk.retired.insert(key)
            }
        }
    }
}
