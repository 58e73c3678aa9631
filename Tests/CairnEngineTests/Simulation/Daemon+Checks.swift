// What must hold after each action of the engine, compared with the simulation's own memory of disks, slots and saves.
import CairnEngine
import CairnMessages
import CairnModel

extension Daemon {
    /// I4, I1, I11, I13: what is told is true, and each accepted save ends once.
    func checkNotice(_ notice: Notice) {
        let key = RankSaveKey(run: notice.run, save: notice.save, rank: notice.rank)
        let record: SaveRecord
        if let known = recordsByKey[key] {
            record = known
        } else {
            guard let file = localDisk.files[key] ?? world.disk.files[key] else { return world.fail("I4: \(key) is told \(notice.level) but was never accepted") }
            record = SaveRecord(key: key, handle: nil, upto: .committed, finalLevel: .committed, fileBytes: file.fileBytes, nonce: file.chunks[0].nonce,
                                acceptedAt: world.now, session: nil, recovered: true)
            recordsByKey[key] = record
        }
        if notice.level == record.level, notice.level != .failed, !record.ended { return world.told(self, notice) }   // progress
        if record.ended, notice.level != record.level { return world.fail("I4: \(key) ended as \(record.level) and is then told \(notice.level)") }
        if record.level == .failed { return world.fail("I4: \(key) is told twice that it failed") }
        if notice.level < record.level { world.fail("I4: \(key) goes back from \(record.level) to \(notice.level)") }
        record.level = notice.level
        let decision = world.disk.decisions[key.save]
        switch notice.level {
        case .accepted: break
        case .staged:
            if record.staged.count != record.chunkCount { world.fail("I1: \(key) is told staged with \(record.staged.count) of \(record.chunkCount) chunks") }
            if record.memoryChanged { world.fail("I13: \(key) is told staged though its memory changed before") }
        case .local:
            if localDisk.files[key] == nil, world.disk.files[key] == nil, !isCommitted(decision) { world.fail("I1: \(key) is told local but is published nowhere") }
        case .global:
            if world.disk.files[key] == nil, !isCommitted(decision) { world.fail("I1: \(key) is told global but is not on the committing tier") }
        case .committed:
            if !isCommitted(decision) { world.fail("I1: \(key) is told committed but the decision is \(String(describing: decision))") }
        case .failed:
            if isCommitted(decision) { world.fail("I11: \(key) is told failed (\(notice.reason ?? "")) though its save is committed") }
            if record.finalLevel == .committed { world.toldFailed.insert(key) }
            world.failures += 1
        }
        world.told(self, notice)
    }

    private func isCommitted(_ decision: DecisionOutcome?) -> Bool { if case .committed? = decision { true } else { false } }

    /// I1, I5: a slot is given to another chunk only when the former chunk is not needed any more.
    func checkEviction(of slot: Int) {
        guard let (handle, chunk) = pool.assigned[slot], let record = records[handle], record.staged.contains(chunk), record.level != .failed else { return }
        if isSynced(record.key, chunk) || world.disk.decisions[record.key.save] != nil || isGivenUp(record.key.save) { return }
        if record.finalLevel == .staged, record.level == .staged {
            // Memory only: kept until a newer save of this rank is staged.
            let newer = recordsByKey.values.contains {
                $0.key.rank == record.key.rank && $0.level >= .staged && $0.level != .failed && ($0.key.save.attempt, $0.handle ?? 0) > (record.key.save.attempt, handle)
            }
            // Or until another rank's part has failed: the save is whole nowhere.
            let lost = recordsByKey.values.contains { $0.key.save == record.key.save && $0.level == .failed }
            if newer || lost { return }
        }
        world.fail("I1: slot \(slot) is given out while it holds the only copy of \(record.key) chunk \(chunk), told \(record.level)")
    }

    /// Nobody needs the chunks of a save that is to be void: only the decision file can still say otherwise.
    private func isGivenUp(_ save: SaveID) -> Bool { engine.saveReports(run: world.settings.run).contains { $0.save == save && $0.reason != nil } }

    private func isSynced(_ key: RankSaveKey, _ chunk: Int) -> Bool {
        if localDisk.files[key] != nil || world.disk.files[key] != nil { return true }
        return workers.values.contains { worker in worker.files.values.contains { $0.key == key && $0.synced.contains(chunk) } }
    }

    /// I3 is the tier worker's; the engine must name what it may not take: saves not ended, and what a restore names.
    func checkRetention(_ tier: Tier, _ saves: [SaveID], _ sequences: [CommitSequence]) {
        for record in recordsByKey.values where !record.ended && record.level >= .accepted && !saves.contains(record.key.save) {
            if case .committed? = world.disk.decisions[record.key.save] { continue }
            world.fail("I1: retention on the \(tier) tier does not protect \(record.key), told \(record.level)")
        }
        for rank in sessions.values where rank.alive {
            // A choice that was made while the committing tier was down stands in no file: a restart forgets it.
            guard let chosen = rank.restoring ?? rank.job.parent, world.disk.choices[RestoreName(attempt: rank.job.number, restore: 1)] != nil,
                  world.disk.choices.contains(where: { $0.key.attempt == rank.job.number && $0.value?.sequence == chosen }) else { continue }
            if !sequences.contains(chosen) { world.fail("I3: retention on the \(tier) tier does not protect \(chosen), which a restore names") }
        }
    }
}
