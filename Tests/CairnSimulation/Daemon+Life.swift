// Start, crash, and the workers' deaths.
import CairnEngine
import CairnMessages
import CairnModel

extension Daemon {
    func start() {
        life += 1
        up = true
        engine = Engine(limits: world.settings.limits, tiers: world.settings.tiers, retention: world.settings.retention)
        let former = pool
        pool = PoolModel(slots: world.settings.limits.slots)
        // A dead worker's write may still read a slot: it goes to a name that nobody publishes.
        for part in kept.values { for slot in part.part.slots { pool.contents[slot] = former.contents[slot] } }
        records = [:]
        recordsByKey = [:]
        fileNumbers = []
        calls = [:]
        answered = []
        subjects = [:]
        finishable = []
        promotions = []
        healthySince = world.now
        world.note("d\(index): starts")
        takeUp()
        startStager()
        for tier in world.settings.tiers { startWorker(tier) }
    }

    /// The process ends, or the node with all its processes, memory, and what its disk had not synced.
    func crash(node: Bool, downMs: Int) {
        guard up else { return }
        world.note("d\(index): \(node ? "its node crashes" : "crashes")")
        world.mark(node ? .nodeCrashed : .daemonCrashed)
        up = false
        life += 1
        if node || !world.may(.keptMemory) || world.random.once(in: 2) { kept = [:] }
        stager?.die()
        stager = nil
        for (_, worker) in workers.sorted(by: { $0.key.rawValue < $1.key.rawValue }) { worker.die() }
        workers = [:]
        // A promotion is no more durable than a save that is not yet published: a scan goes by the manifest.
        for (told, telling) in world.tellings where telling.daemon == index && telling.level < .committed {
            guard let upto = localDisk.files[told.key]?.foundUpto ?? world.disk.files[told.key]?.upto else { continue }
            world.tellings[told]?.finalLevel = world.settings.finalLevel(upto)
        }
        let served = sessions.sorted { $0.key < $1.key }.map(\.value)
        sessions = [:]
        if node {
            for rank in world.jobs.flatMap(\.ranks) where rank.daemon === self { rank.die(tellDaemon: false) }
            let disk = world.settings.hasBeside ? localDisk : world.disk
            // A shared filesystem keeps what its servers were told.
            if world.settings.tiers.contains(.local), disk.loseUnsynced({ world.random.once(in: 2) }) > 0 { world.mark(.linkLostByNodeCrash) }
            world.checkTold(at: self)
        } else {
            for rank in served { rank.disconnected() }
        }
        if downMs > 3_000 { world.mark(.daemonLongDead) }
        world.after(downMs * World.ms) { [self] in start() }
    }

    /// What the former process wrote down of its pool, unless that was lost with it.
    private func takeUp() {
        let former = kept.sorted { $0.key < $1.key }.map(\.value)
        kept = [:]
        guard !former.isEmpty else { return }
        var parts: [KeptRankSave] = []
        for (part, record) in former {
            var part = part
            part.handle = newHandle()
            for (chunk, slot) in part.slots.enumerated() {
                if pool.contents[slot] != .chunk(record.content(chunk)) { world.fail("I7: slot \(slot) is kept as chunk \(chunk) of \(record.key), and holds something else") }
                pool.assigned[slot] = (part.handle, chunk)
            }
            let taken = SaveRecord(key: record.key, handle: part.handle, upto: part.upto, finalLevel: world.settings.finalLevel(part.upto), fileBytes: record.fileBytes,
                                   nonce: record.nonce, acceptedAt: world.now, session: nil, recovered: false, token: record.token, worldSize: record.worldSize,
                                   participants: record.participants, parent: record.parent)
            taken.staged = Set(0..<record.chunkCount)
            if let others = former.map(\.part).filter({ $0.key.save == record.key.save }).map(\.saveUpto).max() { taken.promoting = world.settings.finalLevel(others) }
            records[part.handle] = taken
            recordsByKey[record.key] = taken
            kept[part.handle] = (part, taken)
            parts.append(part)
            if record.level == .failed { world.fail("I4: \(record.key) was told failed and is taken up") }
            world.mark(part.committed == nil ? .keptTakenUp : .keptAsCommitted)
        }
        deliver(.kept(parts))
    }

    private func startStager() {
        let life = life
        world.after(world.random.int(1...200) * World.ms) { [self] in
            guard self.life == life, stager == nil else { return }
            let model = StagerModel(daemon: self, generation: life, pool: pool)
            stager = model
            deliver(.stagerReady)
            model.send(.filled(slots: 8, lockedSlots: 8, hugeSlots: 0, note: nil), delay: world.delay())
            model.send(.filled(slots: world.settings.limits.slots, lockedSlots: 8, hugeSlots: 0, note: nil), delay: world.delay() * 20)
        }
    }

    func startWorker(_ tier: Tier) {
        let life = life
        let outage = tier == world.settings.committing ? max(0, world.outageUntil - world.now) : 0
        world.after(outage + world.random.int(1...200) * World.ms) { [self] in
            guard self.life == life, workers[tier] == nil else { return }
            if tier == world.settings.committing, world.now < world.outageUntil { return startWorker(tier) }
            let disk: ModelDisk = tier == world.settings.committing ? world.disk : localDisk
            workers[tier] = TierModel(daemon: self, tier: tier, disk: disk, generation: life, pool: pool)
            if tier == world.settings.committing { healthySince = world.now }
            deliver(.tierReady(tier))
        }
    }

    func loseStager() {
        guard up, let model = stager else { return }
        world.note("d\(index): the stager dies")
        world.mark(.stagerDied)
        model.die()
        stager = nil
        deliver(.stagerLost(reason: "killed"))
        for (_, rank) in sessions.sorted(by: { $0.key < $1.key }) { rank.disconnected() }
        sessions = [:]
        startStager()
    }

    func loseWorker(_ tier: Tier) {
        guard up, let worker = workers[tier] else { return }
        world.note("d\(index): the \(tier) worker dies")
        world.mark(.workerDied)
        worker.die()
        workers[tier] = nil
        deliver(.tierLost(tier, reason: "killed"))
        startWorker(tier)
    }

    func stall(_ tier: Tier, ms: Int) {
        guard let worker = workers[tier] else { return }
        world.note("d\(index): the \(tier) worker hangs for \(ms) ms")
        worker.stalledUntil = max(worker.stalledUntil, world.now + ms * World.ms)
        if tier == world.settings.committing { healthySince = max(healthySince, worker.stalledUntil) }
        if ms > world.settings.limits.stallMs { world.mark(.workerStalled) }
    }
}
