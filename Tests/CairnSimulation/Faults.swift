// What may go wrong or be unusual in a history, each kind by itself: a failing seed is tried again with each switched off.

public enum FaultKind: String, CaseIterable, Sendable {
    // Ranks.
    case rankDeath, hangUp, missedSave, refusal, lag, failedLoad, reconnect
    // Processes and nodes.
    case daemonCrash, keptMemory, nodeCrash, longDeath, workerDeath, stagerDeath, slowDaemon
    // Disks.
    case stall, noSpace, errors, lateEffects, delayedView, outage, damage
    // Launches.
    case linger, move, elastic, olderRestore
    // Ways to save.
    case participants, promotion, retry, lowerLevels, memoryLoad, holding, streaming
}

/// A history is a seed and what is left out of it.
public struct HistoryOptions: Sendable {
    public var seed: UInt64
    public var without: Set<FaultKind> = []
    /// How long faults go on, in simulated milliseconds.
    public var faultMs = 12_000
    /// Keeps what happened as text.
    public var recordsHistory = false
    /// Every event and action too.
    public var isVerbose = false
    public init(seed: UInt64) { self.seed = seed }
}
