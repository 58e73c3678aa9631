// Saves that are held: staged before they have a step, sealed a while later with less in them and something more, or never.
import CairnEngine
import CairnMessages
import CairnModel

extension Rank {
    func hold() {
        guard let session else { return }
        holds += 1
        let chunks = world.random.int(1...4), handle = daemon.newHandle(), life = daemon.life
        let key = RankSaveKey(run: world.settings.run, save: SaveID(attempt: job.number, step: holds, attemptTry: 0), rank: rank)
        let record = SaveRecord(key: key, handle: handle, upto: .staged, finalLevel: .committed, fileBytes: (chunks - 1) * Sizes.chunkBytes + 4096, nonce: world.newNonce(),
                                acceptedAt: world.now, session: session, recovered: false, token: job.token, worldSize: job.worldSize, participants: nil, parent: nil)
        record.isHeld = true
        record.eager = Set([0] + (0..<chunks).filter { _ in world.random.once(in: 2) })
        daemon.records[handle] = record
        daemon.recordsByKey[key] = record
        let call = daemon.call(self) { [self] answer in
            guard case .saved = answer else {
                if record.level == .accepted, !daemon.engine.knows(handle: handle) { daemon.forgetRefused(record) }
                let waited = fence == key.save
                if waited { fence = nil }
                guard answer.isNotOpen else { return waited ? saveAtOnce() : () }
                drop()
                return later(100) { $0.open() }
            }
        }
        fence = key.save
        daemon.deliver(.save(SaveRequest(
            call: call, session: session, handle: handle, step: 0, attemptTry: holds, upto: .staged,
            staging: BeginStaging(handle: handle, session: session, layout: 1, dataStart: 4096, fileBytes: record.fileBytes, objects: []),
            eagerChunks: record.eager.sorted(), waitsForEager: world.random.once(in: 2), isHeld: true)))
        if daemon.life == life, !daemon.engine.knows(handle: handle), record.level == .accepted { daemon.forgetRefused(record) }
        if world.random.once(in: 25), world.may(.hangUp) { later(60) { $0.giveUp(record) } }
    }

    /// The step that was to be a held one.
    private func saveAtOnce() {
        guard session != nil, daemon.up else { return }
        ask(newRecord())
    }

    func toldHeld(_ notice: Notice) {
        guard let fence, fence == notice.save, notice.level >= .staged else { return }
        self.fence = nil
        guard notice.level == .staged, let held = daemon.recordsByKey[RankSaveKey(run: notice.run, save: notice.save, rank: rank)] else { return later(60) { $0.saveAtOnce() } }
        let forgets = world.random.once(in: 5), lags = world.random.once(in: 6)
        guard forgets else { return later(lags ? 3_000 : 200) { $0.seal(held) } }
        if world.random.once(in: 2), let handle = held.handle {
            world.mark(.heldGivenUp)
            daemon.deliver(.discard(handle: handle))
        }
        later(60) { $0.saveAtOnce() }
    }

    private func seal(_ held: SaveRecord) {
        guard let session, daemon.up else { return }
        guard held.session == session, let (handle, slots) = daemon.engine.held(session: session, save: held.key.save) else { return saveAtOnce() }
        // A chunk of the new file takes its bytes from the end of one chunk that is kept and the begin of the next.
        let kept = (0..<held.chunkCount).filter { _ in !world.random.once(in: 3) }, added = world.random.int(0...1)
        let chunks = max(1, kept.count + added), record = newRecord(chunks: chunks)
        record.source = (held, slots, kept.indices.map { kept[$0]...kept[min($0 + 1, kept.count - 1)] })
        record.rankChunks = Set((chunks - added)..<chunks)
        record.eager = Set([0] + (chunks - added..<chunks))
        held.sealed = record
        let given = (0..<chunks).map { $0 + 1 < kept.count ? kept[$0 + 1] : held.chunkCount }
        ask(record, sealing: Sealing(handle: handle, given: given))
        guard record.isAnswered else { return }
        world.mark(.heldSealed)
        if world.faults, world.random.once(in: 12), world.may(.rankDeath) {
            die()
            return world.relaunch(afterMs: 500)
        }
        guard world.random.once(in: 3) else { return }
        let second = daemon.newHandle(), call = daemon.call(self, atOnce: { [self] answer in
            if case .saved = answer { world.fail("I4: held save \(held.key) is sealed twice") }
        }) { _ in }
        daemon.deliver(.save(SaveRequest(
            call: call, session: session, handle: second, step: step, attemptTry: record.key.save.attemptTry + 50, upto: record.upto,
            staging: BeginStaging(handle: second, session: session, layout: 1, dataStart: 4096, fileBytes: 4096, objects: []),
            eagerChunks: [0], waitsForEager: false, sealing: Sealing(handle: handle, given: given))))
    }
}
