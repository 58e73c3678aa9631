// What a tier worker of the simulation does about attempts, decisions, restores, scans and retention.
import CairnEngine
import CairnMessages
import CairnModel

extension TierModel {
    func decideOrChoose(_ request: TierRequest) {
        guard let disk = committing else { return world.fail("the \(tier) tier is not asked for \(request)") }
        switch request {
        case .numberAttempt(let id, _, let token, _):
            operate(id, writes: false) {
                if disk.attempts[token] == nil { disk.attempts[token] = disk.attempts.count + 1 }
                return .reply(.attempt(id: id, number: disk.attempts[token]))
            }
        case .findAttempt(let id, _, let token): operate(id, writes: false) { .reply(.attempt(id: id, number: disk.attempts[token])) }
        case .decide(let id, let run, let save, let worldSize, let parent):
            operate(id, writes: false) { [self] in
                if let outcome = disk.decisions[save] { return .reply(.decision(id: id, outcome)) }
                let missing = disk.missingRanks(run, save, worldSize: worldSize)
                guard missing.isEmpty else { return .reply(.missing(id: id, ranks: missing)) }
                return .reply(.decision(id: id, commit(disk, run, save, worldSize, parent)))
            }
        case .void(let id, _, let save, let reason):
            operate(id, writes: false) { [self] in
                if let outcome = disk.decisions[save] { return .reply(.decision(id: id, outcome)) }
                disk.decisions[save] = .void(reason: reason)
                world.note("d\(daemon.index) \(tier): void \(save): \(reason)")
                return .reply(.decision(id: id, .void(reason: reason)))
            }
        case .look(let id, let run, let save, let worldSize):
            operate(id, writes: false) {
                if let outcome = disk.decisions[save] { return .reply(.decision(id: id, outcome)) }
                return .reply(.missing(id: id, ranks: disk.missingRanks(run, save, worldSize: worldSize)))
            }
        case .choose(let id, _, let attempt, let restore, let step, let candidate):
            operate(id, writes: false) { [self] in choose(disk, id, RestoreName(attempt: attempt, restore: restore), step, candidate) }
        case .readChoice(let id, _, let attempt, let restore):
            operate(id, writes: false) { [self] in .reply(choice(disk, id, RestoreName(attempt: attempt, restore: restore))) }
        case .settled(let id, _, let attempt, let restore, let ranks, let ok, _):
            operate(id, writes: false) {
                for rank in ranks { disk.settled[RestoreName(attempt: attempt, restore: restore), default: [:]][rank] = ok }
                return .reply(.done(id: id))
            }
        case .verdict(let id, _, let attempt, let restore, let worldSize, let publish, let force):
            operate(id, writes: false) {
                let name = RestoreName(attempt: attempt, restore: restore), settled = disk.settled[name] ?? [:]
                if disk.verdicts[name] == nil, publish {
                    if settled.values.contains(false) || (force && settled.count < worldSize) { disk.verdicts[name] = false }
                    else if settled.count == worldSize { disk.verdicts[name] = true }
                }
                return .reply(.verdict(id: id, ok: disk.verdicts[name], reason: nil))
            }
        default: world.fail("the simulation knows no request \(request)")
        }
    }

    private func commit(_ disk: CommittingDisk, _ run: RunKey, _ save: SaveID, _ worldSize: Int, _ parent: CommitSequence?) -> DecisionOutcome {
        for rank in 0..<worldSize {
            let key = RankSaveKey(run: run, save: save, rank: rank)
            if world.toldFailed.contains(key) { world.fail("I11: \(save) is committed though rank \(rank) was told that it failed") }
        }
        guard let count = disk.files[RankSaveKey(run: run, save: save, rank: 0)]?.count else {
            world.fail("I11: \(save) is committed but rank 0's manifest has no count")
            return .void(reason: "no count")
        }
        let sequence = CommitSequence(attempt: save.attempt, count: count)
        if let other = disk.everCommitted[sequence] { world.fail("I11: sequence \(sequence) is given to \(other) and to \(save)") }
        disk.decisions[save] = .committed(sequence: sequence)
        disk.committed[sequence] = save
        disk.everCommitted[sequence] = save
        disk.parents[sequence] = parent
        world.commits += 1
        world.note("d\(daemon.index) \(tier): committed \(save) as \(sequence)")
        return .committed(sequence: sequence)
    }

    private func choice(_ disk: CommittingDisk, _ id: Int, _ name: RestoreName) -> TierReply {
        guard let chosen = disk.choices[name] else { return .choice(id: id, chosen: false, step: nil, sequence: nil, save: nil, level: nil) }
        return .choice(id: id, chosen: true, step: chosen?.step, sequence: chosen?.sequence, save: chosen?.save, level: chosen?.level)
    }

    private func choose(_ disk: CommittingDisk, _ id: Int, _ name: RestoreName, _ step: Int?, _ candidate: Candidate?) -> Result {
        if disk.choices[name] == nil {
            let tried = disk.choices.filter { $0.key.attempt == name.attempt && $0.key.restore < name.restore }.compactMap { $0.value?.sequence }.min()
            let known = disk.committed.map { Candidate(step: $1.step, sequence: $0, save: $1, level: .committed) } + (candidate.map { [$0] } ?? [])
            let best = known.filter { one in tried.map { one.sequence < $0 } ?? true }.filter { step == nil || $0.step == step }
                .max { $0.sequence < $1.sequence }
            disk.choices[name] = .some(best)
            world.note("d\(daemon.index): restore \(name) chooses \(best.map { "\($0.sequence) \($0.level)" } ?? "nothing")")
        }
        return .reply(choice(disk, id, name))
    }

    func scan() -> [FoundRankSave] {
        disk.files.sorted { ($0.key.save, $0.key.rank) < ($1.key.save, $1.key.rank) }.map { key, file in
            FoundRankSave(key: key, step: key.save.step, worldSize: file.worldSize, fileBytes: file.fileBytes, count: file.count,
                          decision: disk.decisions[key.save])
        }
    }

    func steps() -> [StepSummary] {
        disk.decisions.compactMap { save, outcome -> StepSummary? in
            guard case .committed(let sequence) = outcome else { return nil }
            return StepSummary(step: save.step, sequence: sequence, save: save, parent: nil, worldSize: world.settings.worldSize, bytes: 0, pinned: false,
                               superseded: false, savedAt: "")
        }.sorted { $0.sequence < $1.sequence }
    }

    func recordDecision(_ id: Int, _ save: SaveID) {
        operate(id, writes: true) { [self] in
            disk.decisions[save] = world.disk.decisions[save]
            return .reply(.done(id: id))
        }
    }

    func retain(_ id: Int, _ run: RunKey, _ keep: Int?, _ saves: [SaveID], _ sequences: [CommitSequence]) {
        daemon.checkRetention(tier, saves, sequences)
        operate(id, writes: false) { [self] in
            let committed = disk.decisions.compactMap { save, outcome -> (CommitSequence, SaveID)? in
                guard case .committed(let sequence) = outcome, disk.files.keys.contains(where: { $0.save == save }) else { return nil }
                return (sequence, save)
            }.sorted { $0.0 > $1.0 }
            var removed: [CommitSequence] = []
            for (sequence, save) in committed.dropFirst(max(1, keep ?? Int.max)) where !saves.contains(save) && !sequences.contains(sequence) {
                for key in disk.files.keys where key.save == save { disk.files[key] = nil }
                disk.committed[sequence] = nil
                removed.append(sequence)
            }
            return .reply(.removed(id: id, removed))
        }
    }
}
