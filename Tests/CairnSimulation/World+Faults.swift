// Faults: one after another, at random.
import CairnEngine
import CairnModel

extension World {
    func planFault() {
        after(random.int(50...1_200) * Self.ms) { [self] in
            guard faults else { return }
            fault()
            planFault()
        }
    }

    private func fault() {
        let daemon = random.pick(daemons), tier = random.pick(settings.tiers), kind = random.int(1...23)
        let short = random.int(1...800), long = random.int(2_000...12_000), between = random.int(100...1_500)
        switch kind {
        case 1...3:
            if let rank = jobs.last.map({ random.pick($0.ranks) }), rank.alive, may(.rankDeath) {
                note("rank \(rank.rank) of \(rank.job.token) dies")
                rank.die()
                relaunch(afterMs: short)
            }
        case 4: if may(.daemonCrash) { daemon.crash(node: false, downMs: short) }
        case 5: if may(.nodeCrash), daemon.up { daemon.crash(node: true, downMs: short); relaunch(afterMs: short) }
        case 6:
            if may(.longDeath), daemon.up {
                daemon.crash(node: random.once(in: 2), downMs: long)
                // Else the launch waits for its lost node, as one does that nobody looks after.
                if random.once(in: 2) { relaunch(afterMs: between) }
            }
        case 7, 8: if may(.workerDeath) { daemon.loseWorker(tier) }
        case 9: if may(.stagerDeath) { daemon.loseStager() }
        case 10, 11: if may(.stall) { daemon.stall(tier, ms: between) }
        case 12: if may(.stall) { daemon.stall(tier, ms: between); after(between / 2 * Self.ms) { [self] in if may(.workerDeath) { daemon.loseWorker(tier) } } }
        case 13:
            if may(.slowDaemon) { for tier in settings.tiers { daemon.stall(tier, ms: long) } }
        case 14, 15:
            guard may(.noSpace) else { return }
            let disk = tier == settings.committing ? disk : daemon.localDisk
            disk.freeSpace = false
            after(between * Self.ms) { disk.freeSpace = true }
        case 16: if may(.outage) { beginOutage(random.once(in: 2) ? between : long) }
        case 17:
            guard may(.outage), may(.rankDeath) else { return }
            beginOutage(long)
            relaunch(afterMs: short)
        case 18: if may(.reconnect) { jobs.last.map { random.pick($0.ranks) }?.reconnect() }
        case 19: relaunch(afterMs: short)
        case 20:
            // What was read back from the local tier is still being written when its worker is replaced.
            guard may(.stall), may(.workerDeath), settings.hasBeside else { return }
            daemon.stall(.global, ms: between)
            after(between / 8 * Self.ms) { daemon.loseWorker(.local) }
        default: break
        }
    }

    /// The committing tier is gone for every daemon, for a while.
    private func beginOutage(_ ms: Int) {
        note("the \(settings.committing) tier is out for \(ms) ms")
        mark(.outageBegan)
        outageUntil = max(outageUntil, now + ms * Self.ms)
        for daemon in daemons { daemon.loseWorker(settings.committing) }
    }

    func relaunch(afterMs ms: Int) {
        let lingers = random.once(in: 4)
        after(ms * Self.ms) { [self] in
            guard faults else { return }
            // Sometimes the older attempt's ranks linger: the daemons must end them.
            if !(lingers && may(.linger)) { for job in jobs { job.kill() } }
            launch(steps: 60)
        }
    }
}

extension Rank {
    /// Its connection is lost and it opens again, the same process.
    func reconnect() {
        guard alive, session != nil else { return }
        disconnected()
    }
}
