// What the engine is told, and what it asks for. Time comes with each event, in nanoseconds of a monotonic clock.
import CairnMessages
import CairnModel

public typealias CallID = Int
public typealias SessionToken = String

public struct OpenRequest: Sendable {
    public var call: CallID, session: SessionToken, run: RunKey, rank: Int, worldSize: Int, localWorldSize: Int?
    public var tokenHash: String, pid: Int32
    /// The attempt's number, as an earlier Open told this rank.
    public var number: Int?
    public init(call: CallID, session: SessionToken, run: RunKey, rank: Int, worldSize: Int, localWorldSize: Int?, tokenHash: String, pid: Int32, number: Int? = nil) {
        self.call = call; self.session = session; self.run = run; self.rank = rank; self.worldSize = worldSize
        self.localWorldSize = localWorldSize; self.tokenHash = tokenHash; self.pid = pid; self.number = number
    }
}

public struct SaveRequest: Sendable {
    public var call: CallID, session: SessionToken, handle: Int, step: Int, attemptTry: Int, upto: Level
    public var staging: BeginStaging
    /// Chunks that hold eager bytes, ascending, the header's among them.
    public var eagerChunks: [Int]
    /// Whether the reply waits for `eagerStaged`: some eager bytes are the rank's own memory.
    public var waitsForEager: Bool
    /// The ranks that take part, ascending, rank 0 and this one among them; nil: all.
    public var participants: [Int]?
    /// These are copies of replicas that other nodes' ranks own. They come before the rank's own part of the save, which is told
    /// staged only when its copies are.
    public var isCopies: Bool
    /// It is held: `attemptTry` counts the rank's held saves, and it has no step yet.
    public var isHeld: Bool
    /// It is made of a held save.
    public var sealing: Sealing?
    /// Where the first byte that the rank streams lies in the file: no chunk from there on is given a slot before its bytes come, but those with
    /// eager ones. Nil: it streams none.
    public var streamedFrom: Int?
    public init(call: CallID, session: SessionToken, handle: Int, step: Int, attemptTry: Int, upto: Level, staging: BeginStaging,
                eagerChunks: [Int], waitsForEager: Bool, participants: [Int]? = nil, isCopies: Bool = false, isHeld: Bool = false, sealing: Sealing? = nil,
                streamedFrom: Int? = nil) {
        self.call = call; self.session = session; self.handle = handle; self.step = step; self.attemptTry = attemptTry
        self.upto = upto; self.staging = staging; self.eagerChunks = eagerChunks; self.waitsForEager = waitsForEager
        self.participants = participants; self.isCopies = isCopies; self.isHeld = isHeld; self.sealing = sealing
        self.streamedFrom = streamedFrom
    }
}

public enum Event: Sendable {
    case open(OpenRequest)
    /// The session's process is gone, it closed, or a newer one replaced it.
    case sessionEnded(SessionToken, reason: String)
    case save(SaveRequest)
    /// The rank puts streamed bytes of its save; the next one that is missing lies there in the file. Nil: none is.
    case put(handle: Int, streamedFrom: Int?)
    /// The rank gives up a held save.
    case discard(handle: Int)
    /// The session hung up its socket before its save was staged: memory may have changed (I13).
    case hungUp(SessionToken)
    case wait(call: CallID, run: RunKey, save: SaveID, rank: Int?, level: Level, deadline: Int?)
    case choose(call: CallID, session: SessionToken, restore: Int, step: Int?, deadline: Int?)
    case settle(call: CallID, session: SessionToken, restore: Int, ok: Bool, reason: String?)
    /// The newest save of this step that this session's attempt ended short of `level` is to go so far.
    case promote(call: CallID, session: SessionToken, step: Int, level: Level)
    /// The caller of a pending call is gone.
    case callGone(CallID)
    /// What a former process of this daemon left in the pool, checked. Comes first, or never.
    case kept([KeptRankSave])
    case stagerReady
    case stagerLost(reason: String)
    case stager(StagerReply)
    case tierReady(Tier)
    case tierLost(Tier, reason: String)
    case tier(Tier, TierReply)
    /// Slots are being copied out of, or no longer are (a restore from memory).
    case slotsHeld([Int])
    case slotsReleased([Int])
    case drain(Bool)
    case tick
}

public enum EngineError: Error, Hashable, Sendable {
    case attemptEnded(by: Int)
    case rankTaken(pid: Int32)
    case unknownSave(String)
    case busy(step: Int)
    case tooLarge(bytes: Int, limit: Int)
    case noSuchStep(Int)
    case tierDown(tier: String, reason: String)
    case invalid(name: String, reason: String)
    case timedOut(Level)
    case draining
    case notOpen
}

public enum Answer: Hashable, Sendable {
    case opened(session: SessionToken, attempt: Int, needsDescriptor: Bool)
    case saved(SaveID, bytes: Int)
    case waited(Level, reason: String?)
    case chosen(step: Int, sequence: CommitSequence)
    /// Again: why a rank could not restore.
    case settled(again: Bool, reason: String?)
    case promoted
    case failed(EngineError)
}

/// One level reached (or progress within it), for watchers.
public struct Notice: Hashable, Sendable {
    public var run: RunKey, save: SaveID, rank: Int, level: Level, bytes: Int, totalBytes: Int, at: Int, reason: String?
    /// The level was just reached; else the bytes on the way to the next are news, or it is told again.
    public var reached: Bool
    /// How long its staging has waited for a slot of the pool until now.
    public var poolWaitNs: Int
    public init(run: RunKey, save: SaveID, rank: Int, level: Level, bytes: Int, totalBytes: Int, at: Int, reason: String?,
                reached: Bool = false, poolWaitNs: Int = 0) {
        self.run = run; self.save = save; self.rank = rank; self.level = level; self.bytes = bytes
        self.totalBytes = totalBytes; self.at = at; self.reason = reason; self.reached = reached; self.poolWaitNs = poolWaitNs
    }
}

/// What the engine says for a rank's manifest.
public struct ManifestFacts: Hashable, Sendable {
    /// Rank 0's own count of `save()` calls.
    public var count: Int?
    /// The save that this rank made before this one, in the same attempt and life of the daemon: it skipped what lies between.
    public var previous: SaveID?
    /// Nil: all ranks.
    public var participants: [Int]?
    public init(count: Int?, previous: SaveID?, participants: [Int]?) { self.count = count; self.previous = previous; self.participants = participants }
}

public enum Severity: String, Sendable { case info, notice, warning, error }

public enum Action: Sendable {
    case reply(CallID, Answer)
    /// Main adds the header to `begin`.
    case stager(StagerRequest)
    /// Main adds the manifest and CRCs to `publish` (of the rank save `handle`) and the record to `recordDecision`.
    case tier(Tier, TierRequest)
    case publish(Tier, id: Int, file: Int, handle: Int, ManifestFacts)
    case recordDecision(Tier, id: Int, run: RunKey, save: SaveID)
    case tell(Notice)
    /// This part is staged and whole in the pool, or something changed of what `Engine.kept` says of it: it is to outlive this process.
    case keep(handle: Int)
    /// It is not, any more.
    case drop(handle: Int)
    /// Nothing refers to this rank save's plan and CRCs any more.
    case forget(handle: Int)
    /// The engine ended this session: a newer attempt or a newer session of the same process took its place.
    case endSession(SessionToken, reason: String, replaced: Bool)
    case log(Severity, String, run: RunKey?, save: SaveID?, rank: Int?, tier: Tier?)
}
