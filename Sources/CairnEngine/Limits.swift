// Every limit of the engine, each with its reason. No queue, retry or wait in it is unbounded.
import CairnModel

public struct EngineLimits: Sendable {
    /// Chunk slots of the pool.
    public var slots = 128
    /// Saves of one rank that are not yet staged; one more is refused with Busy.
    public var inFlightPerRank = 2
    /// Held saves of one rank that wait for their Seal; one more is refused with Busy.
    public var heldPerRank = 2
    /// Slots that held saves leave to others: a Seal stages its file anew beside what it is made of.
    public var heldReserve = 8
    /// Slots that saves whose ranks have yet to put bytes, and held ones, leave to others; of one user, the former have at most three quarters of all.
    public var streamedReserve = 4
    /// Chunks of one rank's save that are handed to the stager at once: enough to keep its threads busy, few enough to be fair.
    public var assignedPerRank = 16
    /// Writes in flight per tier: fio reaches the device's rate at depth 4-16.
    public var writesPerTier = 16
    /// Reads back from the local tier in flight: TierStart.readBackSlots.
    public var readBacks = 4
    /// A save fails when none of its chunks was staged for so long.
    public var fenceMs = 30_000
    /// A save that no decision ended is voided after so long.
    public var commitTimeoutMs = 30 * 60_000
    /// How long an Open waits for the attempt's number (rank 0's daemon, the committing tier).
    public var attemptTimeoutMs = 60_000
    /// How long a new attempt waits for the lists of daemons that are slow or gone before what older ones left unfinished is voided.
    public var leftoverMs = 15_000
    /// How long a restore waits for an older attempt's save that its daemons are finishing.
    public var leftoverFinishMs = 60_000
    /// Where the local world's size is unknown: how long a node's list of what it has waits for more ranks to open.
    public var haveMs = 1_000
    /// Saves in a node's list, newest first.
    public var heldPerRun = 256
    /// Older attempts whose ranks a daemon remembers that it served.
    public var servedAttempts = 16
    /// A tier that hung for longer gives no number any more: it is asked again while the launch lives.
    public var numberMs = 10_000
    /// Where the committing tier is down: how long an Open waits for it before the local tier numbers the attempt, and a restore
    /// before it is chosen there.
    public var numberBesideMs = 5_000
    /// After so long any daemon may do rank 0's daemon's part of a commit or a choice.
    public var standInMs = 30_000
    public var choiceStandInMs = 10_000
    /// A worker that owes a reply for so long is stalled: its tier is degraded until it answers.
    public var stallMs = 10_000
    /// Slots under the writes of a worker that died come back only after so long: its I/O may still land.
    public var quarantineMs = 30_000
    /// Tries to write one rank's file to one tier before the tier counts as failed for that save.
    public var fileTries = 3
    public var retryMs = 500
    /// Polls of the committing tier for other nodes' news: first and longest interval.
    public var pollFirstMs = 20
    public var pollLongestMs = 1_000
    /// Differs between daemons, so that their polls do.
    public var jitterSeed: UInt64 = 0
    /// Answers that a save's decision cannot be read, one after another and `pollLongestMs` apart, before the save ends as failed: another node's
    /// new file may be seen half for a second or two, a damaged one is never written again.
    public var decisionTries = 10
    /// How often a save's manifests are looked for by a daemon that stands in for rank 0's (one listing of the save's folder).
    public var listsMs = 10_000
    /// How often a run's newest attempt is asked for while an older one goes on saving.
    public var newestMs = 5_000
    /// Saves of one run that wait for their first write to the global tier; of more, one is voided as superseded.
    public var globalQueue = 8
    /// Ended saves remembered per run, for Wait and for restores from memory.
    public var endedPerRun = 16
    /// Saves that were decided in this life and are remembered as such, per run.
    public var decidedPerRun = 64
    /// Sessions and runs at once.
    public var sessions = 4_096
    /// Unfinished saves of one run that wait for the global tier; one more is refused with Busy.
    public var unfinishedPerRun = 64
    /// Waits and watches pending at once.
    public var waits = 16_384
    /// Drain and settle are bounded by their callers; a settle without a verdict ends so.
    public var settleMs = 10 * 60_000

    public init() {}
    public func verify() {
        precondition(globalQueue >= 2, "the newest save is never dropped, so the queue needs a place beside it")
        precondition(slots >= 16, "a pool needs at least 16 chunks: the chunks that eager and lazy bytes share must fit")
        precondition(heldPerRank >= 1 && heldReserve >= 4 && heldReserve < slots, "a held save needs room, and a Seal some beside it")
        precondition(streamedReserve >= 1 && streamedReserve < heldReserve, "beside held saves a streamed one needs a slot")
        precondition(decisionTries >= 1, "a decision is asked for at least once")
        precondition(assignedPerRank >= 1 && writesPerTier >= 1 && inFlightPerRank >= 1, "no queue may have no place")
        precondition(pollFirstMs > 0 && pollFirstMs <= pollLongestMs, "polls begin short")
    }
}
