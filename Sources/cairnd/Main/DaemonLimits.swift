// Limits of the main process: connections, queues and waits, each with what happens there. The wire's are in CairnWire,
// the engine's in CairnEngine.
import CairnModel

enum DaemonLimits {
    /// Connections at once; further ones are closed at once, and logged. Fewer where the system allows fewer open files: each may become
    /// a session with a descriptor of its process.
    static let connections = 16_384
    /// Open files that are not for connections: pool, workers, timers, the files of a start that follows.
    static let reservedFiles = 128
    /// Of connections and of sessions one user has at most three quarters, so that another one still gets in.
    static func share(_ all: Int) -> Int { all - all / 4 }
    /// Where no file can be opened, connections wait this long in the socket's queue.
    static let acceptPauseMilliseconds = 200
    /// What one user's messages, and those of all, may keep in memory (ClientMemory), in longest messages.
    static let messagesPerUser = 8, messages = 16
    /// A connection's bytes below this are never what its user is refused for.
    static let uncharged = 4 << 10
    /// Of a save's tables beside what its message says: CRCs of its blocks, and what the engine keeps of each chunk.
    static func tableBytes(fileBytes: Int) -> Int { Sizes.blocks(ofFile: fileBytes) * 4 + Sizes.chunks(ofFile: fileBytes) * 64 }
    /// Bytes queued to one slow reader before its connection is closed. Its next call begins when it has read the last reply.
    static let outgoingBytes = 64 << 20
    /// The same for watchers, whose news grow old.
    static let watchBytes = 4 << 20
    /// Connections that attach to one session; a client needs two.
    static let attachedPerSession = 16
    /// What a save's caller says of it, and one entry's name and value together.
    static let metadataEntries = 1000
    static let metadataEntryBytes = 64 << 10
    /// Layouts kept of one session; the oldest unused one is forgotten.
    static let layoutsPerSession = 8
    /// Leases of one session, and their bytes together.
    static let leasesPerSession = 64
    /// Smaller leases are copied into: main keeps a descriptor of each that the tiers' workers read into.
    static let leaseReadBytes = 1 << 20
    /// All leases, as a share of the pool: 1/leaseShare, but never less than `leaseFloor`.
    static let leaseShare = 2
    static let leaseFloor = 1 << 30
    /// Pieces of one Put; a lease full of smaller tensors takes two.
    static let piecesPerPut = 8_192
    /// Boxes of one Load.
    static let boxesPerLoad = 100_000
    /// A tier worker's answer to a client's call (listing, describing, loading) is waited for this long.
    static let tierCallSeconds = 120
    /// A branch copies all bytes of a step where the filesystem cannot share them; a repeated call goes on after this.
    static let branchSeconds = 3600
    /// Space is asked for with each Status; the last known is shown after this long: a hung filesystem must not hide the rest.
    static let spaceSeconds = 1
    /// A worker's answer to `start` is waited for this long before the daemon goes on without it.
    static let workerStartMilliseconds = 10_000
    /// The same after a restart that kept the memory: a tier that hung before may hang still, and nobody is to wait for it.
    static let workerRestartMilliseconds = 2_000
    /// A killed daemon's stager has this long to end before its successor takes the socket.
    static let predecessorMilliseconds = 5_000
    /// Of what a former process kept: parts whose blocks are checked at once, and chunks of one check.
    static let keptChecks = 4
    static let keptCheckChunks = 64
    /// By how much a start that still checks puts off the service manager's timeout.
    static let startExtensionSeconds = 30
    /// Restarts of a worker: first and longest wait.
    static let restartFirstMilliseconds = 200
    static let restartLongestMilliseconds = 30_000
    /// A restore that no tier could serve, one of them without its worker, is tried again for so long: an older step would take its place.
    static let restartPatienceMilliseconds = 5_000
    /// After SIGTERM: what is staged is flushed this long, then the workers have this long to end.
    static let drainMilliseconds = 20_000
    /// With memory that outlives the process: a flush that writes nothing for so long is left to the next one.
    static let drainStillMilliseconds = 3_000
    static let workerEndMilliseconds = 2_000
    /// Saves, and restores, of a run that advice is made from; and runs whose restores are: of more the one that was used longest ago is forgotten.
    static let timedSaves = 32, timedRuns = 256
    /// How often the local tier's space is held against its watermarks.
    static let watermarkMilliseconds = 10_000
    /// After a look that let nothing go.
    static let evictionPauseMilliseconds = 600_000
    /// Saves in an answer of History, where none are asked for.
    static let historySaves = 20
    /// Bytes that wait for the keeper; beyond, lines of the history are dropped and counted.
    static let keeperQueueBytes = 1 << 20
    /// The first text for node_exporter, once tiers are up; then at the configured interval.
    static let firstTextfileMilliseconds = 1_000
    /// Events that wait to be written; more are dropped and counted.
    static let logQueue = 1024
    /// Of one subject (a run, a tier) and severity, so many events in a while: a job that fails in a loop leaves the log readable.
    static let logLinesPerWindow = 200, logWindowMilliseconds = 10_000, logSubjects = 1024
    /// A datagram of the journal's must fit the kernel's buffer.
    static let logLineBytes = 16 << 10
    /// The engine's timers, while it has any.
    static let tickMilliseconds = 20
    /// READY is sent once so much of the pool is there.
    static let readyPoolBytes = 256 << 20
}
