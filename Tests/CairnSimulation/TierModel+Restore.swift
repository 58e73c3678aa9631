// Restores by agreement: one choice and one verdict each, by link; and what is listed for them.
import CairnEngine
import CairnMessages
import CairnModel

extension TierModel {
    func choose(_ id: Int, _ name: RestoreName, _ step: Int?, _ candidate: Candidate?) {
        operate(id, { [self] in
            let best = best(name, step, candidate)
            if link(disk.choices, name, best) {
                world.chose(best, name, at: self)
                world.note("d\(node): restore \(name.attempt).\(name.restore) chooses \(best.map { "\($0.sequence) \($0.level)" } ?? "nothing") on the \(tier) tier")
            }
            return .next
        }, { [self] in
            disk.choices.sync(name)
            return .reply(choice(id, name))
        })
    }

    /// The newest, or the newest of `step`, older than what failed since a good restore; never one that a later line left behind.
    private func best(_ name: RestoreName, _ step: Int?, _ candidate: Candidate?) -> Candidate? {
        var tried: CommitSequence?
        for restore in stride(from: name.restore - 1, to: 0, by: -1) {
            let earlier = RestoreName(attempt: name.attempt, restore: restore)
            if disk.verdicts[earlier] == true { break }
            guard let sequence = disk.choices[earlier]??.sequence else { continue }
            tried = min(tried ?? sequence, sequence)
        }
        let known = summaries().filter { step == nil ? !$0.superseded : $0.step == step }
            .map { Candidate(step: $0.step, sequence: $0.sequence, save: $0.save, level: .committed) } + (candidate.map { [$0] } ?? [])
        return known.filter { one in tried.map { one.sequence < $0 } ?? true }.max { $0.sequence < $1.sequence }
    }

    func readChoice(_ id: Int, _ name: RestoreName) {
        operate(id) { [self] in
            guard see(disk.choices, name) != nil else { return .reply(.choice(id: id, chosen: false, step: nil, sequence: nil, save: nil, level: nil)) }
            disk.choices.sync(name)
            return .reply(choice(id, name))
        }
    }

    private func choice(_ id: Int, _ name: RestoreName) -> TierReply {
        let chosen = disk.choices[name] ?? nil
        return .choice(id: id, chosen: true, step: chosen?.step, sequence: chosen?.sequence, save: chosen?.save, level: chosen?.level)
    }

    func settled(_ id: Int, _ first: NodeName, _ ranks: [Int], _ ok: Bool) {
        var name = first
        operate(id, { [self] in
            var told: Set<Int> = []
            repeat {
                if link(disk.settled, name, Dictionary(uniqueKeysWithValues: ranks.map { ($0, ok) })) { return .next }
                told.formUnion((disk.settled[name] ?? [:]).keys)
                disk.settled.sync(name)
                name.part += 1
            } while !told.isSuperset(of: ranks)
            return .next
        }, { [self] in
            disk.settled.sync(name)
            return .reply(.done(id: id))
        })
    }

    func verdict(_ id: Int, _ name: RestoreName, _ worldSize: Int, publish: Bool, force: Bool) {
        operate(id, { [self] in
            if see(disk.verdicts, name) != nil || !publish { return .next }
            var settled: [Int: Bool] = [:]
            for (node, ranks) in all(disk.settled) where node.attempt == name.attempt && node.restore == name.restore {
                settled.merge(ranks) { $0 && $1 }
            }
            if settled.values.contains(false) || (force && settled.count < worldSize) { _ = link(disk.verdicts, name, false) }
            else if settled.count == worldSize { _ = link(disk.verdicts, name, true) }
            return .next
        }, { [self] in
            if disk.verdicts[name] != nil, publish || see(disk.verdicts, name) != nil {
                disk.verdicts.sync(name)
                if !isCommitting { world.mark(.settledBeside) }
                return .reply(.verdict(id: id, ok: disk.verdicts[name], reason: nil))
            }
            return .reply(.verdict(id: id, ok: nil, reason: nil))
        })
    }

    /// Committing: named steps. Beside: saves with a commit's copy, where every part of them is here.
    func summaries() -> [StepSummary] {
        let steps: [(SaveID, Decision)] = isCommitting
            ? all(disk.steps).values.compactMap { save in disk.decisions[save].map { (save, $0) } }
            : all(disk.decisions).filter { disk.isWhole($0.key, members: $0.value.members) }.map { ($0.key, $0.value) }
        return Lines.marked(steps.compactMap { save, decision in
            guard let sequence = decision.sequence else { return nil }
            return StepSummary(step: save.step, sequence: sequence, save: save, parent: decision.parent, worldSize: decision.worldSize, bytes: 0, pinned: false,
                               superseded: false, savedAt: "")
        }.sorted { $0.sequence < $1.sequence })
    }
}

/// Which steps an older line of the job left behind, in the simulation's own words: everything between a parent and the first step of an
/// attempt that went back to it, along the newest step's line.
enum Lines {
    static func marked(_ steps: [StepSummary]) -> [StepSummary] {
        let superseded = superseded(steps)
        return steps.map { step in
            var step = step
            step.superseded = superseded.contains(step.sequence)
            return step
        }
    }
    static func superseded(_ steps: [StepSummary]) -> Set<CommitSequence> {
        var old: Set<CommitSequence> = []
        var position = steps.map(\.sequence).max()
        while let current = position {
            let ofAttempt = steps.filter { $0.sequence.attempt == current.attempt && $0.sequence <= current }
            guard let parent = ofAttempt.last?.parent ?? nil, parent < current else { break }
            let first = ofAttempt.filter { $0.parent == parent }.map(\.sequence).min() ?? current
            for step in steps where step.sequence > parent && step.sequence < first { old.insert(step.sequence) }
            position = parent
        }
        return old
    }
}
