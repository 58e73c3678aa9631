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
            record = SaveRecord(found: file, key: key, finalLevel: world.settings.finalLevel(file.foundUpto), now: world.now)
            if promotions.contains(SaveID(attempt: key.save.attempt, step: key.save.step, attemptTry: 0)) { record.promoting = .committed }
            recordsByKey[key] = record
        }
        if notice.level == record.level, notice.level != .failed, !record.ended { return world.told(self, notice) }   // progress
        // It goes further than it was to: as far as is told, until the promotion's own answer says how far.
        if record.ended || notice.level > record.finalLevel, let raised = record.promoting, notice.level > record.level {
            record.finalLevel = notice.level == .local ? min(raised, world.settings.finalLevel(.local)) : raised
        }
        if record.ended, notice.level != record.level { return world.fail("I4: \(key) ended as \(record.level) and is then told \(notice.level)") }
        if record.level == .failed { return world.fail("I4: \(key) is told twice that it failed") }
        if notice.level < record.level { world.fail("I4: \(key) goes back from \(record.level) to \(notice.level)") }
        let before = record.level
        record.level = notice.level
        let decision = world.disk.decisions[key.save].flatMap { $0.token == nil || $0.token == record.token ? $0 : nil }
        let isCommitted = decision?.sequence != nil
        world.ledger(record, at: self)
        switch notice.level {
        case .accepted: break
        case .staged:
            if record.staged.count != record.chunkCount { world.fail("I1: \(key) is told staged with \(record.staged.count) of \(record.chunkCount) chunks") }
            if record.memoryChanged { world.fail("I13: \(key) is told staged though its memory changed before") }
            world.mark(record.isHeld ? .heldStaged : .toldStaged)
            if let session = record.session, record.source != nil, sessions[session] == nil { world.mark(.heldSealedAfterDeath) }
        case .local:
            // Retention may have taken it just now: of what ended before, or is older than what it keeps.
            if !localDisk.retired.contains(key), !isDurable(key, record.token, anywhere: true), !isCommitted { world.fail("I1: \(key) is told local but is published nowhere, or not synced") }
            world.mark(.toldLocal)
        case .global:
            if !isDurable(key, record.token, anywhere: false), !isCommitted { world.fail("I1: \(key) is told global but is not on the committing tier, or not synced") }
            world.mark(.toldGlobal)
        case .committed:
            if !isCommitted { world.fail("I1: \(key) is told committed but the decision is \(String(describing: decision))") }
            if !world.disk.decisions.isSynced(key.save) { world.fail("I1: \(key) is told committed but the decision is not synced") }
            if let sequence = decision?.sequence, world.disk.steps[sequence] == nil, !world.disk.removed.contains(sequence) {
                world.fail("I2: \(key) is told committed but there is no folder of step \(sequence)")
            }
            world.mark(.toldCommitted)
        case .failed:
            if record.isHeld, before >= .staged { world.mark(.heldEnded) }
            if record.source != nil, record.isAnswered, notice.reason?.hasPrefix("rank \(notice.rank)'s session ended") == true {
                world.fail("I1: \(key) was sealed and does not survive its rank's end")
            }
            if !record.isHeld, record.staged.count == record.chunkCount, before >= .staged, notice.reason?.hasPrefix("rank \(notice.rank)'s session ended") == true, !record.memoryChanged {
                world.fail("I1: \(key) was told \(before) and does not survive its rank's end: \(notice.reason ?? "")")
            }
            let isDamaged = world.disk.damaged.contains(key.save) && notice.reason?.hasPrefix("what decides on it is damaged") == true
            if isDamaged { world.mark(.endedByDamage) }
            if isCommitted, !isDamaged { world.fail("I11: \(key) is told failed (\(notice.reason ?? "")) though its save is committed") }
            // Of a rank's own part that failed before its manifest could exist no file needs to speak.
            if record.finalLevel == .committed, decision == nil, world.disk.files[key]?.token == record.token {
                world.fail("I11: \(key) is told failed (\(notice.reason ?? "")) though its manifest stands and no file decides")
            }
            if record.finalLevel == .committed { world.toldFailed.insert(Told(key: key, token: record.token)) }
            world.failures += 1
            world.mark(.toldFailed)
        }
        if record.ended, notice.level < .committed { world.mark(.lowerLevelEnded) }
        world.told(self, notice)
    }

    private func isDurable(_ key: RankSaveKey, _ token: String, anywhere: Bool) -> Bool {
        func stands(_ disk: ModelDisk) -> Bool { disk.files[key]?.token == token && disk.files.isSynced(key) }
        return stands(world.disk) || (anywhere && stands(localDisk))
    }

    /// I1, I5: a slot is given to another chunk only when the former chunk is not needed any more.
    func checkEviction(of slot: Int) {
        guard let (handle, chunk) = pool.assigned[slot], let record = records[handle], record.staged.contains(chunk), record.level != .failed else { return }
        if record.isHeld {
            // One whose save has failed is over; slots that were given back before that are given out while it is cancelled.
            guard let sealed = record.sealed else { return world.fail("I1: slot \(slot) is given out while held save \(record.key) waits for its Seal") }
            if let source = sealed.source, let chunk = source.needs.indices.first(where: { source.needs[$0].contains(chunk) && !sealed.staged.contains($0) }) {
                world.fail("I5: slot \(slot) is given out while chunk \(chunk) of \(sealed.key) is still to be made of it")
            }
            return
        }
        world.mark(.evicted)
        if isSynced(record.key, chunk) || world.disk.decisions[record.key.save] != nil || isGivenUp(record.key.save) { return }
        // Told local and published; what it holds beyond that is retention's.
        if record.finalLevel == .local, record.level == .local { return }
        // Retention took its local file before it was promoted: it fails when it is read back.
        if localDisk.retired.contains(record.key) { return }
        if record.finalLevel == .staged, record.level == .staged {
            // Memory only: kept until a newer save of this rank is staged.
            let newer = recordsByKey.values.contains {
                $0.key.rank == record.key.rank && !$0.isHeld && $0.level >= .staged && $0.level != .failed && ($0.key.save.attempt, $0.handle ?? 0) > (record.key.save.attempt, handle)
            }
            // Or until another rank's part has failed: the save is whole nowhere.
            let lost = recordsByKey.values.contains { $0.key.save == record.key.save && $0.level == .failed }
            if newer || lost { return }
        }
        world.fail("I1: slot \(slot) is given out while it holds the only copy of \(record.key) chunk \(chunk), told \(record.level)")
    }

    /// Nobody needs the chunks of a save that is to be void: only the decision file can still say otherwise.
    private func isGivenUp(_ save: SaveID) -> Bool {
        engine.saveReports(run: world.settings.run).contains { $0.save == save && $0.reason != nil } || recordsByKey.values.contains { $0.key.save == save && $0.level == .failed }
    }

    private func isSynced(_ key: RankSaveKey, _ chunk: Int) -> Bool {
        if localDisk.files.isSynced(key) || world.disk.files.isSynced(key) { return true }
        return workers.values.contains { worker in worker.files.values.contains { $0.key == key && $0.synced.contains(chunk) } }
    }

    /// I3 is the tier worker's; the engine must name what it may not take: saves not ended, and what a restore names.
    func checkRetention(_ tier: Tier, _ saves: [SaveID], _ sequences: [CommitSequence]) {
        for record in recordsByKey.values where !record.ended && !record.isHeld && record.level >= .accepted && !saves.contains(record.key.save) {
            if world.disk.decisions[record.key.save]?.sequence != nil { continue }
            world.fail("I1: retention on the \(tier) tier does not protect \(record.key), told \(record.level)")
        }
        for rank in sessions.values where rank.alive && rank.job.number == world.newestNumber {
            guard let chosen = rank.restoring ?? rank.job.parent else { continue }
            // A choice that stands in no file of a disk that is there is forgotten by a restart.
            let isWritten = world.disk.choices.entries.contains { $0.key.attempt == rank.job.number && $0.value.value?.sequence == chosen }
            if isWritten, !sequences.contains(chosen) { world.fail("I3: retention on the \(tier) tier does not protect \(chosen), which a restore names") }
        }
    }
}
