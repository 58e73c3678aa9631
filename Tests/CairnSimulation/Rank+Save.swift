// Train and save; waits and promotions.
import CairnEngine
import CairnMessages
import CairnModel

extension Rank {
    func train() {
        let lags = world.random.once(in: 30) && world.may(.lag)
        later(lags ? 2_500 : world.settings.stepMs) { $0.save() }
    }

    private func save() {
        guard session != nil, daemon.up else { return }
        guard step < lastStep else { return }
        step += 1
        if world.random.once(in: 40), world.may(.missedSave) { world.mark(.rankMissedSave); return train() }
        if job.refuser == rank, world.faults { world.mark(.rankRefused); return train() }
        if step == lastStep, job.missesLastSave(rank) { return train() }
        if let participants = job.participants(step), !participants.contains(rank) { return train() }
        if world.random.once(in: 4), world.may(.holding) { return hold() }
        let record = newRecord()
        ask(record)
        if world.random.once(in: 25), world.may(.hangUp) { later(60) { $0.giveUp(record) } }
        if world.random.once(in: 8) { wait(record) }
    }

    func newRecord(chunks wanted: Int? = nil) -> SaveRecord {
        let attemptTry = tries[step, default: 0] + 1
        tries[step] = attemptTry
        let upto = job.upto(step), chunks = wanted ?? job.chunks(rank, step)
        let key = RankSaveKey(run: world.settings.run, save: SaveID(attempt: job.number, step: step, attemptTry: attemptTry), rank: rank)
        let record = SaveRecord(key: key, handle: daemon.newHandle(), upto: upto, finalLevel: world.settings.finalLevel(upto),
                                fileBytes: (chunks - 1) * Sizes.chunkBytes + 4096, nonce: world.newNonce(), acceptedAt: world.now, session: session, recovered: false,
                                token: job.token, worldSize: job.worldSize, participants: job.participants(step), parent: job.parent)
        // It joins a save that other ranks' parts take further: promoted, or found on the local tier since.
        let others = daemon.recordsByKey.values.filter { $0.key.save == key.save && $0.level != .failed }.map(\.finalLevel).max()
        if let others, others > record.finalLevel { record.promoting = others }
        if daemon.promotions.contains(SaveID(attempt: job.number, step: step, attemptTry: 0)) { record.promoting = .committed }
        record.eager = Set([0] + (0..<chunks).filter { _ in world.random.once(in: 4) })
        return record
    }

    func ask(_ record: SaveRecord, sealing: Sealing? = nil) {
        guard let session, let handle = record.handle else { return }
        let random = world.random.once(in: 2), waits = record.rankChunks.map { !$0.isEmpty } ?? random
        let key = record.key, life = daemon.life, step = step
        daemon.records[handle] = record
        daemon.recordsByKey[key] = record
        let call = daemon.call(self, atOnce: { if case .saved = $0 { record.isAnswered = true } }) { [self] answer in
            guard case .saved = answer else {
                if record.level == .accepted, !daemon.engine.knows(handle: handle) { daemon.forgetRefused(record) }
                fence = nil
                guard answer.isNotOpen else { return record.level == .failed ? again(step) : train() }
                drop()
                return later(100) { $0.open() }
            }
            if waits, !record.eager.isSubset(of: record.staged), record.level != .failed { world.fail("I13: save \(key) was answered before its eager chunks were staged") }
        }
        fence = key.save
        if sealing == nil { record.streamedFrom = streamedFrom(record) }
        daemon.deliver(.save(SaveRequest(
            call: call, session: session, handle: handle, step: step, attemptTry: key.save.attemptTry, upto: record.upto,
            staging: BeginStaging(handle: handle, session: session, layout: 1, dataStart: 4096, fileBytes: record.fileBytes, objects: []),
            eagerChunks: record.eager.sorted(), waitsForEager: waits, participants: record.participants, sealing: sealing, streamedFrom: record.streamedFrom)))
        stream(record)
        if daemon.life == life, !daemon.engine.knows(handle: handle), record.level == .accepted { daemon.forgetRefused(record) }
    }

    /// The same step once more, under its next try.
    private func again(_ step: Int) {
        if job.retries, tries[step, default: 0] < 3, self.step == step { self.step = step - 1 }
        train()
    }

    private func wait(_ record: SaveRecord) {
        guard session != nil else { return }
        let key = record.key
        let call = daemon.call(self, atOnce: { [self] answer in
            guard case .waited(let level, _) = answer else { return }
            world.mark(.waitAnswered)
            let decision = world.disk.decisions[key.save]
            if level == .committed, decision?.sequence == nil { world.fail("I1: a wait for \(key) is told committed but the decision is \(String(describing: decision))") }
            if level == .failed, decision?.sequence != nil, decision?.token == record.token, !world.disk.damaged.contains(key.save) { world.fail("I11: a wait for \(key) is told failed though it is committed") }
        }) { _ in }
        daemon.deliver(.wait(call: call, run: key.run, save: key.save, rank: rank, level: world.random.pick([.staged, .local, .committed]), deadline: world.now + 5_000 * World.ms))
    }

    func told(_ notice: Notice) {
        guard alive else { return }
        if notice.save.attemptTry == 0 { return toldHeld(notice) }
        if notice.level == .local || notice.level == .staged, job.promotes(notice.save.step) { later(600) { $0.promote(notice.save) } }
        guard let fence, fence == notice.save, notice.level >= .staged else { return }
        self.fence = nil
        notice.level == .failed ? again(notice.save.step) : train()
    }

    /// What ended short of it is to be committed after all: every rank's part of the step's newest save that is still here.
    private func promote(_ save: SaveID) {
        guard let session, daemon.up else { return }
        let daemon = daemon, attempt = job.number
        // Which try the engine takes depends on what it still knows: the newest of what is here.
        func parts() -> [SaveRecord] {
            daemon.recordsByKey.values.filter { $0.key.save.attempt == attempt && $0.key.save.step == save.step && $0.level != .failed && !$0.isHeld }
        }
        for part in parts() where part.finalLevel != .committed { part.promoting = .committed }
        daemon.promotions.insert(SaveID(attempt: attempt, step: save.step, attemptTry: 0))
        let call = daemon.call(self, atOnce: { [self] answer in
            guard case .promoted = answer else { return }
            world.mark(.promoted)
            // A part that has left the pool and stands on no disk ended where it was; so did one that came after its save was void and forgotten.
            let isVoid = parts().reduce(into: Set<SaveID>()) { if let decision = world.disk.decisions[$1.key.save], decision.sequence == nil { $0.insert($1.key.save) } }
            let held = parts().filter { !isVoid.contains($0.key.save) && daemon.holds($0.key) || !$0.ended }, newest = held.map(\.key.save).max()
            for part in held where part.key.save == newest && part.finalLevel != .committed {
                part.finalLevel = .committed
                world.ledger(part, at: daemon)
            }
        }) { _ in }
        daemon.deliver(.promote(call: call, session: session, step: save.step, level: .committed))
    }
}
