// The seeded simulation: daemons that share a committing tier, launches of a training job, and faults for a while. Then the faults stop, a
// last attempt starts, all that was accepted must end within bounded time, and the newest committed step must restore.
// Faults are in +Faults, what must hold of the disks in +Checks.
import CairnEngine
import CairnMessages
import CairnModel

public final class World {
    static let ms = 1_000_000
    let options: HistoryOptions
    var random: SeededRandom
    /// Of its own, so that a seed's history up to its first damage is what it is without.
    var damages: SeededRandom
    let settings: Settings
    /// Of the committing tier.
    let disk: ModelDisk
    private(set) var daemons: [Daemon] = []
    private(set) var now = 0
    private var timeline = Timeline()
    public private(set) var violation: String?
    public private(set) var history: [String] = []
    var faults = true
    public internal(set) var commits = 0
    public internal(set) var failures = 0
    public internal(set) var events = 0
    public internal(set) var coverage = Coverage()
    var toldFailed: Set<Told> = []
    /// What was told last of each rank's save, over all lives of its daemon.
    var tellings: [Told: Telling] = [:]
    var everCommitted: [CommitSequence: SaveID] = [:]
    var newestNamed: CommitSequence?
    var outageUntil = 0
    private(set) var jobs: [Job] = []
    private var nonce = 0, pid: Int32 = 100

    public init(_ options: HistoryOptions) {
        self.options = options
        random = SeededRandom(seed: options.seed)
        damages = SeededRandom(seed: ~options.seed)
        settings = Settings(&random)
        disk = ModelDisk(run: settings.run)
        daemons = (0..<settings.daemons).map { Daemon(world: self, index: $0) }
    }

    // MARK: time

    func at(_ instant: Int, _ body: @escaping () -> Void) { timeline.add(at: max(instant, now), body) }
    func after(_ nanoseconds: Int, _ body: @escaping () -> Void) { at(now + nanoseconds, body) }
    /// Mostly short, sometimes long: what is quick in one history is slow in the next.
    func delay() -> Int { random.once(in: 12) ? random.int(1...20) * Self.ms : random.int(10...2_000) * 1_000 }
    func newNonce() -> Int { nonce += 1; return nonce }
    func newPid() -> Int32 { pid += 1; return pid }
    /// When each daemon sees a name that this one has published: on a shared filesystem up to a second later.
    func seenAt(by daemon: Int, isShared: Bool) -> [Int] {
        daemons.indices.map { other in
            guard isShared, other != daemon, settings.hasDelayedViews, random.once(in: 3), may(.delayedView) else { return now }
            return now + random.int(0...1_000) * Self.ms
        }
    }
    /// Whether this kind of fault is in this history; the dice are thrown before, so that leaving one out changes little else.
    func may(_ kind: FaultKind) -> Bool { (faults || kind == .delayedView) && !options.without.contains(kind) }

    func note(_ text: @autoclosure () -> String) {
        guard options.recordsHistory else { return }
        history.append("\(now / Self.ms) ms: \(text())")
        if history.count > 400_000 { history.removeFirst(100_000) }
    }
    func fail(_ text: String) {
        guard violation == nil else { return }
        violation = text
        note("VIOLATED \(text)")
    }
    func mark(_ situation: Situation) { coverage.situations.insert(situation) }

    private func run(until end: Int, _ stop: () -> Bool = { false }) {
        while violation == nil, let next = timeline.nextTime, next <= end, !stop() {
            now = next
            timeline.removeFirst()()
            checkDisk()
        }
        if violation == nil, !stop() { now = max(now, end) }
    }

    // MARK: the history

    /// The first broken invariant, or nil.
    public func run() -> String? {
        for daemon in daemons { daemon.start() }
        launch(steps: 60)
        planFault()
        planDecisionCheck()
        run(until: options.faultMs * Self.ms)
        faults = false
        outageUntil = 0
        disk.freeSpace = true
        for daemon in daemons { daemon.localDisk.freeSpace = true }
        note("the faults are over")
        // Also those that a long death ends only now.
        run(until: now + 3_000 * Self.ms)
        run(until: now + 30_000 * Self.ms) { self.daemons.allSatisfy(\.up) }
        for job in jobs { job.kill() }
        let before = commits
        launch(steps: 12)
        let end = now + 120_000 * Self.ms
        relaunchIfEnded()
        // Nothing lands later than this of what dead workers had begun.
        let quiet = now + 8_000 * Self.ms
        run(until: end) { self.settled && self.now > quiet }
        if violation == nil { checkEnds(commitsBefore: before) }
        if violation == nil { checkNewestRestores() }
        return violation
    }

    /// A request of a launch that is gone may still take a number after the last one's: that is ended then, and launched again as its
    /// user would.
    private func relaunchIfEnded() {
        after(500 * Self.ms) { [self] in
            guard let last = jobs.last else { return }
            if last.ranks.allSatisfy({ !$0.alive }), !last.ranks.allSatisfy(\.hasFinished), jobs.count(where: \.isLast) < 4 {
                mark(.endedByDeadLaunch)
                launch(steps: last.steps)
                jobs.last?.isLast = true
            }
            relaunchIfEnded()
        }
    }

    func launch(steps: Int) {
        let isElastic = random.once(in: 3), size = random.int(1...Settings.largestWorld)
        let worldSize = isElastic && may(.elastic) && (settings.committing == .global || settings.daemons == 1) ? size : settings.worldSize
        let older = random.once(in: 5), back = random.int(0...3)
        let known = everCommitted.keys.sorted().compactMap { everCommitted[$0]?.step }
        let restoreStep = older && may(.olderRestore) && !known.isEmpty ? known[max(0, known.count - 1 - back)] : nil
        let job = Job(world: self, index: jobs.count + 1, worldSize: worldSize, places: places(worldSize), steps: steps, restoreStep: restoreStep)
        note("launch \(job.token): \(worldSize) ranks on daemons \(job.ranks.map(\.daemon.index))\(restoreStep.map { ", restores step \($0)" } ?? "")")
        if let last = jobs.last {
            if last.worldSize != worldSize { mark(.worldChanged) }
            if zip(last.ranks, job.ranks).contains(where: { $0.daemon !== $1.daemon }) { mark(.rankMoved) }
        }
        if Set(job.ranks.map(\.daemon.index)).count < worldSize { mark(.severalRanksOnADaemon) }
        jobs.append(job)
        job.launch()
    }

    /// In turn, in blocks, all on one node, or anywhere. A scheduler mostly avoids nodes that are down.
    private func places(_ worldSize: Int) -> [Daemon] {
        let kind = random.int(1...6), first = random.int(0...daemons.count - 1), picks = (0..<worldSize).map { _ in random.int(0...daemons.count - 1) }
        let avoids = !random.once(in: 4)
        let usable = avoids ? daemons.filter(\.up) : daemons
        let nodes = usable.isEmpty ? daemons : usable
        guard may(.move) else { return (0..<worldSize).map { daemons[$0 % daemons.count] } }
        switch kind {
        case 1, 2: return (0..<worldSize).map { nodes[$0 % nodes.count] }
        case 3: return (0..<worldSize).map { nodes[($0 + first) % nodes.count] }
        case 4: return (0..<worldSize).map { nodes[$0 * nodes.count / worldSize] }
        case 5: return (0..<worldSize).map { _ in nodes[first % nodes.count] }
        default: return picks.map { nodes[$0 % nodes.count] }
        }
    }

    func told(_ daemon: Daemon, _ notice: Notice) {
        for job in jobs where job.number == notice.save.attempt && notice.rank < job.worldSize && job.ranks[notice.rank].daemon === daemon {
            if notice.reached, options.recordsHistory { job.levels[notice.save, default: [:]][notice.rank, default: []].append("\(notice.level)") }
            job.ranks[notice.rank].told(notice)
        }
        if jobs.count(where: { job in job.number > 0 && job.ranks.contains { $0.alive && $0.fence != nil } }) > 1 { mark(.twoLiveAttemptsSave) }
    }

    /// The highest number that any launch was told.
    var newestNumber: Int { jobs.map(\.number).max() ?? 0 }

    // MARK: the end

    private var settled: Bool {
        daemons.allSatisfy { $0.up && $0.engine.unfinishedCount == 0 } && jobs.last?.ranks.allSatisfy(\.isDone) == true
    }

    private func checkEnds(commitsBefore: Int) {
        if let rank = jobs.last?.ranks.first(where: { !$0.isDone }) { return fail("I10: rank \(rank.rank) hangs: \(rank.state)") }
        for daemon in daemons {
            for record in daemon.recordsByKey.values.sorted(by: { $0.key.save < $1.key.save }) where !record.ended {
                // Its time may not be over yet.
                if record.isHeld, !daemon.isGone(record.session), now - record.acceptedAt < (settings.limits.commitTimeoutMs + 1_000) * Self.ms { continue }
                return fail("I4: \(record.key) was accepted by daemon \(daemon.index) and never ended: \(record.level)")
            }
        }
        if commits == commitsBefore { fail("I4: nothing was committed after the faults had stopped") }
    }

    /// One more launch that only restores: it is given the newest committed step.
    private func checkNewestRestores() {
        for job in jobs { job.kill() }
        run(until: now + 1_500 * Self.ms)
        let newest = disk.steps.entries.keys.max()
        launch(steps: 0)
        run(until: now + 60_000 * Self.ms) { self.jobs.last?.ranks.allSatisfy(\.restored) == true }
        guard violation == nil, let job = jobs.last else { return }
        if let rank = job.ranks.first(where: { !$0.restored }) { return fail("I10: rank \(rank.rank) hangs in the last restore: \(rank.state)") }
        // Of what landed late, after the attempt before had ended what was left, this one was the next.
        if let parent = job.parent, let newest, parent >= newest { return checkAllDecided() }
        fail("I1: the last restore gives \(job.parent.map { "\($0)" } ?? "nothing") though \(newest.map { "\($0)" } ?? "nothing") is the newest committed step")
    }
}
