// The engine's records: sessions, attempts, saves, and one rank's part of a save with its chunks and files.
import CairnMessages
import CairnModel

struct SaveKey: Hashable, Comparable {
    var run: RunKey, save: SaveID
    static func < (left: SaveKey, right: SaveKey) -> Bool { (left.run, left.save) < (right.run, right.save) }
}

struct AttemptKey: Hashable { var run: RunKey, tokenHash: String }

final class Session {
    let token: SessionToken, run: RunKey, rank: Int, pid: Int32, openedAt: Int
    let attempt: AttemptKey
    /// The Open call that waits for the stager and for the attempt's number.
    var openCall: CallID?
    var direct: Bool?
    /// Rank 0's own count of saves in this attempt lives in the attempt: a reconnect goes on with it.
    init(token: SessionToken, run: RunKey, rank: Int, pid: Int32, attempt: AttemptKey, openCall: CallID, now: Int) {
        openedAt = now
        self.token = token; self.run = run; self.rank = rank; self.pid = pid; self.attempt = attempt; self.openCall = openCall
    }
}

final class Attempt {
    let key: AttemptKey, worldSize: Int
    var number: Int?
    /// The number was given by the tier beside while the committing one was down, and is not claimed there yet.
    var isProvisional = false
    var localWorldSize: Int?
    /// Sessions by rank.
    var sessions: [Int: SessionToken] = [:]
    /// Ranks that have opened here at any time.
    var seen: Set<Int> = []
    /// The number as a rank was told it by a former life of this daemon.
    var toldNumber: Int?
    /// Whether the tier beside was asked for a number that it gave this launch before.
    var isSoughtBeside = false
    /// Resumed while the committing tier was out: what its restores chose there is still to be read.
    var resumedWithout = false
    /// Tiers that are asked for the number, one that hangs among them; when to ask again.
    var numberAsked: Set<Tier> = [], askAt = 0, askInterval: Int
    /// What a former life left is being asked for.
    var isResuming = false
    var openedAt: Int
    let firstOpenedAt: Int
    /// Each rank's last save here: what lies between two of them, that rank skipped.
    var previous: [Int: SaveID] = [:]
    /// What older attempts left: this node's list (`have-NODE.json`), then, at rank 0's daemon, the end of all of it.
    var hasListed = false, isListing = false, isClearing = false, clearAt = 0, clearInterval: Int
    var isCleared = false
    /// As it was last told: what a restore may choose of it.
    var leftovers: [Leftover] = []
    /// Rank 0's count of `save()` calls (only where rank 0 is served here).
    var count = 0
    /// The step that this attempt restored: its commits' parent.
    var parent: CommitSequence?
    var restores: [Int: Restore] = [:]
    /// What a former life of this daemon left of this attempt is known.
    var resumed = false, resumedRestores = 0
    init(key: AttemptKey, worldSize: Int, now: Int, askInterval: Int) {
        self.key = key; self.worldSize = worldSize; openedAt = now; firstOpenedAt = now; self.askInterval = askInterval
        clearInterval = askInterval
    }
    var servesWorld: Bool { sessions.count == worldSize }
}

/// One `Choose`/`Settle` round of an attempt, as this daemon sees it.
final class Restore {
    enum Phase { case waiting, asking, chosen(step: Int?, sequence: CommitSequence?, save: SaveID?) }
    var phase = Phase.waiting
    let startedAt: Int
    var step: Int?
    /// False: a former life of this daemon was asked for it, only what it chose stands.
    var isStepKnown = true
    /// Where the choice and the verdict stand or are asked for: the committing tier, or beside while that is down. Once asked, for good,
    /// unless there was nothing beside.
    var choicePlace: Tier?, verdictPlace: Tier?
    /// What this daemon's local tier holds has been asked for this choice.
    var held: [FoundRankSave]?
    var calls: [(call: CallID, session: SessionToken, deadline: Int?)] = []
    var pollAt = 0
    var settled: [Int: (ok: Bool, reason: String?)] = [:]
    var settleCalls: [CallID] = []
    var settleStartedAt: Int?
    /// Ranks whose outcome stands in a file: those of a node that nobody counted may come one by one.
    var publishedRanks: Set<Int> = []
    var verdictAsking = false
    var verdict: Bool?, refusal: String?
    /// Tiers that were asked for a former life's verdict.
    var resumedVerdicts: Set<Tier> = []
    /// Chosen before this life of the daemon: a verdict may stand already.
    var resumed = false
    init(startedAt: Int, step: Int?) { self.startedAt = startedAt; self.step = step }
}

/// One rank's file of one save on one tier. An error voids it; the next try is a new value with a new number.
final class FileState {
    enum Phase: Equatable { case creating, writing, publishing, published, failed }
    enum ChunkPhase: UInt8 { case none, inFlight, written, synced }
    let tier: Tier, file: Int, fileTry: Int
    var phase = Phase.creating
    var chunks: [ChunkPhase]
    var writtenCount = 0, inFlight = 0
    /// The sync under way covers these chunks.
    var syncing: [Int]?
    var failure: String?
    var retryAt: Int?
    /// Tries that failed by the file's own fault; a worker that was lost under it is not counted.
    var failures = 0
    /// A publish was asked for: what its reply says or not, the file may stand.
    var mayStand = false
    /// First chunk that may not be written yet: chunks mostly go in order.
    var cursor = 0
    init(tier: Tier, file: Int, fileTry: Int, chunkCount: Int) {
        self.tier = tier; self.file = file; self.fileTry = fileTry
        chunks = Array(repeating: .none, count: chunkCount)
    }
    /// One that an earlier life published whole.
    static func found(on tier: Tier, file: Int, chunkCount: Int) -> FileState {
        let found = FileState(tier: tier, file: file, fileTry: 0, chunkCount: chunkCount)
        found.phase = .published
        found.mayStand = true
        found.writtenCount = chunkCount
        found.chunks = Array(repeating: .synced, count: chunkCount)
        return found
    }

    /// A chunk in flight was not written: it is to be written again.
    func again(_ chunk: Int) {
        chunks[chunk] = .none
        inFlight -= 1
        cursor = min(cursor, chunk)
    }
}

final class RankSave {
    let handle: Int, key: RankSaveKey, fileBytes: Int, acceptedAt: Int
    /// How far it is to go; a promotion raises it.
    var upto: Level
    /// As it was asked for; a part that joins a promoted save goes further from the start.
    let asked: Level
    let count: Int?
    /// The rank's save before this one.
    var previous: SaveID?
    /// nil: recovered from the local tier by a scan, or its session ended.
    var session: SessionToken?
    var replyCall: CallID?
    var waitsForEager: Bool
    /// Chunks not yet handed to the stager, in reverse order of staging: those with eager bytes last in it, `later` before them.
    var unassigned: [Int]
    var later = 0
    /// See SaveRequest: where the first streamed byte lies, and the first that has yet to be put.
    var streamed: Int?, streamedFrom: Int?
    /// Its next chunk gets no slot yet: none of its streamed bytes has come, and it would keep others from theirs.
    var awaitsPut: Bool {
        guard let streamed, let streamedFrom, let chunk = unassigned.last, unassigned.count <= later else { return false }
        return max(chunk * Sizes.chunkBytes, streamed) >= streamedFrom && (chunk + 1) * Sizes.chunkBytes > streamed
    }
    var outstanding = 0
    var slots: [Int?]
    var stagedChunks = 0, stagedBytes = 0
    var toldBytes = 0
    var progressAt: Int
    /// Back-pressure: since when a chunk of it waits for a slot, and how long others have.
    var poolWaitSince: Int?, poolWaitNs = 0
    var stagerKnows = false, cancelling = false
    var level = Level.accepted
    var failure: String?
    var files: [Tier: FileState] = [:]
    let recovered: Bool
    /// Taken up from a former process's pool.
    var isKept = false
    /// No step's yet (Engine+Held): the save that is being made of it, and how many of its first chunks that one has taken over.
    var isHeld = false, sealedBy: Int?, givenBack = 0
    /// What it is made of, until all of that is staged anew; then only that it was.
    var sealing: Sealing?, isMadeInPool = false
    /// Nothing of its rank's memory is needed any more.
    var isApart: Bool { (sealing != nil || isMadeInPool) && !waitsForEager }

    init(handle: Int, key: RankSaveKey, fileBytes: Int, upto: Level, asked: Level? = nil, count: Int?, session: SessionToken?, now: Int,
         order: [Int], waitsForEager: Bool, recovered: Bool) {
        self.handle = handle; self.key = key; self.fileBytes = fileBytes; self.upto = upto; self.asked = asked ?? upto; self.count = count
        self.session = session; acceptedAt = now; progressAt = now; unassigned = order.reversed()
        self.waitsForEager = waitsForEager; self.recovered = recovered
        slots = Array(repeating: nil, count: Sizes.chunks(ofFile: fileBytes))
    }
    var isCopies: Bool { Copies.isCopies(key.rank) }
    var chunkCount: Int { slots.count }
    var isStaged: Bool { recovered || stagedChunks == chunkCount }
    var saveKey: SaveKey { SaveKey(run: key.run, save: key.save) }
    func bytes(ofChunk chunk: Int) -> Int { Sizes.bytes(ofChunk: chunk, fileBytes: fileBytes) }
    func poolWait(at now: Int) -> Int { poolWaitNs + (poolWaitSince.map { now - $0 } ?? 0) }
    var isResident: Bool { slots.allSatisfy { $0 != nil } }
    func published(on tier: Tier) -> Bool { files[tier]?.phase == .published }
    func fileFailed(on tier: Tier) -> Bool { files[tier]?.phase == .failed }
    var bytesWritten: [Tier: Int] {
        files.mapValues { file in min(fileBytes, file.writtenCount * Sizes.chunkBytes) }
    }
}

final class Save {
    let key: SaveKey, worldSize: Int, acceptedAt: Int
    var upto: Level
    /// Ascending; nil: all ranks take part.
    let participants: [Int]?
    /// Ranks that saved it here, their parts forgotten since or not.
    var came: Set<Int> = []
    /// Participants without a manifest, as last seen.
    var missing: [Int]?
    /// Since when a part of it stands on the committing tier, and when its manifests may be looked for again.
    var publishedAt: Int?, listsAt = 0
    /// Handles of the ranks served here.
    var ranks: [Int: Int] = [:]
    /// Handles of their copies of replicas, by rank. Nobody waits for them but the fence, and no decision lists them.
    var copies: [Int: Int] = [:]
    var decision: DecisionOutcome?
    /// Why this save is to be voided; the decision file has the last word.
    var voidReason: String?
    /// The step that its attempt restored; kept here, for the attempt may be over before the save is decided.
    var parent: CommitSequence?
    /// Why this save will not be whole, if that is known.
    var lostReason: String? {
        if case .void(let reason)? = decision { return reason }
        return voidReason
    }
    var asking = false, pollAt = 0, pollInterval: Int
    /// Taken up from a former process, who may have been told its decision: asked for before anything of it is written.
    var isSought = false
    /// Answers one after another that something of its decision is damaged.
    var damagedAnswers = 0
    init(key: SaveKey, worldSize: Int, participants: [Int]?, upto: Level, now: Int, pollInterval: Int) {
        self.key = key; self.worldSize = worldSize; self.participants = participants; self.upto = upto; acceptedAt = now; self.pollInterval = pollInterval
    }
    var memberCount: Int { participants?.count ?? worldSize }
    var members: [Int] { participants ?? Array(0..<worldSize) }
    func isMember(_ rank: Int) -> Bool { participants?.contains(rank) ?? (rank < worldSize) }
}

final class Run {
    let key: RunKey
    var attempts: [String: Attempt] = [:]
    /// In an order that does not change from one run of a history to the next.
    var orderedAttempts: [Attempt] { attempts.values.sorted { $0.key.tokenHash < $1.key.tokenHash } }
    /// The highest attempt number seen.
    var newest = 0
    var unfinished: Set<SaveID> = []
    /// Ended saves whose chunks may still be in the pool or that a Wait may ask for, oldest first.
    var ended: [SaveID] = []
    /// Undecided saves that this daemon serves no rank of and asks a decision for.
    var orphansAsked: Set<SaveID> = []
    /// Ranks that this life of the daemon served, by attempt.
    var served: [Int: Set<Int>] = [:]
    /// Attempts that the tier beside numbered, by token's hash, until the committing tier has their records: nothing of them goes there before.
    var unclaimed: [Int: String] = [:], claiming: Set<Int> = []
    /// When the committing tier was last asked for the newest attempt.
    var newestAskedAt: Int?
    /// Accepted before the local tier's scan was read, which may list what this life itself published.
    var acceptedBeforeScan: Set<RankSaveKey> = []
    /// Rank 0's highest count in manifests that scans found, by attempt.
    var foundCounts: [Int: Int] = [:]
    /// Decided in this life, the latest last: what a late answer of a tier may still call undecided.
    var decided: [SaveID] = []
    var lastCommit: (save: SaveID, sequence: CommitSequence, at: Int)?
    init(key: RunKey) { self.key = key }
}

/// A slot of the local worker's read buffer, and which worker's.
struct ReadBackSlot: Hashable { var slot: Int, generation: Int }

/// What a request to a tier worker was for. One per id.
enum Pending {
    case number(AttemptKey), find(AttemptKey), seek(AttemptKey), resumeChoice(AttemptKey, Int), resumeSteps(AttemptKey)
    case newest(RunKey), claim(RunKey, Int), listHeld(AttemptKey), have(AttemptKey), leftovers(AttemptKey)
    case create(handle: Int), write(handle: Int, chunk: Int, slot: Int?, readBack: ReadBackSlot?)
    case sync(handle: Int), publish(handle: Int)
    case readBack(handle: Int, chunk: Int, slot: Int)
    case decide(SaveKey), void(SaveKey), look(SaveKey)
    case held(AttemptKey, Int), choose(AttemptKey, Int), readChoice(AttemptKey, Int)
    case promote(CallID, RunKey, attempt: Int, Level, step: Int), drop(SaveKey)
    case settled(AttemptKey, Int, [Int]), verdict(AttemptKey, Int)
    case scan, retain(RunKey), record(SaveKey), discard, orphan(RunKey, SaveID)
}

final class TierState {
    let tier: Tier
    var up = false
    var pending: [Int: (what: Pending, file: Int?, at: Int)] = [:]
    var writesInFlight = 0
    var downReason: String? = "starting"
    var stalled = false
    var freeReadBacks: [Int] = []
    /// Counts the workers of this tier: a buffer's slot belongs to the worker that filled it.
    var generation = 0
    var scanned = false, scanAt: Int?
    var writtenBytes = 0
    init(tier: Tier) { self.tier = tier }
}
