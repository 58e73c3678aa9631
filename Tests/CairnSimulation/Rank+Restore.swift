// Choose, load, settle.
import CairnEngine
import CairnMessages
import CairnModel

extension Rank {
    private func askedStep(_ number: Int) -> Int? { number == 1 ? job.restoreStep : nil }

    func choose() {
        guard let session, daemon.up else { return }
        let number = restore
        let call = daemon.call(self) { [self] answer in
            switch answer {
            case .chosen(let step, let sequence):
                job.check(restore: number, sequence, rank)
                restoring = sequence
                load(number, step, sequence)
            case .failed(.noSuchStep):
                job.check(restore: number, nil, rank)
                restoring = nil
                later(50) { $0.settle(number, ok: true, step: nil) }
            default: later(200) { $0.choose() }
            }
        }
        daemon.deliver(.choose(call: call, session: session, restore: number, step: askedStep(number), deadline: world.now + 20_000 * World.ms))
    }

    /// From the nearest tier that has it; bytes in the pool are held while they are copied.
    private func load(_ number: Int, _ step: Int, _ sequence: CommitSequence) {
        let fails = world.random.once(in: 12) && world.may(.failedLoad)
        let ok = !fails && canLoad(sequence)
        let chosen = world.chosen(RestoreName(attempt: job.number, restore: number), by: daemon)
        if let save = chosen?.save, world.may(.memoryLoad) {
            let slots = daemon.slots(of: RankSaveKey(run: world.settings.run, save: save, rank: rank))
            if !slots.isEmpty { hold(slots, save) }
        }
        later(50) { $0.settle(number, ok: ok, step: step) }
    }

    private func hold(_ slots: [Int], _ save: SaveID) {
        world.mark(.restoredFromMemory)
        let daemon = daemon, pool = daemon.pool, life = daemon.life
        let contents = slots.map { pool.contents[$0] }
        for slot in slots { pool.readers[slot] += 1 }
        daemon.deliver(.slotsHeld(slots))
        world.after(world.delay() * 30) { [world] in
            for (slot, content) in zip(slots, contents) {
                pool.readers[slot] -= 1
                if pool.contents[slot] != content { world.fail("I5: slot \(slot) of \(save) changed while a restore copied it") }
            }
            if daemon.life == life { daemon.deliver(.slotsReleased(slots)) }
        }
    }

    /// Whether the bytes are there for this rank: on the committing tier, else here.
    private func canLoad(_ sequence: CommitSequence) -> Bool {
        if world.disk.steps[sequence] != nil, daemon.workers[world.settings.committing] != nil { return true }
        guard let save = world.save(of: sequence, by: daemon) else { return false }
        if daemon.holds(RankSaveKey(run: world.settings.run, save: save.id, rank: rank)), save.worldSize == job.worldSize { return true }
        return save.members.allSatisfy { daemon.holds(RankSaveKey(run: world.settings.run, save: save.id, rank: $0)) }
    }

    private func settle(_ number: Int, ok: Bool, step: Int?) {
        guard let session, daemon.up else { return }
        let call = daemon.call(self) { [self] answer in
            switch answer {
            case .settled(let again, _):
                job.check(verdict: number, again, rank)
                if again {
                    world.mark(.restoredAgain)
                    restore += 1
                    restoring = nil
                    return choose()
                }
                world.returned(restoring, RestoreName(attempt: job.number, restore: number), to: self)
                if let restoring, let step { job.settle(parent: restoring, step: step) }
                self.step = max(job.startStep, step ?? 0)
                restoring = nil
                restored = true
                train()
            default: choose()
            }
        }
        daemon.deliver(.settle(call: call, session: session, restore: number, ok: ok, reason: nil))
    }
}
