// A tier worker as the engine sees it: each request takes effect in steps, at some moments; then its reply may come, or the worker dies
// before, between or after them. What a dead worker had begun may still land much later: nothing undoes a system call.
import CairnEngine
import CairnMessages
import CairnModel

final class TierModel {
    unowned let daemon: Daemon
    let tier: Tier, disk: ModelDisk, generation: Int
    let pool: PoolModel
    private let pipe = Pipe()
    var files: [Int: TemporaryFile] = [:]
    var buffer: [Int: SlotContent] = [:]
    private(set) var dead = false
    private var diedAt = 0
    var stalledUntil = 0
    private var operations: [ObjectIdentifier: Operation] = [:]

    init(daemon: Daemon, tier: Tier, disk: ModelDisk, generation: Int, pool: PoolModel) {
        self.daemon = daemon; self.tier = tier; self.disk = disk; self.generation = generation; self.pool = pool
    }
    var world: World { daemon.world }
    var node: Int { daemon.index }
    var now: Int { world.now }
    /// The tier on which decisions are made, here or on the shared filesystem.
    var isCommitting: Bool { tier == world.settings.committing }

    func send(_ reply: TierReply) {
        let at = pipe.arrival(max(now + world.delay(), stalledUntil))
        world.at(at) { [self] in
            guard !dead, daemon.workers[tier] === self else { return }
            daemon.deliver(.tier(tier, reply))
        }
    }

    enum Result { case next, reply(TierReply), failed(TierFailureKind) }

    private final class Operation {
        let id: Int, writes: Bool, usesPool: Bool, fails: Bool, landsLate: Bool, finally: () -> Void, steps: [() -> Result]
        var index = 0, isLate = false
        /// The plan that counts; an older one was replaced.
        var plan = 0
        init(id: Int, writes: Bool, usesPool: Bool, fails: Bool, landsLate: Bool, finally: @escaping () -> Void, steps: [() -> Result]) {
            self.id = id; self.writes = writes; self.usesPool = usesPool; self.fails = fails; self.landsLate = landsLate; self.finally = finally; self.steps = steps
        }
    }

    /// One request: maybe an error before or after any of its steps.
    func operate(_ id: Int, writes: Bool = false, _ steps: (() -> Result)...) { begin(id, writes: writes, usesPool: false, finally: {}, steps) }

    func begin(_ id: Int, writes: Bool, usesPool: Bool, finally: @escaping () -> Void, _ steps: [() -> Result]) {
        let fails = world.random.once(in: world.settings.errorOdds), late = world.random.once(in: 2)
        let operation = Operation(id: id, writes: writes, usesPool: usesPool, fails: fails && world.may(.errors), landsLate: late && world.may(.lateEffects),
                                  finally: finally, steps: steps)
        operations[ObjectIdentifier(operation)] = operation
        plan(operation, at: max(now + world.delay(), stalledUntil))
    }

    private func plan(_ operation: Operation, at instant: Int) {
        operation.plan += 1
        let plan = operation.plan
        world.at(instant) { [self] in if operation.plan == plan { step(operation) } }
    }

    /// Its process is gone. Reads of the pool end within the time for which its slots rest; other calls may hang on for longer.
    func die() {
        guard !dead else { return }
        dead = true
        diedAt = now
        for operation in operations.values.sorted(by: { $0.id < $1.id }) {
            guard operation.landsLate else { end(operation); continue }
            operation.isLate = true
            let bound = operation.usesPool ? world.settings.limits.quarantineMs - 200 : 6_000
            plan(operation, at: now + world.random.int(0...bound) * World.ms)
        }
    }

    private func end(_ operation: Operation) {
        operation.plan += 1
        operations[ObjectIdentifier(operation)] = nil
        operation.finally()
    }

    private func fail(_ operation: Operation, _ kind: TierFailureKind, _ text: String) {
        end(operation)
        if kind == .io { world.mark(.errorMet) }
        send(.failed(id: operation.id, TierFailure(kind: kind, text: text)))
    }

    private func step(_ operation: Operation) {
        if operation.isLate { world.mark(operation.usesPool ? .lateWrite : .lateEffect) }
        if operation.index == 0, !dead {
            if operation.writes, !disk.freeSpace { world.mark(.noSpaceMet); return fail(operation, .noSpace, "no space left on the \(tier) tier") }
            if operation.fails, world.random.once(in: 2) { return fail(operation, .io, "EIO before") }
        }
        let result = operation.steps[operation.index]()
        disk.hasChanged = true
        operation.index += 1
        if operation.fails, !dead, operation.index == operation.steps.count || world.random.once(in: 2) {
            world.mark(.replyLost)
            return fail(operation, .io, "EIO after")
        }
        switch result {
        case .next: plan(operation, at: max(now + world.delay(), dead ? 0 : stalledUntil))
        case .reply(let reply):
            end(operation)
            if !dead { send(reply) }
        case .failed(let kind):
            if dead { end(operation) } else { fail(operation, kind, "\(kind) on the \(tier) tier") }
        }
    }

    func handle(_ request: TierRequest) {
        switch request {
        case .create(let id, let file, let key, _, let bytes): create(id, file, key, bytes)
        case .write(let writes): for write in writes { self.write(write) }
        case .sync(let id, let file): sync(id, file)
        case .abandon(let file): files[file] = nil
        case .readBack(let id, let key, let chunk, _, let slot): readBack(id, key, chunk, slot)
        case .numberAttempt(let id, _, let token, let worldSize, let notAfter): numberAttempt(id, token, worldSize, notAfter)
        case .findAttempt(let id, _, let token): findAttempt(id, token)
        case .newestAttempt(let id, _): newestAttempt(id)
        case .claimAttempt(let id, _, let number, let token, let worldSize): claimAttempt(id, number, token, worldSize)
        case .have(let id, _, let attempt, let list): have(id, attempt, list)
        case .leftovers(let id, _, let attempt): leftovers(id, attempt)
        case .decide(let id, _, let save, let worldSize, let participants, let parent, _): decide(id, save, worldSize, participants, parent)
        case .void(let id, _, let save, let reason, _): void(id, save, reason)
        case .look(let id, _, let save, let worldSize, let participants, let lists, _): look(id, save, participants ?? Array(0..<worldSize), lists: lists)
        case .choose(let id, _, let attempt, let restore, let step, let candidate):
            choose(id, RestoreName(attempt: attempt, restore: restore), step, candidate)
        case .readChoice(let id, _, let attempt, let restore): readChoice(id, RestoreName(attempt: attempt, restore: restore))
        case .settled(let id, _, let attempt, let restore, let ranks, let ok, _):
            settled(id, NodeName(attempt: attempt, restore: restore, node: node), ranks, ok)
        case .verdict(let id, _, let attempt, let restore, let worldSize, let publish, let force):
            verdict(id, RestoreName(attempt: attempt, restore: restore), worldSize, publish: publish, force: force)
        case .retain(let id, _, let rules, let given): retain(id, rules, given)
        case .scan(let id): scan(id)
        case .held(let id, _, let step): held(id, step)
        case .list(let id, _): operate(id) { [self] in .reply(.steps(id: id, summaries())) }
        case .remove(let id, let ref): remove(id, ref)
        default: world.fail("the simulation knows no request \(request)")
        }
    }

    // MARK: names

    func link<Key, Value>(_ names: Names<Key, Value>, _ key: Key, _ value: Value) -> Bool {
        let isNew = names.link(key, value, by: node, at: now, seenAt: world.seenAt(by: node, isShared: isCommitting))
        if !isNew { world.mark(.linkTaken) } else if dead { world.mark(.lateLink) }
        return isNew
    }
    func see<Key, Value>(_ names: Names<Key, Value>, _ key: Key) -> Value? {
        let seen = names.see(key, from: node, at: now)
        if seen == nil, names[key] != nil { world.mark(.viewDelayed) }
        return seen
    }
    func all<Key, Value>(_ names: Names<Key, Value>) -> [Key: Value] { names.all(from: node, at: now) }
}
