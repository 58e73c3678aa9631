// One daemon of the simulation: the engine under test, its workers and its clients' calls. A crash drops all but the disks.
import CairnEngine
import CairnMessages
import CairnModel

final class Daemon {
    unowned let world: World
    let index: Int
    private(set) var engine: Engine
    private(set) var up = false
    /// Changes with each crash: what was sent to an earlier life does not arrive.
    private(set) var life = 0
    var stager: StagerModel?
    var workers: [Tier: TierModel] = [:]
    let localDisk = ModelDisk()
    private(set) var pool: PoolModel
    /// By the handles that this life's engine knows.
    var records: [Int: SaveRecord] = [:]
    var recordsByKey: [RankSaveKey: SaveRecord] = [:]
    var fileNumbers: Set<Int> = []
    var sessions: [String: Rank] = [:]
    private var calls: [CallID: (Answer) -> Void] = [:]
    private var answered: Set<CallID> = []
    private var nextCall = 1, nextHandle = 1
    private var tickPlanned = false

    init(world: World, index: Int) {
        self.world = world; self.index = index
        engine = Engine(limits: world.settings.limits, tiers: world.settings.tiers, retention: world.settings.retention)
        pool = PoolModel(slots: world.settings.limits.slots)
    }

    // MARK: life

    func start() {
        life += 1
        up = true
        engine = Engine(limits: world.settings.limits, tiers: world.settings.tiers, retention: world.settings.retention)
        pool = PoolModel(slots: world.settings.limits.slots)
        records = [:]
        recordsByKey = [:]
        fileNumbers = []
        calls = [:]
        answered = []
        world.note("d\(index): starts")
        startStager()
        for tier in world.settings.tiers { startWorker(tier) }
    }

    func crash() {
        world.note("d\(index): crashes")
        up = false
        life += 1
        stager?.die()
        stager = nil
        for worker in workers.values { worker.dead = true }
        workers = [:]
        for (_, rank) in sessions.sorted(by: { $0.key < $1.key }) { rank.disconnected() }
        sessions = [:]
        world.after(world.random.int(1...800) * World.ms) { [self] in start() }
    }

    private func startStager() {
        let life = life
        world.after(world.random.int(1...200) * World.ms) { [self] in
            guard self.life == life, stager == nil else { return }
            let model = StagerModel(daemon: self, generation: life, pool: pool)
            stager = model
            deliver(.stagerReady)
            model.send(.filled(slots: 8, lockedSlots: 8, note: nil), delay: world.delay())
            model.send(.filled(slots: world.settings.limits.slots, lockedSlots: 8, note: nil), delay: world.delay() * 20)
        }
    }

    private func startWorker(_ tier: Tier) {
        let life = life
        world.after(world.random.int(1...200) * World.ms) { [self] in
            guard self.life == life, workers[tier] == nil else { return }
            let disk: ModelDisk = tier == world.settings.committing ? world.disk : localDisk
            workers[tier] = TierModel(daemon: self, tier: tier, disk: disk, generation: life, pool: pool)
            deliver(.tierReady(tier))
        }
    }

    func loseStager() {
        guard up, let model = stager else { return }
        world.note("d\(index): the stager dies")
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
        worker.dead = true
        workers[tier] = nil
        deliver(.tierLost(tier, reason: "killed"))
        startWorker(tier)
    }

    // MARK: events and actions

    func call(_ rank: Rank, _ body: @escaping (Answer) -> Void) -> CallID {
        nextCall += 1
        let life = life, session = rank.session
        calls[nextCall] = { [self] answer in
            world.after(world.delay()) { if self.life == life, rank.alive, rank.session == session { body(answer) } }
        }
        return nextCall
    }
    func newHandle() -> Int { nextHandle += 1; return nextHandle }

    func deliver(_ event: Event) {
        guard up, world.violation == nil else { return }
        world.events += 1
        if world.verbose { world.note("d\(index) <- \(event)") }
        let actions = engine.handle(event, at: world.now)
        for action in actions { perform(action) }
        if let broken = engine.violatedInvariant() { world.fail(broken) }
        planTick()
    }

    /// As main does it: time is told only while the engine waits for it.
    private func planTick() {
        guard engine.needsTick, !tickPlanned else { return }
        tickPlanned = true
        let life = life
        world.after(40 * World.ms) { [self] in
            tickPlanned = false
            if self.life == life { deliver(.tick) } else if up { planTick() }
        }
    }

    private func perform(_ action: Action) {
        if world.verbose { world.note("d\(index) -> \(action)") }
        switch action {
        case .reply(let id, let answer):
            if !answered.insert(id).inserted { world.fail("I4: call \(id) is answered twice: \(answer)") }
            calls.removeValue(forKey: id)?(answer)
        case .stager(let request): stager?.handle(request)
        case .tier(let tier, let request):
            guard let worker = workers[tier] else { return world.fail("I10: \(request) is sent to the \(tier) worker, which is down") }
            worker.handle(request)
        case .publish(let tier, let id, let file, _, let count):
            guard let worker = workers[tier] else { return world.fail("I10: a publish is sent to the \(tier) worker, which is down") }
            worker.publish(id, file, count: count, worldSize: world.settings.worldSize)
        case .recordDecision(let tier, let id, _, let save): workers[tier]?.recordDecision(id, save)
        case .tell(let notice): checkNotice(notice)
        case .forget(let handle): records[handle] = nil
        case .endSession(let token, _, let replaced):
            if !replaced, let rank = sessions.removeValue(forKey: token) { rank.ended() }
        case .log(_, let text, _, let save, let rank):
            world.note("d\(index): \(save.map { "\($0)" } ?? "") \(rank.map { "rank \($0)" } ?? "") \(text)")
        }
    }

    /// The engine refused it: it was never accepted.
    func forgetRefused(_ record: SaveRecord) {
        if let handle = record.handle { records[handle] = nil }
        if recordsByKey[record.key] === record { recordsByKey[record.key] = nil }
    }

    func isGone(_ session: String?) -> Bool { session.flatMap { sessions[$0] }.map { !$0.alive } ?? true }

    /// Main looks at the session's socket after the last read and before it says staged (I13).
    func deliverHangUps(before handle: Int) {
        guard let record = records[handle], record.memoryChanged, let session = record.session else { return }
        deliver(.hungUp(session))
    }
}
