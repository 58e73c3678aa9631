// The pure state machine of one daemon: events in, actions out; no I/O, no clock, no threads.
// Files: +Attempts (open, numbering), +Leftovers (what older attempts left), +Staging (save, chunks, fence), +Held (saves that get their step later), +Flush (tiers), +Kept (what outlives the process), +Evict (room in the pool), +Commit (decide, void),
// +Restore (choose, settle), +Recovery (scan, lost workers), +Report (what status shows, invariants), +Progress (what watch shows).
import CairnMessages
import CairnModel

public final class Engine {
    public private(set) var limits: EngineLimits
    public let tiers: [Tier]
    /// Where attempts and decisions live: the global tier, or the only one.
    public let committing: Tier
    /// The local tier beside a global one.
    public let beside: Tier?
    /// Retention per tier, from the configuration.
    private(set) var retention: [Tier: RetentionRules]

    var now = 0
    var actions: [Action] = []
    var pool: Pool
    var sessions: [SessionToken: Session] = [:]
    var runs: [RunKey: Run] = [:]
    var saves: [SaveKey: Save] = [:]
    var rankSaves: [Int: RankSave] = [:]
    /// Rank saves that still want the stager, in the order of their turn.
    var stagingTurn: [Int] = []
    /// Rank saves with something to flush, oldest first.
    var flushOrder: [Int] = []
    var tierStates: [Tier: TierState] = [:]
    var waits: [(call: CallID, run: RunKey, save: SaveID, rank: Int?, level: Level, deadline: Int?)] = []
    var stagerUp = false
    var draining = false
    var resting: [(slot: Int, handle: Int, until: Int)] = []
    var nextID = 1
    var nextHandle = 1 << 32
    /// The file that the reply being handled is about.
    var repliedFileNumber: Int?

    public init(limits: EngineLimits, tiers: [Tier], retention: [Tier: RetentionRules] = [:]) {
        limits.verify()
        precondition(!tiers.isEmpty && tiers.count <= 2 && !tiers.contains(.memory), "one tier or two")
        self.limits = limits
        self.tiers = tiers.sorted { $0 == .local && $1 == .global }
        committing = tiers.contains(.global) ? .global : .local
        beside = tiers.count == 2 ? .local : nil
        self.retention = retention
        pool = Pool(slots: limits.slots)
        for tier in tiers { tierStates[tier] = TierState(tier: tier) }
    }

    /// Between two events. What the pool and the queues were made for stays.
    public func reconfigure(retention: [Tier: RetentionRules], _ change: (inout EngineLimits) -> Void) {
        self.retention = retention
        change(&limits)
        limits.verify()
    }

    public func handle(_ event: Event, at instant: Int) -> [Action] {
        precondition(instant >= now, "time does not go back")
        now = instant
        actions.removeAll(keepingCapacity: true)
        switch event {
        case .open(let request): open(request)
        case .sessionEnded(let token, let reason): endSession(token, reason: reason)
        case .save(let request): save(request)
        case .put(let handle, let streamedFrom): rankSaves[handle]?.streamedFrom = streamedFrom
        case .discard(let handle): discardHeld(handle)
        case .hungUp(let token): sessionHungUp(token)
        case .wait(let call, let run, let save, let rank, let level, let deadline):
            wait(call: call, run: run, save: save, rank: rank, level: level, deadline: deadline)
        case .choose(let call, let session, let restore, let step, let deadline):
            choose(call: call, session: session, restore: restore, step: step, deadline: deadline)
        case .settle(let call, let session, let restore, let ok, let reason):
            settle(call: call, session: session, restore: restore, ok: ok, reason: reason)
        case .callGone(let call): callGone(call)
        case .kept(let parts): takeUp(parts)
        case .stagerReady: stagerReady()
        case .stagerLost(let reason): stagerLost(reason)
        case .stager(let reply): stagerReplied(reply)
        case .tierReady(let tier): tierReady(tier)
        case .tierLost(let tier, let reason): tierLost(tier, reason: reason)
        case .tier(let tier, let reply): tierReplied(tier, reply)
        case .promote(let call, let session, let step, let level): promote(call: call, session: session, step: step, level: level)
        case .slotsHeld(let slots): for slot in slots { pool.hold(slot) }
        case .slotsReleased(let slots): slotsReleased(slots)
        case .drain(let on): draining = on
        case .tick: tick()
        }
        pump()
        return actions
    }

    /// Everything that a changed state may allow: hand out chunks, write, publish, decide.
    func pump() {
        assignChunks()
        for tier in tiers { flush(tier) }
        // Writing may have made room: a second look costs little and saves waiting for the next event.
        assignChunks()
    }

    func tick() {
        pool.endQuarantines(at: now)
        endRests()
        tickScans()
        tickAttempts()
        tickStaging()
        tickFlush()
        tickCommit()
        tickRestore()
        tickWaits()
    }

    // MARK: helpers

    func ms(_ milliseconds: Int) -> Int { milliseconds * 1_000_000 }
    /// Daemons that wait for the same file do not ask all at once: three quarters to five quarters of `nanoseconds`.
    func jittered(_ nanoseconds: Int) -> Int {
        var mixed = (UInt64(truncatingIfNeeded: nextID) &+ limits.jitterSeed) &* 0x9E37_79B9_7F4A_7C15
        mixed = (mixed ^ (mixed >> 30)) &* 0xBF58_476D_1CE4_E5B9
        return nanoseconds * 3 / 4 + Int((mixed >> 33) % UInt64(nanoseconds / 2 + 1))
    }
    func reply(_ call: CallID?, _ answer: Answer) { if let call { actions.append(.reply(call, answer)) } }
    func log(_ severity: Severity, _ text: String, _ key: RankSaveKey? = nil, tier: Tier? = nil) {
        actions.append(.log(severity, text, run: key?.run, save: key?.save, rank: key?.rank, tier: tier))
    }
    func log(_ severity: Severity, _ text: String, save: SaveKey, tier: Tier? = nil) {
        actions.append(.log(severity, text, run: save.run, save: save.save, rank: nil, tier: tier))
    }

    /// Sends a request of a tier and remembers what it was for.
    func ask(_ tier: Tier, _ what: Pending, file: Int? = nil, _ request: (Int) -> TierRequest) {
        guard let state = tierStates[tier] else { preconditionFailure("there is no tier \(tier)") }
        let id = newID()
        state.pending[id] = (what, file, now)
        actions.append(.tier(tier, request(id)))
    }
    func newID() -> Int {
        defer { nextID += 1 }
        return nextID
    }
    func newHandle() -> Int { nextHandle += 1; return nextHandle }
    func run(_ key: RunKey) -> Run {
        if let run = runs[key] { return run }
        let run = Run(key: key)
        runs[key] = run
        return run
    }
    var orderedRuns: [Run] { runs.values.sorted { $0.key < $1.key } }
    func isUp(_ tier: Tier) -> Bool { tierStates[tier]?.up == true }

    /// The level at which a save that asked for `upto` ends.
    func finalLevel(_ upto: Level) -> Level {
        switch upto {
        case .accepted, .staged: .staged
        case .local: beside == nil ? .committed : .local
        case .global, .committed, .failed: .committed
        }
    }
    /// The tiers that a save which asked for `upto` goes to, nearest first.
    func targets(_ upto: Level) -> [Tier] {
        switch finalLevel(upto) {
        case .staged: []
        case .local: [.local]
        default: tiers
        }
    }

    func stagerReplied(_ reply: StagerReply) {
        switch reply {
        case .ready: stagerReady()
        case .filled(let slots, _, _, _): pool.fill(upTo: slots)
        case .sessionOpened(let token, let direct): sessionOpened(token, direct: direct)
        case .staged(let chunks): for chunk in chunks { chunkStaged(chunk) }
        case .eagerStaged(let handle): eagerStaged(handle)
        case .stageFailed(let handle, let kind, let text): stageFailed(handle, kind: kind, text: text)
        case .cancelled(let handle, let busy): cancelled(handle, busySlots: busy)
        case .slotFree(let slot): slotFree(slot)
        case .memoryAttached, .putDone, .putFailed, .leased, .leaseFailed, .copiedOut, .copyFailed, .changed: break   // main's own affair
        }
    }

    func tierReplied(_ tier: Tier, _ reply: TierReply) {
        guard let state = tierStates[tier], let id = reply.id, let (what, file, _) = state.pending.removeValue(forKey: id) else { return }
        repliedFileNumber = file
        if case .failed(_, let failure) = reply { return tierFailed(tier, what, failure) }
        switch (what, reply) {
        case (.number(let key), .attempt(_, let number)), (.find(let key), .attempt(_, let number)): attemptNumber(key, number, by: tier)
        case (.seek(let key), .attempt(_, let number)): soughtBeside(key, number)
        case (.newest(let run), .attempt(_, let number)): newestAttempt(run, number)
        case (.claim(let run, let attempt), .attempt(_, let number)): claimed(run, attempt, isOurs: number == attempt)
        case (.listHeld(let key), .scanned(_, let found)): publishHave(key, found: found)
        case (.have(let key), .done): havePublished(key)
        case (.leftovers(let key), .leftovers(_, let serving, let leftovers)): leftoversRead(key, serving: serving, leftovers)
        case (.promote(let call, let run, let attempt, let level, let step), .scanned(_, let found)): promoteFound(call, run, attempt, level, found, step: step)
        case (.drop(let key), .done): dropped(key)
        case (.held(let key, let restore), .scanned(_, let found)): heldRead(key, restore, found)
        case (.resumeChoice(let key, let restore), .choice(_, let chosen, let step, let sequence, let save, _)):
            choiceResumed(key, restore, at: tier, chosen: chosen, step: step, sequence: sequence, save: save)
        case (.resumeSteps(let key), .steps(_, let steps)): stepsResumed(key, steps)
        case (.create(let handle), .done): fileCreated(handle, tier)
        case (.write(let handle, let chunk, let slot, let readBack), .done):
            chunkWritten(handle, tier, chunk: chunk, slot: slot, readBack: readBack)
        case (.sync(let handle), .done): fileSynced(handle, tier)
        case (.publish(let handle), .done): filePublished(handle, tier)
        case (.readBack(let handle, let chunk, let slot), .done): readBackDone(handle, chunk: chunk, slot: slot)
        case (.decide(let key), .decision(_, let outcome)), (.void(let key), .decision(_, let outcome)),
             (.look(let key), .decision(_, let outcome)):
            decided(key, outcome)
        case (.decide(let key), .missing(_, let ranks)), (.look(let key), .missing(_, let ranks)): undecided(key, missing: ranks)
        case (.orphan(let run, let save), .decision(_, let outcome)): orphanDecided(run, save, outcome)
        case (.orphan(let run, let save), .missing): orphanDecided(run, save, nil)
        case (.choose(let key, let restore), .choice(_, let chosen, let step, let sequence, let save, _)),
             (.readChoice(let key, let restore), .choice(_, let chosen, let step, let sequence, let save, _)):
            choiceRead(key, restore, chosen: chosen, step: step, sequence: sequence, save: save)
        case (.settled(let key, let restore, let ranks), .done): settledRecorded(key, restore, ranks)
        case (.verdict(let key, let restore), .verdict(_, let ok, let reason)): verdictRead(key, restore, ok: ok, reason: reason, by: tier)
        case (.scan, .scanned(_, let found)): scanned(tier, found)
        case (.retain(let run), .removed(_, let gone)):
            for step in gone {
                actions.append(.log(.info, "retention removed step \(step.step), sequence \(step.sequence), from the \(tier) tier: \(step.reason)", run: run, save: nil, rank: nil, tier: tier))
            }
        case (.record(let key), _): retain(key.run, tiers: [tier])
        case (.discard, _): break
        default: preconditionFailure("a reply of the \(tier) worker does not fit its request: \(what)")
        }
    }
}

extension TierReply {
    /// The request's id; nil for what a worker says of itself.
    public var id: Int? {
        switch self {
        case .ready, .startFailed, .gone, .stored: nil
        case .done(let id), .failed(let id, _), .attempt(let id, _), .decision(let id, _), .missing(let id, _),
             .choice(let id, _, _, _, _, _), .verdict(let id, _, _), .index(let id), .filled(let id, _, _), .loaded(let id, _),
             .sidecars(let id, _, _), .steps(let id, _), .runs(let id, _), .verifyProgress(let id, _), .removed(let id, _),
             .scanned(let id, _), .space(let id, _), .leftovers(let id, _, _), .branched(let id, _, _), .compressed(let id, _): id
        }
    }
}
