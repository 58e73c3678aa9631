// Situations that the histories must come to: a simulation that never meets them proves nothing about them.

public enum Situation: String, CaseIterable, Sendable {
    // Attempts.
    case attemptNumbered, attemptFound, attemptNumberedBeside, attemptClaimed, claimLost, attemptEndedByNewer, endedByDeadLaunch, renumbered, twoLiveAttemptsSave
    case worldChanged, rankMoved, severalRanksOnADaemon
    // Levels and decisions.
    case toldStaged, toldLocal, toldGlobal, toldCommitted, toldFailed
    case committedByRankZero, committedByStandIn, commitCompletedByAnother, voided, voidMetCommit, commitMetVoid, voidedByPrevious
    case participantsCommitted, promoted, promotedCommitted, retryCommitted, lowerLevelEnded, waitAnswered
    case decisionDamaged, decisionReadFromCopy, endedByDamage
    // Held saves.
    case heldStaged, heldSealed, heldSealedAfterDeath, heldEnded, heldGivenUp
    case streamed
    // What older attempts left.
    case haveListed, leftoverPublished, leftoverFinished, leftoverVoided, leftoverAbsent, leftoverEverywhere
    // Restores.
    case restoredNothing, restoredCommitted, restoredUncommitted, restoredOlder, restoredAgain, restoredFromMemory, restoredElastic
    case chosenByStandIn, chosenBeside, settledBeside
    // Disks and memory.
    case evicted, readBack, synced, slotsRested, noSpaceMet, errorMet, replyLost, lateEffect, lateWrite, lateLink, linkTaken
    case viewDelayed, linkLostByNodeCrash, scanFoundParts, retentionRemoved, outageBegan
    // Processes.
    case daemonCrashed, keptTakenUp, keptAsCommitted, nodeCrashed, daemonLongDead, workerDied, stagerDied, workerStalled, rankHungUp, rankRefused, rankMissedSave
}

/// What a set of histories came to.
public struct Coverage: Sendable {
    /// Distinct abstract situations: kind of event, levels of its save, tiers, decision, phase of the restore.
    public var states: Set<UInt64> = []
    public var situations: Set<Situation> = []
    public init() {}
    public mutating func merge(_ other: Coverage) {
        states.formUnion(other.states)
        situations.formUnion(other.situations)
    }
    public var missing: [Situation] { Situation.allCases.filter { !situations.contains($0) } }
}
