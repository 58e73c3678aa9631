// One engine on a bench: a test tells it events and answers its requests by hand, one at a time.
import CairnEngine
import CairnMessages
import CairnModel
import Testing

final class Bench {
    static let run = RunKey(uid: 1000, name: "bench")
    let engine: Engine
    private(set) var now = 0
    /// What the engine asked for and said; tests take what they look for.
    private(set) var actions: [Action] = []
    private var lastTold: [RankSaveKey: Level] = [:]
    private var nextCall = 0, nextHandle = 0
    var handles: [RankSaveKey: Int] = [:]

    static func limits(_ change: (inout EngineLimits) -> Void = { _ in }) -> EngineLimits {
        var limits = EngineLimits()
        limits.slots = 16
        change(&limits)
        return limits
    }

    init(tiers: [Tier] = [.local, .global], limits: EngineLimits = Bench.limits(), retention: [Tier: RetentionRules] = [:], start: Bool = true) {
        engine = Engine(limits: limits, tiers: tiers, retention: retention)
        guard start else { return }
        tell(.stagerReady)
        tell(.stager(.filled(slots: limits.slots, lockedSlots: 0, hugeSlots: 0, note: nil)))
        for tier in tiers { ready(tier) }
    }

    func tell(_ event: Event) {
        actions += engine.handle(event, at: now)
        if let broken = engine.violatedInvariant() { Issue.record("\(broken) after \(event)") }
    }
    func wait(ms: Int) {
        now += ms * 1_000_000
        tell(.tick)
    }
    func ready(_ tier: Tier, found: [FoundRankSave] = []) {
        tell(.tierReady(tier))
        let id = takeTier(tier) { if case .scan(let id) = $0 { id } else { nil } }
        if let id { tell(.tier(tier, .scanned(id: id, found))) }
    }

    // MARK: taking actions

    func take<Value>(_ match: (Action) -> Value?) -> Value? {
        for (index, action) in actions.enumerated() {
            if let value = match(action) { actions.remove(at: index); return value }
        }
        return nil
    }
    func takeTier<Value>(_ tier: Tier, _ match: (TierRequest) -> Value?) -> Value? {
        take { if case .tier(tier, let request) = $0 { match(request) } else { nil } }
    }
    func answer(_ call: CallID) -> Answer? { take { if case .reply(call, let answer) = $0 { answer } else { nil } } }
    /// All that was told of one rank's save since the last look.
    func told(_ key: RankSaveKey) -> [Level] {
        // Progress repeats a level: only what is new counts.
        var levels: [Level] = []
        while let level = take({ action -> Level? in
            guard case .tell(let notice) = action, notice.save == key.save, notice.rank == key.rank else { return nil }
            return notice.level
        }) { if (levels.last ?? lastTold[key]) != level { levels.append(level) } }
        if let last = levels.last { lastTold[key] = last }
        return levels
    }

    // MARK: sessions

    func newCall() -> CallID { nextCall += 1; return nextCall }

    @discardableResult
    func askOpen(_ session: SessionToken, rank: Int = 0, worldSize: Int = 1, token: String = "t", pid: Int32 = 7) -> CallID {
        let call = newCall()
        tell(.open(OpenRequest(call: call, session: session, run: Self.run, rank: rank, worldSize: worldSize, localWorldSize: nil, tokenHash: token, pid: pid)))
        return call
    }
    /// Opens to the end: stager, number, nothing to resume.
    @discardableResult
    func open(_ session: SessionToken, rank: Int = 0, worldSize: Int = 1, token: String = "t", number: Int? = 1, pid: Int32 = 7) -> Answer? {
        let call = askOpen(session, rank: rank, worldSize: worldSize, token: token, pid: pid)
        tell(.stager(.sessionOpened(token: session, direct: true)))
        answerNumber(number)
        answerResume()
        return answer(call)
    }
    /// The tier beside knows nothing: no attempt, no choice, no saves.
    func answerBeside() {
        guard let beside = engine.beside else { return }
        while let reply = takeTier(beside, { request -> TierReply? in
            switch request {
            case .findAttempt(let id, _, _): .attempt(id: id, number: nil)
            case .readChoice(let id, _, _, _): .choice(id: id, chosen: false, step: nil, sequence: nil, save: nil, level: nil)
            case .held(let id, _, _): .scanned(id: id, [])
            default: nil
            }
        }) { tell(.tier(beside, reply)) }
    }
    func answerNumber(_ number: Int?) {
        answerBeside()
        let tier = engine.committing
        let id = takeTier(tier) { request -> Int? in
            switch request {
            case .numberAttempt(let id, _, _, _, _), .findAttempt(let id, _, _): id
            default: nil
            }
        }
        if let id { tell(.tier(tier, .attempt(id: id, number: number))) }
    }
    func answerResume(steps: [StepSummary] = []) {
        answerBeside()
        let tier = engine.committing
        if let id = takeTier(tier, { if case .readChoice(let id, _, _, _) = $0 { id } else { nil } }) {
            tell(.tier(tier, .choice(id: id, chosen: false, step: nil, sequence: nil, save: nil, level: nil)))
        }
        if let id = takeTier(tier, { if case .list(let id, _) = $0 { id } else { nil } }) { tell(.tier(tier, .steps(id: id, steps))) }
    }

    // MARK: saves

    func key(_ step: Int, rank: Int = 0, attempt: Int = 1, attemptTry: Int = 1) -> RankSaveKey {
        RankSaveKey(run: Self.run, save: SaveID(attempt: attempt, step: step, attemptTry: attemptTry), rank: rank)
    }
    @discardableResult
    func save(_ session: SessionToken, _ key: RankSaveKey, chunks: Int = 2, upto: Level = .committed, eager: [Int] = [0], waits: Bool = false, isHeld: Bool = false,
              sealing: Sealing? = nil, streamedFrom: Int? = nil) -> CallID {
        nextHandle += 1
        let call = newCall()
        handles[key] = handles[key] ?? nextHandle
        let bytes = (chunks - 1) * Sizes.chunkBytes + 4096
        tell(.save(SaveRequest(
            call: call, session: session, handle: nextHandle, step: key.save.step, attemptTry: isHeld ? key.save.step : key.save.attemptTry, upto: upto,
            staging: BeginStaging(handle: nextHandle, session: session, layout: 1, dataStart: 4096, fileBytes: bytes, objects: []),
            eagerChunks: eager, waitsForEager: waits, isHeld: isHeld, sealing: sealing, streamedFrom: streamedFrom)))
        return call
    }
    /// Makes `held` the save `key`.
    @discardableResult
    func seal(_ session: SessionToken, _ held: RankSaveKey, as key: RankSaveKey, chunks: Int, given: [Int], waits: Bool = false) -> CallID {
        save(session, key, chunks: chunks, waits: waits, sealing: Sealing(handle: handle(held), given: given))
    }
    func handle(_ key: RankSaveKey) -> Int { handles[key] ?? -1 }

    /// Every chunk that is handed out for this save is staged.
    func stage(_ key: RankSaveKey) {
        while let assignments = take({ action -> [ChunkAssignment]? in if case .stager(.stage(let list)) = action { list } else { nil } }) {
            for one in assignments where one.handle == handle(key) {
                tell(.stager(.staged([ChunkStaged(handle: one.handle, chunk: one.chunk, slot: one.slot, blocks: 1)])))
            }
        }
    }
    /// Answers creates, writes and syncs of this tier until it asks for nothing more; publishes stay.
    func write(_ tier: Tier) {
        while let ids = takeTier(tier, { request -> [Int]? in
            switch request {
            case .create(let id, _, _, _, _), .sync(let id, _), .readBack(let id, _, _, _, _): [id]
            case .write(let writes): writes.map(\.id)
            default: nil
            }
        }) { for id in ids { tell(.tier(tier, .done(id: id))) } }
    }
    func takePublish(_ tier: Tier) -> Int? { take { if case .publish(tier, let id, _, _, _) = $0 { id } else { nil } } }
    @discardableResult
    func publish(_ tier: Tier) -> Bool {
        write(tier)
        guard let id = takePublish(tier) else { return false }
        tell(.tier(tier, .done(id: id)))
        return true
    }
    /// The next question about this save's decision, of whichever kind.
    func takeDecisionRequest(_ save: SaveID) -> (id: Int, kind: String)? {
        takeTier(engine.committing) { request -> (Int, String)? in
            switch request {
            case .decide(let id, _, save, _, _, _, _): return (id, "decide")
            case .void(let id, _, save, _, _): return (id, "void")
            case .look(let id, _, save, _, _, let lists, _): return (id, lists ? "list" : "look")
            default: return nil
            }
        }
    }
    /// What older attempts left, as the worker tells it to rank 0's daemon; this node's own list comes first.
    func answerLeftovers(serving: Int, _ leftovers: [Leftover]) {
        answerBeside()
        let tier = engine.committing
        if let id = takeTier(tier, { if case .newestAttempt(let id, _) = $0 { id } else { nil } }) { tell(.tier(tier, .attempt(id: id, number: nil))) }
        while let id = takeTier(tier, { if case .have(let id, _, _, _) = $0 { id } else { nil } }) { tell(.tier(tier, .done(id: id))) }
        if let id = takeTier(tier, { if case .leftovers(let id, _, _) = $0 { id } else { nil } }) {
            tell(.tier(tier, .leftovers(id: id, serving: serving, leftovers)))
        }
    }
    func decide(_ save: SaveID, _ outcome: DecisionOutcome) {
        guard let (id, _) = takeDecisionRequest(save) else { Issue.record("nobody asks for a decision on \(save)"); return }
        tell(.tier(engine.committing, .decision(id: id, outcome)))
    }
    func fail(_ tier: Tier, _ id: Int, _ kind: TierFailureKind = .io) { tell(.tier(tier, .failed(id: id, TierFailure(kind: kind, text: "\(kind)")))) }
    func takeCreate(_ tier: Tier) -> (id: Int, file: Int)? {
        takeTier(tier) { if case .create(let id, let file, _, _, _) = $0 { (id, file) } else { nil } }
    }
    func takeWrites(_ tier: Tier) -> [ChunkWrite]? { takeTier(tier) { if case .write(let writes) = $0 { writes } else { nil } } }
}
