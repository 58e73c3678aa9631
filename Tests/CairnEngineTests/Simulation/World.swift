// The seeded simulation: daemons that share a committing tier, a training job with restarts, and faults for a while. Then the
// faults stop, a last attempt starts, and all that was accepted must end within bounded time.
import CairnEngine
import CairnMessages
import CairnModel

final class World {
    static let ms = 1_000_000
    let seed: UInt64, verbose: Bool
    var random: SeededRandom
    let settings: Settings
    let disk = CommittingDisk()
    private(set) var daemons: [Daemon] = []
    private(set) var now = 0
    private var timeline = Timeline()
    private(set) var violation: String?
    private(set) var history: [String] = []
    var faults = true
    var commits = 0, failures = 0, events = 0
    var toldFailed: Set<RankSaveKey> = []
    private var job: Job?
    private var jobs = 0, nonce = 0, pid: Int32 = 100
    let longestDelay = 3 * World.ms

    init(seed: UInt64, verbose: Bool = false) {
        self.seed = seed
        self.verbose = verbose
        random = SeededRandom(seed: seed)
        settings = Settings(&random)
        daemons = (0..<settings.daemons).map { Daemon(world: self, index: $0) }
    }

    // MARK: time

    func at(_ instant: Int, _ body: @escaping () -> Void) { timeline.add(at: max(instant, now), body) }
    func after(_ nanoseconds: Int, _ body: @escaping () -> Void) { at(now + nanoseconds, body) }
    /// Mostly short, sometimes long: what is quick in one history is slow in the next.
    func delay() -> Int { random.once(in: 12) ? random.int(1...20) * Self.ms : random.int(10...2_000) * 1_000 }
    func newNonce() -> Int { nonce += 1; return nonce }
    func newPid() -> Int32 { pid += 1; return pid }

    func note(_ text: String) {
        history.append("\(now / Self.ms) ms: \(text)")
        if history.count > 40_000 { history.removeFirst(20_000) }
    }
    func fail(_ text: String) {
        guard violation == nil else { return }
        violation = text
        note("VIOLATED \(text)")
    }

    private func run(until end: Int, _ stop: () -> Bool = { false }) {
        while violation == nil, let next = timeline.nextTime, next <= end, !stop() {
            now = next
            timeline.removeFirst()()
        }
        if violation == nil, !stop() { now = max(now, end) }
    }

    // MARK: the history

    /// The first broken invariant, or nil.
    func run() -> String? {
        for daemon in daemons { daemon.start() }
        launch(steps: 60)
        planFault()
        run(until: 12_000 * Self.ms)
        faults = false
        disk.freeSpace = true
        for daemon in daemons { daemon.localDisk.freeSpace = true }
        run(until: now + 3_000 * Self.ms)
        job?.kill()
        let before = commits
        launch(steps: 12)
        run(until: now + 90_000 * Self.ms) { self.settled && self.now > 20_000 * Self.ms }
        if violation == nil { checkEnds(commitsBefore: before) }
        return violation
    }

    private func launch(steps: Int) {
        jobs += 1
        note("attempt t\(jobs) is launched")
        job = Job(world: self, index: jobs, firstStep: jobs * 7, steps: steps)
        job?.launch()
    }

    private func restart() {
        guard faults else { return }
        // Sometimes the older attempt's ranks linger: the daemon must end them.
        if !random.once(in: 4) { job?.kill() }
        launch(steps: 60)
    }

    func told(_ daemon: Daemon, _ notice: Notice) { job?.ranks[notice.rank].told(notice) }

    private func planFault() {
        after(random.int(50...1_500) * Self.ms) { [self] in
            guard faults else { return }
            let daemon = random.pick(daemons), tier = random.pick(settings.tiers)
            switch random.int(1...12) {
            case 1...3:
                if let rank = job.map({ random.pick($0.ranks) }), rank.alive {
                    note("rank \(rank.rank) dies")
                    rank.die()
                    after(random.int(10...600) * Self.ms) { [self] in restart() }
                }
            case 4: if daemon.up { daemon.crash() }
            case 5, 6: daemon.loseWorker(tier)
            case 7: daemon.loseStager()
            case 8, 9:
                daemon.workers[tier]?.stalledUntil = now + random.int(100...1_500) * Self.ms
            case 10:
                let disk = tier == settings.committing ? disk : daemon.localDisk
                disk.freeSpace = false
                after(random.int(50...1_500) * Self.ms) { disk.freeSpace = true }
            default: break
            }
            planFault()
        }
    }

    // MARK: the end

    private var settled: Bool {
        daemons.allSatisfy { $0.up && $0.engine.unfinishedCount == 0 } && job?.ranks.allSatisfy { $0.isDone } == true
    }

    private func checkEnds(commitsBefore: Int) {
        for daemon in daemons {
            for record in daemon.recordsByKey.values.sorted(by: { $0.key.save < $1.key.save }) where !record.ended {
                return fail("I4: \(record.key) was accepted by daemon \(daemon.index) and never ended: \(record.level)")
            }
        }
        if let rank = job?.ranks.first(where: { !$0.isDone }) { return fail("I10: rank \(rank.rank) hangs: \(rank.state)") }
        if commits == commitsBefore { fail("I4: nothing was committed after the faults had stopped") }
        for (key, _) in disk.files where disk.decisions[key.save] == nil { return fail("I4: \(key) stands on the committing tier and nobody decides") }
    }
}
