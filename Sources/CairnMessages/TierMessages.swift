// Main process <-> a tier worker: every filesystem call of that tier, and all parsing of what is there.
// Two forms of a tier: `committing` (the global tier, or the only one): attempts, decisions, `.saving-SAVEID`, `step-…`;
// `beside` (a local tier beside a global one): rank files with the save id in their names, and copies of decisions.
import CairnModel

public enum TierForm: String, Codable, Sendable { case committing, beside }
public enum Preference: String, Codable, Sendable { case auto, on, off }

/// What a tier that commits does with the files that it writes; it reads every form, whatever this says.
public struct CompressionSetting: Hashable, Codable, Sendable {
    /// `auto`: each file as the worker finds that it pays.
    public enum Method: String, Codable, Sendable { case none, zstd, auto }
    public var method: Method
    /// That compress at once.
    public var threads: Int
    public init(_ method: Method = .none, threads: Int = 1) { self.method = method; self.threads = threads }
}

public struct TierStart: Codable, Sendable {
    public var tier: Tier
    public var form: TierForm
    public var paths: [String]
    public var instance: String
    /// A worker of this daemon was here before, and left what it had not published. A folder that is missing now is not made: it is a
    /// mount that is missing, and what is written beside it is lost.
    public var isRestart: Bool
    /// Main was told by a worker before this one what the tier held at main's start: no `scan` follows, and what is undecided may be removed.
    public var wasScanned: Bool
    /// Part of every temporary name; a worker removes only what starts with its own node's name.
    public var node: String
    public var pool: PoolShape
    /// The worker's own read buffer has `bufferSlots` slots of a chunk for its loads, then `readBackSlots` for `readBack`,
    /// which main assigns (their numbers go on from `bufferSlots`).
    public var bufferSlots: Int
    public static let readBackSlots = 4
    /// No other daemon may use these folders: a local tier, unless the configuration says that it is shared.
    public var exclusive: Bool
    /// Writes and reads in flight at once.
    public var depth: Int
    /// A daemon's.
    public static let usualDepth = 16
    public var ring: Preference
    public var direct: Preference
    /// Free bytes to leave on each path.
    public var reserveBytes: Int
    public var fileMode: UInt32
    public var group: String?
    public var compression: CompressionSetting
    public init(tier: Tier, form: TierForm, paths: [String], instance: String, isRestart: Bool = false, wasScanned: Bool = false, node: String, pool: PoolShape, bufferSlots: Int, exclusive: Bool, depth: Int,
                ring: Preference, direct: Preference, reserveBytes: Int, fileMode: UInt32, group: String?, compression: CompressionSetting = CompressionSetting()) {
        self.tier = tier; self.form = form; self.paths = paths; self.instance = instance; self.isRestart = isRestart; self.wasScanned = wasScanned
        self.node = node; self.pool = pool
        self.bufferSlots = bufferSlots; self.exclusive = exclusive; self.depth = depth; self.ring = ring; self.direct = direct
        self.reserveBytes = reserveBytes; self.fileMode = fileMode; self.group = group; self.compression = compression
    }
}

/// Where a write takes its chunk from.
public enum ChunkSource: Hashable, Codable, Sendable {
    case pool(slot: Int)
    /// A slot of the other tier worker's read buffer (instance as announced by `peerBuffer`).
    case peer(instance: String, slot: Int)
}

public struct ChunkWrite: Hashable, Codable, Sendable {
    public var id: Int, file: Int, chunk: Int, bytes: Int, source: ChunkSource
    public init(id: Int, file: Int, chunk: Int, bytes: Int, source: ChunkSource) {
        self.id = id; self.file = file; self.chunk = chunk; self.bytes = bytes; self.source = source
    }
}

/// Which step, exactly. A committing tier finds it by its folder's name; a tier beside it by the save id.
public struct StepRef: Hashable, Codable, Sendable {
    public var run: RunKey, step: Int, sequence: CommitSequence, save: SaveID?
    public init(run: RunKey, step: Int, sequence: CommitSequence, save: SaveID?) {
        self.run = run; self.step = step; self.sequence = sequence; self.save = save
    }
}

/// A step that may be restored though it is not committed: every rank of it is held by this daemon.
public struct Candidate: Hashable, Codable, Sendable {
    public var step: Int, sequence: CommitSequence, save: SaveID, level: Level
    public init(step: Int, sequence: CommitSequence, save: SaveID, level: Level) {
        self.step = step; self.sequence = sequence; self.save = save; self.level = level
    }
}

/// What one daemon still holds of an older attempt's save that no file decided, when a new attempt begins: one that was to be committed
/// (`upto`), or one that was to stay in memory or on the local tier and may be restored from there.
public struct HeldSave: Hashable, Codable, Sendable {
    public var save: SaveID, worldSize: Int, upto: Level
    /// Nil: all ranks.
    public var participants: [Int]?
    /// Ranks whose part is staged or published here, ascending.
    public var ranks: [Int]
    /// The lowest level of these parts; `accepted` where one is staged but lies nowhere whole yet: it is finished, not restored from.
    public var level: Level
    /// Rank 0's count, where rank 0's part is here.
    public var count: Int?
    public init(save: SaveID, worldSize: Int, upto: Level, participants: [Int]?, ranks: [Int], level: Level, count: Int?) {
        self.save = save; self.worldSize = worldSize; self.upto = upto; self.participants = participants; self.ranks = ranks; self.level = level; self.count = count
    }
}

/// `have-NODE.json`: what one daemon has for a new attempt. The first that a node publishes stands.
public struct HaveList: Hashable, Codable, Sendable {
    /// Ranks of the new attempt that are served here, ascending.
    public var serves: [Int]
    public var saves: [HeldSave]
    /// Ranks of older attempts that this daemon served in its present life, by attempt: what it does not list of them is nowhere.
    public var served: [ServedRanks]
    public struct ServedRanks: Hashable, Codable, Sendable {
        public var attempt: Int, ranks: [Int]
        public init(attempt: Int, ranks: [Int]) { self.attempt = attempt; self.ranks = ranks }
    }
    public init(serves: [Int], saves: [HeldSave], served: [ServedRanks]) { self.serves = serves; self.saves = saves; self.served = served }
}

/// An undecided save of an older attempt, as all `have-NODE.json` and the manifests on the committing tier tell it.
public struct Leftover: Hashable, Codable, Sendable {
    /// `upto` as its holders say; a save that only manifests tell of was to be committed.
    public var save: SaveID, worldSize: Int, upto: Level, participants: [Int]?
    /// Participants of which neither a manifest stands nor any daemon says that it holds them.
    public var missing: [Int]
    /// Those of them that a daemon served and does not hold: they will not come.
    public var absent: [Int]
    /// All manifests stand: it lacks the decision only.
    public var isPublished: Bool
    /// The new attempt's ranks find their own part at their own daemon: the same world, each where it was. With rank 0's count.
    public var everywhere: Candidate?
    public init(save: SaveID, worldSize: Int, upto: Level, participants: [Int]?, missing: [Int], absent: [Int], isPublished: Bool, everywhere: Candidate?) {
        self.save = save; self.worldSize = worldSize; self.upto = upto; self.participants = participants; self.missing = missing; self.absent = absent
        self.isPublished = isPublished; self.everywhere = everywhere
    }
}

public enum TierRequest: Codable, Sendable {
    /// First message. Descriptors: the pool's segments in order, then the worker's own read buffer. -> ready or startFailed
    case start(TierStart)
    /// Descriptor: the other tier worker's read buffer (mapped read-only).
    case peerBuffer(instance: String, bytes: Int)
    /// Descriptor: a rank's lease, sealed against shrinking; a load into it alone may be read there without a copy. Its pages are there.
    case lease(segment: Int, bytes: Int)
    /// Reads that are under way keep its memory until they end.
    case release(segment: Int)

    // Files. `file` is main's own number, never used twice. Errors void the file: main abandons it and begins a new try.
    /// -> done. Creates folders and the temporary name, preallocates `bytes`.
    case create(id: Int, file: Int, key: RankSaveKey, fileTry: Int, bytes: Int)
    /// -> done for each write's id, in any order.
    case write([ChunkWrite])
    /// fdatasync of what was written so far. -> done
    case sync(id: Int, file: Int)
    /// Exact size, fsync, link of the file, `.crc`, manifest by link, fsync of the folder. Payload: manifest record
    /// (`manifestBytes` of them), then the .crc file. Taken names are accepted if what stands there verifies. -> done
    case publish(id: Int, file: Int, manifestName: String, manifestBytes: Int)
    /// Close and unlink the temporary. No reply.
    case abandon(file: Int)
    /// Read one chunk of a published file into a slot of the own read buffer and check its blocks against the `.crc` file. -> done
    case readBack(id: Int, key: RankSaveKey, chunk: Int, bytes: Int, bufferSlot: Int)
    /// -> sidecars (payload: manifest record, then the .crc file)
    case sidecars(id: Int, key: RankSaveKey)

    // Attempts. On a tier beside only while the committing tier is down, by a daemon that serves the whole world.
    /// The attempt with this token's hash, made if new. Beside: far above every attempt that anything here names. After `notAfter`
    /// (CLOCK_MONOTONIC, ns) nothing is made: a request that hung must not begin a launch that has died since and end a live one. -> attempt
    case numberAttempt(id: Int, run: RunKey, tokenHash: String, worldSize: Int, notAfter: Int? = nil)
    /// -> attempt (nil: not there yet)
    case findAttempt(id: Int, run: RunKey, tokenHash: String)
    /// The highest number. -> attempt
    case newestAttempt(id: Int, run: RunKey)
    /// A number that was given beside becomes this launch's on the committing tier. -> attempt (nil: that number or a higher one is another's)
    case claimAttempt(id: Int, run: RunKey, number: Int, tokenHash: String, worldSize: Int)
    /// Publishes attempts/ATTEMPT/have-NODE.json; what this node said first stands. -> done
    case have(id: Int, run: RunKey, attempt: Int, list: HaveList)
    /// Undecided saves of attempts below `attempt`, by all have-NODE.json of it and the manifests that stand. -> leftovers
    case leftovers(id: Int, run: RunKey, attempt: Int)

    // Decisions (committing form only).
    /// All manifests of `participants` (nil: all ranks) seen and sound: record, link, folder's last name. Completes a commit that stands
    /// already. `parent` is used where rank 0's manifest names none. Earlier saves of the attempt that a manifest's `previous` says its rank
    /// went on without are voided. Where ranks are missing, what is there is read ahead after the answer. `ranks`, here and below: those whose rows
    /// of the commit the answer carries. -> decision, or missing
    case decide(id: Int, run: RunKey, save: SaveID, worldSize: Int, participants: [Int]?, parent: CommitSequence?, ranks: [Int] = [])
    /// -> decision (the one that stands, maybe a commit)
    case void(id: Int, run: RunKey, save: SaveID, reason: String, ranks: [Int] = [])
    /// -> decision or missing. Without `lists` only the decision's own name is looked at, whatever the world's size (missing: nil).
    case look(id: Int, run: RunKey, save: SaveID, worldSize: Int, participants: [Int]?, lists: Bool, ranks: [Int] = [])

    // Restore. On a tier beside only while the committing tier is down, by a daemon that serves the whole world.
    /// Publishes restore-K.json: the newest committed step (or `step`) older than this attempt's choices that failed since a good one, or
    /// `candidate` if newer. -> choice
    case choose(id: Int, run: RunKey, attempt: Int, restore: Int, step: Int?, candidate: Candidate?)
    /// -> choice, or nothing yet
    case readChoice(id: Int, run: RunKey, attempt: Int, restore: Int)
    /// Publishes settled-K-NODE.json. -> done
    case settled(id: Int, run: RunKey, attempt: Int, restore: Int, ranks: [Int], ok: Bool, reason: String?)
    /// Reads all settled records; with `publish`, links settle-K.json when they cover the world or one is not ok (or `force`). -> verdict
    case verdict(id: Int, run: RunKey, attempt: Int, restore: Int, worldSize: Int, publish: Bool, force: Bool)
    /// Makes a committed step of another run of the same user this run's first (sequence 0-1), sharing its files' bytes where the filesystem
    /// can. `step` nil: the newest; `sequence` nil: the newest of that step. What stands already is answered. -> branched
    case branch(id: Int, run: RunKey, from: RunKey, step: Int?, sequence: CommitSequence?)
    /// -> index (payload: the StepIndex as CairnStore's StepIndexFile). On a tier beside: only the ranks held here.
    case describe(id: Int, ref: StepRef)
    /// Plan, read, check every block, and report buffers as they fill (`filled`; none where it was read into the lease), at last `loaded`.
    /// `undecided`: the save needs no commit (this daemon holds all of its ranks). Fails with notHere if this tier lacks a part.
    case load(id: Int, ref: StepRef, boxes: [Box], segments: [LeaseSegment], undecided: Bool)
    /// Slots named in `filled` may be used again.
    case freeBuffers(slots: [Int])

    // Housekeeping.
    /// Which ranks' files of a committed step are stored as frames: one listing. -> compressed
    case compressed(id: Int, ref: StepRef)
    /// -> steps (committing: committed steps; beside: saves held here with a commit's copy)
    case list(id: Int, run: RunKey)
    /// -> runs
    case runs(id: Int)
    /// All CRCs of a step's files on this tier. -> verifyProgress…, then done
    case verify(id: Int, ref: StepRef)
    case pin(id: Int, ref: StepRef, pinned: Bool)
    /// Rename to `.gone-X` (committing) or unlink (beside). -> done
    case remove(id: Int, ref: StepRef)
    /// Apply retention. Also deletes `.gone-…` older than 10 minutes, unless it is only asked what would go. -> removed
    case retain(id: Int, run: RunKey, rules: RetentionRules, given: RetentionGiven)
    /// Beside: keep a copy of a decision, a void too. Payload: as of `decision`. -> done
    case recordDecision(id: Int, run: RunKey, save: SaveID)
    /// What earlier instances left: removes own temporaries. -> scanned
    case scan(id: Int)
    /// Beside: the published parts of the run's saves, of which `step` may be given: what may be restored or promoted. Void ones are left out. -> scanned
    case held(id: Int, run: RunKey, step: Int?)
    /// -> space
    case space(id: Int)
    case stop
}

/// What main knows that a retention must heed.
public struct RetentionGiven: Hashable, Codable, Sendable {
    /// Saves that have not ended, and sequences that a restore names: they stay.
    public var protectedSaves: [SaveID], protectedSequences: [CommitSequence]
    /// As in RetentionSituation, for a tier beside.
    public var standing: CommitSequence?
    public var elsewhere: [CommitSequence] = []
    public var evictBytes = 0
    /// Nothing is removed.
    public var isDry = false
    public var explains = false
    public init(protectedSaves: [SaveID], protectedSequences: [CommitSequence]) { self.protectedSaves = protectedSaves; self.protectedSequences = protectedSequences }
}

public enum TierFailureKind: String, Codable, Sendable {
    /// `unreachable`: the filesystem itself may be gone. Main is told so only of a start; else the worker looks, and says `io` or `gone`.
    case unreachable
    case noSpace, missing, io, corrupt, notHere, noSuchStep, noSuchTensor, notWhole, tooLarge, ended, invalid, workerLost, other
}

public struct TierFailure: Error, Hashable, Codable, Sendable {
    public var kind: TierFailureKind
    /// What was tried, on what, the kernel's answer: one sentence for logs and clients.
    public var text: String
    public var path: String?
    public var block: Int?
    public var needed: Int?
    public var available: Int?
    public init(kind: TierFailureKind, text: String, path: String? = nil, block: Int? = nil, needed: Int? = nil, available: Int? = nil) {
        self.kind = kind; self.text = text; self.path = path; self.block = block; self.needed = needed; self.available = available
    }
}

public enum DecisionOutcome: Hashable, Codable, Sendable {
    case committed(sequence: CommitSequence)
    case void(reason: String)
}

public struct PathSpace: Hashable, Codable, Sendable {
    public var path: String, totalBytes: Int, freeBytes: Int
    public init(path: String, totalBytes: Int, freeBytes: Int) { self.path = path; self.totalBytes = totalBytes; self.freeBytes = freeBytes }
}

/// A rank's save that a scan found published.
public struct FoundRankSave: Hashable, Codable, Sendable {
    public var key: RankSaveKey
    public var step: Int, worldSize: Int, fileBytes: Int
    /// Rank 0's count of saves, where this is rank 0's.
    public var count: Int?
    public var decision: DecisionOutcome?
    /// How far it was to go.
    public var upto: Level
    /// Nil: all ranks.
    public var participants: [Int]?
    /// Its attempt was numbered on this tier, beside, for the launch with this token's hash: the committing tier may not know of it yet.
    public var tokenHash: String?
    public init(key: RankSaveKey, step: Int, worldSize: Int, fileBytes: Int, count: Int?, decision: DecisionOutcome?, upto: Level = .committed,
                participants: [Int]? = nil, tokenHash: String? = nil) {
        self.key = key; self.step = step; self.worldSize = worldSize; self.fileBytes = fileBytes; self.count = count; self.decision = decision
        self.upto = upto; self.participants = participants; self.tokenHash = tokenHash
    }
}

public struct RunSummary: Hashable, Codable, Sendable {
    public var run: RunKey, steps: Int, bytes: Int, newest: CommitSequence?
    public init(run: RunKey, steps: Int, bytes: Int, newest: CommitSequence?) {
        self.run = run; self.steps = steps; self.bytes = bytes; self.newest = newest
    }
}

public struct VerifyProgress: Hashable, Codable, Sendable {
    public var rank: Int, doneBytes: Int, totalBytes: Int
    public var badPath: String?, badBlock: Int?, reason: String?
    public init(rank: Int, doneBytes: Int, totalBytes: Int, badPath: String? = nil, badBlock: Int? = nil, reason: String? = nil) {
        self.rank = rank; self.doneBytes = doneBytes; self.totalBytes = totalBytes
        self.badPath = badPath; self.badBlock = badBlock; self.reason = reason
    }
}

/// How a file was stored on a tier that may compress, and what made it so.
public struct CompressionReport: Hashable, Codable, Sendable {
    public var isCompressed: Bool
    public var plainBytes: Int, storedBytes: Int
    /// With `auto`: what frames take of the plain bytes, as measured or estimated, of this file or the one before.
    public var share: Double?
    /// Plain bytes a second that all threads compress, bytes a second that the tier writes; nil: not measured yet.
    public var compressedPerSecond: Double?, writtenPerSecond: Double?
    public init(isCompressed: Bool, plainBytes: Int, storedBytes: Int, share: Double?, compressedPerSecond: Double?, writtenPerSecond: Double?) {
        self.isCompressed = isCompressed; self.plainBytes = plainBytes; self.storedBytes = storedBytes; self.share = share
        self.compressedPerSecond = compressedPerSecond; self.writtenPerSecond = writtenPerSecond
    }
}

public enum TierReply: Codable, Sendable {
    /// `ring`: io_uring is used; `direct`: O_DIRECT is. `notes` say once what was refused and why.
    case ready(ring: Bool, direct: Bool, notes: [String])
    /// The worker exits after this: a path is missing, not writable, or locked by another daemon.
    case startFailed(TierFailure)
    /// The worker exits after this, without an answer to what is pending: its folders cannot be used any more, or others stand in their
    /// place by now. The next worker opens them anew.
    case gone(TierFailure)
    case done(id: Int)
    case failed(id: Int, TierFailure)
    case attempt(id: Int, number: Int?)
    /// Payload: the decision as it stands, with the rows that were asked for (CairnStore's DecisionCopy).
    case decision(id: Int, DecisionOutcome)
    /// Participants without a manifest (none: all are there, nobody decided); nil: nobody decided, manifests were not looked for.
    case missing(id: Int, ranks: [Int]?)
    /// `serving`: ranks of the attempt that all have-NODE.json together say are served.
    case leftovers(id: Int, serving: Int, [Leftover])
    case branched(id: Int, step: Int, sequence: CommitSequence)
    /// Nil: nothing published yet; `step` nil: there is nothing to restore.
    case choice(id: Int, chosen: Bool, step: Int?, sequence: CommitSequence?, save: SaveID?, level: Level?)
    case verdict(id: Int, ok: Bool?, reason: String?)
    case index(id: Int)
    /// Payload: `copies` of 4 words (offset in the read buffer, segment, offset in it, bytes). The blocks are checked.
    case filled(id: Int, slots: [Int], copies: Int)
    /// After all `filled` of this load.
    case loaded(id: Int, placed: [PlacedPiece])
    case sidecars(id: Int, manifestName: String, manifestBytes: Int)
    case steps(id: Int, [StepSummary])
    case runs(id: Int, [RunSummary])
    case verifyProgress(id: Int, VerifyProgress)
    /// Without a request, after each file that a tier with a compression published.
    case stored(CompressionReport)
    case compressed(id: Int, ranks: [Int])
    /// What went; with `explains` a decision for each step, oldest first.
    case removed(id: Int, [RetentionDecision])
    case scanned(id: Int, [FoundRankSave])
    case space(id: Int, [PathSpace])
}
