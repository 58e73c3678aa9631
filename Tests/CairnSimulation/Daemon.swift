// One daemon of the simulation: the engine under test, its workers and its clients' calls. What it does is in +Actions, its life and death
// in +Life. A crash drops all but the disks.
import CairnEngine
import CairnMessages
import CairnModel

final class Daemon {
    unowned let world: World
    let index: Int
    var engine: Engine
    var up = false
    /// Changes with each crash: what was sent to an earlier life does not arrive.
    var life = 0
    var stager: StagerModel?
    var workers: [Tier: TierModel] = [:]
    let localDisk: ModelDisk
    var pool: PoolModel
    /// By the handles that this life's engine knows.
    var records: [Int: SaveRecord] = [:]
    var recordsByKey: [RankSaveKey: SaveRecord] = [:]
    /// What is written down to outlive this life, by handle.
    var kept: [Int: (part: KeptRankSave, record: SaveRecord)] = [:]
    var fileNumbers: Set<Int> = []
    var sessions: [String: Rank] = [:]
    var calls: [CallID: (Answer) -> Void] = [:]
    var answered: Set<CallID> = []
    /// Older attempts' saves of which, by the last answer, every part is staged or published somewhere.
    var finishable: Set<SaveID> = []
    /// Steps of which a promotion was asked for in this life, by attempt: whoever joins such a save goes as far.
    var promotions: Set<SaveID> = []
    /// Since when its committing worker has been up and has not hung.
    var healthySince = 0
    /// Which save a tier's request was about, for the coverage of states.
    var subjects: [Int: SaveID] = [:]
    private var nextCall = 1, nextHandle = 1
    var tickPlanned = false

    init(world: World, index: Int) {
        self.world = world; self.index = index
        localDisk = ModelDisk(run: world.settings.run)
        engine = Engine(limits: world.settings.limits, tiers: world.settings.tiers, retention: world.settings.retention)
        pool = PoolModel(slots: world.settings.limits.slots)
    }

    /// Its answer arrives later, if the rank still has this session then; `atOnce` is the simulation's own knowledge.
    func call(_ rank: Rank, atOnce: @escaping (Answer) -> Void = { _ in }, _ body: @escaping (Answer) -> Void) -> CallID {
        nextCall += 1
        let life = life, session = rank.session
        calls[nextCall] = { [self] answer in
            atOnce(answer)
            world.after(world.delay()) { if self.life == life, rank.alive, rank.session == session { body(answer) } }
        }
        return nextCall
    }
    func newHandle() -> Int { nextHandle += 1; return nextHandle }

    func deliver(_ event: Event) {
        guard up, world.violation == nil else { return }
        world.events += 1
        if world.options.isVerbose { world.note("d\(index) <- \(event)") }
        if case .tier(_, .leftovers(_, _, let left)) = event { finishable = Set(left.filter(\.missing.isEmpty).map(\.save)) }
        let actions = engine.handle(event, at: world.now)
        for action in actions { perform(action) }
        if let broken = engine.violatedInvariant() { world.fail(broken) }
        world.cover(event, self)
        planTick()
    }

    /// As main does it: time is told only while the engine waits for it.
    func planTick() {
        guard engine.needsTick, !tickPlanned else { return }
        tickPlanned = true
        let life = life
        world.after(40 * World.ms) { [self] in
            tickPlanned = false
            if self.life == life { deliver(.tick) } else if up { planTick() }
        }
    }

    private func perform(_ action: Action) {
        if world.options.isVerbose { world.note("d\(index) -> \(action)") }
        switch action {
        case .reply(let id, let answer):
            if !answered.insert(id).inserted { world.fail("I4: call \(id) is answered twice: \(answer)") }
            calls.removeValue(forKey: id)?(answer)
        case .stager(let request):
            if case .stage(let chunks) = request {
                let given = Set(chunks.map(\.slot))
                kept = kept.filter { given.isDisjoint(with: $0.value.part.slots) }
            }
            stager?.handle(request)
        case .keep(let handle): kept[handle] = engine.kept(handle: handle).flatMap { part in records[handle].map { (part, $0) } }
        case .drop(let handle): kept[handle] = nil
        case .tier(let tier, let request):
            guard let worker = workers[tier] else { return world.fail("I10: \(request) is sent to the \(tier) worker, which is down") }
            if let (id, save) = request.subject { subjects[id] = save }
            if case .void(_, _, let save, let reason, _) = request, finishable.contains(save), reason.contains("attempt ended") {
                world.fail("I1: \(save) of an older attempt is voided (\(reason)) though nothing of it is missing")
            }
            worker.handle(request)
        case .publish(let tier, let id, let file, let handle, let facts):
            guard let worker = workers[tier] else { return world.fail("I10: a publish is sent to the \(tier) worker, which is down") }
            subjects[id] = engine.key(ofHandle: handle)?.save
            worker.publish(id, file, facts)
        case .recordDecision(let tier, let id, _, let save): workers[tier]?.recordDecision(id, save)
        case .tell(let notice): checkNotice(notice)
        case .forget(let handle):
            kept[handle] = nil
            if let record = records.removeValue(forKey: handle), record.isHeld { recordsByKey[record.key] = nil }
        case .endSession(let token, _, let replaced):
            if !replaced, let rank = sessions.removeValue(forKey: token) { rank.ended() }
        case .log(_, let text, _, let save, let rank, _):
            world.note("d\(index): \(save.map { "\($0)" } ?? "") \(rank.map { "rank \($0)" } ?? "") \(text)")
        }
    }

    /// What main puts into the manifest: of a save of this life what it was told, else what the local tier's manifest says.
    func manifest(_ key: RankSaveKey, _ facts: ManifestFacts) -> PublishedFile? {
        if let record = recordsByKey[key], !record.recovered {
            return PublishedFile(chunks: [], fileBytes: record.fileBytes, worldSize: record.worldSize, participants: facts.participants, count: facts.count,
                                 previous: facts.previous, parent: record.parent, upto: record.upto,
                                 token: record.token)
        }
        guard var file = localDisk.files[key] else { return nil }
        file.chunks = []
        return file
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

    /// Whether a restore of an uncommitted save finds this part here: on the local tier, or whole in the pool.
    func holds(_ key: RankSaveKey) -> Bool {
        if workers[.local] != nil, (world.settings.hasBeside ? localDisk : world.disk).files[key] != nil { return true }
        return !slots(of: key).isEmpty
    }
    /// The pool's slots of a part that is whole there, in chunk order.
    func slots(of key: RankSaveKey) -> [Int] {
        guard let record = recordsByKey[key], let handle = record.handle, engine.knows(handle: handle) else { return [] }
        let slots = (0..<record.chunkCount).compactMap { chunk in
            pool.contents.firstIndex(of: .chunk(record.content(chunk))).flatMap { slot in
                pool.assigned[slot].map { $0.handle == handle && $0.chunk == chunk } == true ? slot : nil
            }
        }
        return slots.count == record.chunkCount ? slots : []
    }
}

extension TierRequest {
    /// The request's id and the save that it is about.
    var subject: (Int, SaveID)? {
        switch self {
        case .create(let id, _, let key, _, _), .readBack(let id, let key, _, _, _): (id, key.save)
        case .decide(let id, _, let save, _, _, _, _), .void(let id, _, let save, _, _), .look(let id, _, let save, _, _, _, _): (id, save)
        default: nil
        }
    }
}
