// One file decides. A commit is a link, a sync, then the folder's last name: whoever sees the decision does what is left of it.
import CairnEngine
import CairnMessages
import CairnModel

extension TierModel {
    func decide(_ id: Int, _ save: SaveID, _ worldSize: Int, _ participants: [Int]?, _ parent: CommitSequence?) {
        var own = false
        let members = participants ?? Array(0..<worldSize)
        operate(id, { [self] in
            if isUnreadable(save) { return .failed(.corrupt) }
            if let standing = see(disk.decisions, save) { return after(standing, save) }
            let missing = members.filter { see(disk.files, disk.key(save, $0)) == nil }
            guard missing.isEmpty else { return .reply(.missing(id: id, ranks: missing)) }
            return .next
        }, { [self] in
            let decision = decision(save, members, worldSize, participants, parent)
            own = disk.decisions[save] == nil
            if link(disk.decisions, save, decision) {
                world.linked(decision, save, by: daemon)
            } else if let standing = disk.decisions[save], standing.sequence == nil, decision.sequence != nil {
                world.mark(.commitMetVoid)
            }
            return .next
        }, { [self] in
            disk.decisions.sync(save)
            return .next
        }, { [self] in
            guard let standing = disk.decisions[save] else { return .failed(.io) }
            if !own, isUnreadable(save) { return .failed(.corrupt) }
            complete(save, standing)
            if standing.sequence != nil { voidSkipped(by: save, members) }
            return .reply(.decision(id: id, standing.outcome))
        })
    }

    private func after(_ standing: Decision, _ save: SaveID) -> Result {
        if standing.sequence != nil, disk.steps[standing.sequence ?? CommitSequence(attempt: 0, count: 0)] == nil { world.mark(.commitCompletedByAnother) }
        return .next
    }

    /// Of manifests that are all there: a commit, unless they do not fit together.
    private func decision(_ save: SaveID, _ members: [Int], _ worldSize: Int, _ participants: [Int]?, _ parent: CommitSequence?) -> Decision {
        let parts = members.compactMap { disk.files[disk.key(save, $0)] }
        guard parts.count == members.count, let first = parts.first else { return .void("its folder is gone") }
        guard parts.allSatisfy({ $0.participants == participants }) else { return .void("its manifests name other participants") }
        guard let count = first.count else { return .void("rank 0's manifest has no count") }
        return Decision(outcome: .committed(sequence: CommitSequence(attempt: save.attempt, count: count)), parent: first.parent ?? parent, worldSize: worldSize,
                        participants: participants, token: first.token)
    }

    /// Damaged, and no step's folder has a copy of it. Who linked it has its bytes.
    func isUnreadable(_ save: SaveID) -> Bool {
        guard disk.damaged.contains(save), let standing = see(disk.decisions, save) else { return false }
        guard let sequence = standing.sequence, disk.steps[sequence] == save else { return true }
        world.mark(.decisionReadFromCopy)
        return false
    }

    /// What is left to do of a decision that stands: synced, then the step's name.
    func complete(_ save: SaveID, _ decision: Decision) {
        disk.decisions.sync(save)
        guard let sequence = decision.sequence, disk.steps[sequence] == nil, disk.isWhole(save, members: decision.members) else { return }
        _ = link(disk.steps, sequence, save)
        disk.steps.sync(sequence)
        world.note("d\(node) \(tier): step \(save) is named \(sequence)")
    }

    /// A rank that went on to this save without an earlier one will never deliver that.
    private func voidSkipped(by save: SaveID, _ members: [Int]) {
        let folders = Set(all(disk.files).keys.map(\.save)).filter { $0.attempt == save.attempt && $0 < save && see(disk.decisions, $0) == nil }
        for rank in members {
            guard let previous = disk.files[disk.key(save, rank)]?.previous else { continue }
            for earlier in folders.sorted() where previous < earlier && disk.files[disk.key(earlier, rank)] == nil {
                let takesPart = disk.files.entries.first { $0.key.save == earlier }?.value.value.members.contains(rank) ?? true
                let void = Decision.void("rank \(rank) saved \(save) without it")
                guard takesPart, link(disk.decisions, earlier, void) else { continue }
                disk.decisions.sync(earlier)
                world.mark(.voidedByPrevious)
                world.linked(void, earlier, by: daemon)
            }
        }
    }

    func void(_ id: Int, _ save: SaveID, _ reason: String) {
        var own = false
        operate(id, { [self] in
            let decision = Decision.void(reason)
            own = disk.decisions[save] == nil
            if link(disk.decisions, save, decision) { world.linked(decision, save, by: daemon) }
            if let standing = disk.decisions[save], standing.sequence != nil { world.mark(.voidMetCommit) }
            return .next
        }, { [self] in
            guard let standing = disk.decisions[save] else { return .failed(.io) }
            if !own, isUnreadable(save) { return .failed(.corrupt) }
            complete(save, standing)
            return .reply(.decision(id: id, standing.outcome))
        })
    }

    func look(_ id: Int, _ save: SaveID, _ members: [Int], lists: Bool) {
        operate(id) { [self] in
            if isUnreadable(save) { return .failed(.corrupt) }
            if let decision = see(disk.decisions, save) {
                complete(save, decision)
                return .reply(.decision(id: id, decision.outcome))
            }
            return .reply(.missing(id: id, ranks: lists ? members.filter { see(disk.files, disk.key(save, $0)) == nil } : nil))
        }
    }

    /// Beside: main has the record from the reply that told it. A void one's files go.
    func recordDecision(_ id: Int, _ save: SaveID) {
        guard let decision = world.disk.decisions[save] else { return world.fail("I1: a decision on \(save) is recorded that nobody made") }
        operate(id, writes: true, { [self] in
            _ = link(disk.decisions, save, decision)
            if decision.sequence == nil { for key in disk.files.entries.keys where key.save == save { disk.files.remove(key) } }
            return .next
        }, { [self] in
            disk.decisions.sync(save)
            return .reply(.done(id: id))
        })
    }
}
