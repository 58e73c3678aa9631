// Kinds of failures, for counters: few enough to be labels. They are read off the reason, which is all that travels between daemons (in a
// decision's file) and clients; FailureKindTests holds each to the engine's words.

public enum FailureKind: String, Sendable, CaseIterable {
    /// Dropped behind a slow global tier, for a newer save.
    case superseded
    /// A rank's process or connection ended, or it gave up its fence.
    case rankGone = "rank_gone"
    /// A rank left the step out, or named other participants.
    case rankMissing = "rank_missing"
    /// No room in the pool, or memory that could not be read, for as long as a fence may last.
    case notStaged = "not_staged"
    /// What was to stay the same changed before it was copied.
    case changed
    case timeout
    /// Another launch took over.
    case attemptEnded = "attempt_ended"
    /// A worker of the daemon ended.
    case worker
    /// A tier is full, or refused or damaged a file.
    case tier
    case other

    public init(reason: String) {
        let signs: [(FailureKind, [String])] = [
            (.superseded, ["superseded:"]),
            (.rankGone, ["session ended", "gave up waiting", "given it up"]),
            (.rankMissing, ["without saving step", "names other participants", "later step"]),
            (.notStaged, ["nothing was staged"]),
            (.changed, ["was changed between"]),
            (.timeout, ["not committed within", "and not sealed"]),
            (.attemptEnded, ["attempt ended", "newer attempt", "another launch"]),
            (.worker, ["the stager ended", "worker"]),
            (.tier, ["tier", "ENOSPC", "EIO", "EDQUOT", "space", "cannot be read back", "decision"]),
        ]
        self = signs.first { $0.1.contains { reason.contains($0) } }?.0 ?? .other
    }
}
