// Limits of the keeper and of what is kept of saves that have ended, each with what happens there.
public enum KeeperLimits {
    /// A line of the history; a longer reason is cut.
    public static let lineBytes = 4 << 10
    public static let reasonBytes = 1 << 10
    /// Rank saves in memory: about 8 MiB. Beyond, the oldest of the run that has the most is forgotten.
    public static let records = 16_384
    /// Rank saves of which the times are being taken. Beyond, the oldest is no longer timed: an engine forgets saves long before.
    public static let openRecords = 65_536
    /// Lines that wait for the keeper to start; more are dropped, and counted.
    public static let unsentBytes = 1 << 20
    /// What a command prints is logged up to its last bytes.
    public static let outputBytes = 2 << 10
    /// From SIGTERM to SIGKILL of a command that took too long; shorter where the daemon ends.
    public static let graceMilliseconds = 5_000, stopGraceMilliseconds = 500
    /// How often a command is looked at.
    public static let lookMilliseconds = 50
    /// Texts that wait to be written: only the newest counts.
    public static let queued = 64
}
