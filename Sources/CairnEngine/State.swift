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
    var localWorldSize: Int?
    /// Sessions by rank.
    var sessions: [Int: SessionToken] = [:]
    /// Ranks that have opened here at any time.
    var seen: Set<Int> = []
    /// A numbering request is under way, or the time to ask again.
    var asking = false, askAt = 0, askInterval: Int
    var openedAt: Int
    /// Rank 0's count of `save()` calls (only where rank 0 is served here).
    var count = 0
    /// The step that this attempt restored: its commits' parent.
    var parent: CommitSequence?
    var restores: [Int: Restore] = [:]
    /// What a former life of this daemon left of this attempt is known.
    var resumed = false, resumedRestores = 0
    init(key: AttemptKey, worldSize: Int, now: Int, askInterval: Int) {
        self.key = key; self.worldSize = worldSize; openedAt = now; self.askInterval = askInterval
    }
    var servesWorld: Bool { sessions.count == worldSize }
}

/// One `Choose`/`Settle` round of an attempt, as this daemon sees it.
final class Restore {
    enum Phase { case waiting, asking, chosen(step: Int?, sequence: CommitSequence?, save: SaveID?) }
    var phase = Phase.waiting
    let startedAt: Int
    var step: Int?
    var calls: [(call: CallID, session: SessionToken, deadline: Int?)] = []
    var pollAt = 0
    var settled: [Int: (ok: Bool, reason: String?)] = [:]
    var settleCalls: [CallID] = []
    var settleStartedAt: Int?
    var settledPublished = false, verdictAsking = false
    var verdict: Bool?
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
    /// A publish was asked for: what its reply says or not, the file may stand.
    var mayStand = false
    /// First chunk that may not be written yet: chunks mostly go in order.
    var cursor = 0
    init(tier: Tier, file: Int, fileTry: Int, chunkCount: Int) {
        self.tier = tier; self.file = file; self.fileTry = fileTry
        chunks = Array(repeating: .none, count: chunkCount)
    }
    /// A chunk in flight was not written: it is to be written again.
    func again(_ chunk: Int) {
        chunks[chunk] = .none
        inFlight -= 1
        cursor = min(cursor, chunk)
    }
}

final class RankSave {
    let handle: Int, key: RankSaveKey, fileBytes: Int, upto: Level, acceptedAt: Int
    let count: Int?
    /// nil: recovered from the local tier by a scan, or its session ended.
    var session: SessionToken?
    var replyCall: CallID?
    var waitsForEager: Bool
    /// Chunks not yet handed to the stager, in reverse order of staging.
    var unassigned: [Int]
    var outstanding = 0
    var slots: [Int?]
    var stagedChunks = 0, stagedBytes = 0
    var toldBytes = 0
    var progressAt: Int
    var stagerKnows = false, cancelling = false
    var level = Level.accepted
    var failure: String?
    var files: [Tier: FileState] = [:]
    let recovered: Bool

    init(handle: Int, key: RankSaveKey, fileBytes: Int, upto: Level, count: Int?, session: SessionToken?, now: Int,
         order: [Int], waitsForEager: Bool, recovered: Bool) {
        self.handle = handle; self.key = key; self.fileBytes = fileBytes; self.upto = upto; self.count = count
        self.session = session; acceptedAt = now; progressAt = now; unassigned = order.reversed()
        self.waitsForEager = waitsForEager; self.recovered = recovered
        slots = Array(repeating: nil, count: Sizes.chunks(ofFile: fileBytes))
    }
    var chunkCount: Int { slots.count }
    var isStaged: Bool { recovered || stagedChunks == chunkCount }
    var saveKey: SaveKey { SaveKey(run: key.run, save: key.save) }
    func bytes(ofChunk chunk: Int) -> Int { Sizes.bytes(ofChunk: chunk, fileBytes: fileBytes) }
    var isResident: Bool { slots.allSatisfy { $0 != nil } }
    func published(on tier: Tier) -> Bool { files[tier]?.phase == .published }
    func fileFailed(on tier: Tier) -> Bool { files[tier]?.phase == .failed }
    var bytesWritten: [Tier: Int] {
        files.mapValues { file in min(fileBytes, file.writtenCount * Sizes.chunkBytes) }
    }
}

final class Save {
    let key: SaveKey, worldSize: Int, upto: Level, acceptedAt: Int
    /// Handles of the ranks served here.
    var ranks: [Int: Int] = [:]
    var decision: DecisionOutcome?
    /// Why this save is to be voided; the decision file has the last word.
    var voidReason: String?
    /// The step that its attempt restored; kept here, for the attempt may be over before the save is decided.
    var parent: CommitSequence?
    /// Every rank of its attempt opened here: no other daemon can hold a part of it.
    var isServedHere = false
    /// Why this save will not be whole, if that is known.
    var lostReason: String? {
        if case .void(let reason)? = decision { return reason }
        return voidReason
    }
    var asking = false, pollAt = 0, pollInterval: Int
    var allManifestsAt: Int?
    init(key: SaveKey, worldSize: Int, upto: Level, now: Int, pollInterval: Int) {
        self.key = key; self.worldSize = worldSize; self.upto = upto; acceptedAt = now; self.pollInterval = pollInterval
    }
}

final class Run {
    let key: RunKey
    var attempts: [String: Attempt] = [:]
    /// The highest attempt number seen.
    var newest = 0
    var unfinished: Set<SaveID> = []
    /// Ended saves whose chunks may still be in the pool or that a Wait may ask for, oldest first.
    var ended: [SaveID] = []
    /// Undecided saves of earlier instances that a scan of the committing tier found without all manifests.
    var orphans: [SaveID: Int] = [:]
    /// Those of them whose void is asked for.
    var orphansAsked: Set<SaveID> = []
    /// Accepted before the local tier's scan was read, which may list what this life itself published.
    var acceptedBeforeScan: Set<RankSaveKey> = []
    /// Rank 0's highest count in manifests that scans found, by attempt.
    var foundCounts: [Int: Int] = [:]
    var lastCommit: (save: SaveID, sequence: CommitSequence, at: Int)?
    init(key: RunKey) { self.key = key }
}

/// A slot of the local worker's read buffer, and which worker's.
struct ReadBackSlot: Hashable { var slot: Int, generation: Int }

/// What a request to a tier worker was for. One per id.
enum Pending {
    case number(AttemptKey), find(AttemptKey), resumeChoice(AttemptKey, Int), resumeSteps(AttemptKey)
    case create(handle: Int), write(handle: Int, chunk: Int, slot: Int?, readBack: ReadBackSlot?)
    case sync(handle: Int), publish(handle: Int)
    case readBack(handle: Int, chunk: Int, slot: Int)
    case decide(SaveKey), void(SaveKey), look(SaveKey)
    case choose(AttemptKey, Int), readChoice(AttemptKey, Int), chooseBeside(AttemptKey, Int)
    case settled(AttemptKey, Int), verdict(AttemptKey, Int)
    case scan, retain(RunKey), record(SaveKey), orphan(RunKey, SaveID)
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
