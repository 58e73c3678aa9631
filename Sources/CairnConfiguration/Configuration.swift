// The daemon's configuration as plain values. Each default stands here, once; Config/cairnd.yaml shows the same ones
// with their reasons, and a test holds the two together. Sizes are bytes, durations milliseconds.
import CairnModel

public struct Configuration: Equatable, Sendable {
    /// The control socket; the stager listens beside it on `memorySocket`.
    public var socket = "/run/cairn/cairn.sock"
    public var pool = Pool()
    public var tiers = Tiers()
    public var retention = Retention()
    public var operators = Operators()
    public var files = Files()
    public var limits = Limits()
    /// Where the daemon keeps what is its own: the history of saves. Nil: as systemd says (STATE_DIRECTORY), else memory only.
    public var state: String?
    public var history = History()
    public var metrics = Metrics()
    public var onCommit: OnCommit?

    public init() {}

    public var memorySocket: String { socket + ".memory" }

    /// The pinned memory that ranks are staged into.
    public struct Pool: Equatable, Sendable {
        public var sizeBytes = 4 << 30
        /// Fixed in this version: the checksums' and the engine's sizes follow from it.
        public var chunkBytes = Self.onlyChunkBytes
        public var lock = Lock.auto
        public init() {}

        public static let onlyChunkBytes = 8 << 20
        /// A pool needs room for the eager and the lazy part of some saves at once.
        public static let leastChunks = 16
        /// Its segments of 1 GiB go to a worker in one message, which takes 253 descriptors, some of them others.
        public static let mostBytes = 240 << 30
        public static var leastBytes: Int { leastChunks * onlyChunkBytes }
    }

    /// `auto` locks where the memlock limit permits it, and says so once where not.
    public enum Lock: String, CaseIterable, Sendable { case always = "true", never = "false", auto }

    /// At least one of the two. With only one, `local` and `global` both mean its fsync, and it commits.
    public struct Tiers: Equatable, Sendable {
        public var local: LocalTier?
        public var global: GlobalTier?
        public init(local: LocalTier? = nil, global: GlobalTier? = nil) {
            self.local = local
            self.global = global
        }
    }

    public struct LocalTier: Equatable, Sendable {
        /// Several drives: files are spread over them.
        public var paths: [String]
        /// Space of each path's filesystem that stays free.
        public var reserveBytes = 1 << 30
        /// Other nodes see the same folders, so one tier serves a world that spans nodes.
        public var shared = false
        public var io = IO.auto
        public var direct = Direct.auto
        public init(paths: [String]) { self.paths = paths }
    }

    public struct GlobalTier: Equatable, Sendable {
        public var path: String
        public var compression = Compression.none
        /// Threads of the tier's worker that compress; they are nice.
        public var compressionThreads = 2
        public var io = IO.auto
        public var direct = Direct.auto
        public init(path: String) { self.path = path }
    }

    /// How a tier's worker calls the kernel; `auto` takes io_uring and falls back to threads where it is refused.
    public enum IO: String, CaseIterable, Sendable { case auto, ioUring = "io_uring", threads }
    /// O_DIRECT; `auto` falls back to buffered I/O where a filesystem refuses it.
    public enum Direct: String, CaseIterable, Sendable { case auto, on, off }
    /// `zstd`: every file is stored as frames with a seek table; `auto`: where measured ratio and bandwidth say that it pays.
    public enum Compression: String, CaseIterable, Sendable { case none, zstd, auto }

    public struct Retention: Equatable, Sendable {
        public var local = RetentionRules(keep: 2)
        public var global = RetentionRules(keep: 5)
        /// Of the local tier beside a global one; nil: it is only kept from filling up by the rules.
        public var watermarks: Watermarks?
        public init() {}
    }

    /// In percent of a folder's filesystem: where more than `high` is used, local copies of what the global tier holds go until `low` is.
    public struct Watermarks: Equatable, Sendable {
        public var high: Int, low: Int
        public init(high: Int, low: Int) { self.high = high; self.low = low }
    }

    /// Who sees all users' runs; names, or numbers where a system has no name for one.
    public struct Operators: Equatable, Sendable {
        public var users = ["root"]
        public var groups = ["cairn-ops"]
        public init() {}
    }

    /// Of what is written to the global tier.
    public struct Files: Equatable, Sendable {
        public var mode: UInt32 = 0o640
        public var group: String?
        public init() {}
    }

    /// Of saves that have ended: `cairn timeline`.
    public struct History: Equatable, Sendable {
        public var sizeBytes = 16 << 20
        public init() {}
    }

    /// For a Prometheus node_exporter's textfile collector.
    public struct Metrics: Equatable, Sendable {
        public var textfile: String?
        public var intervalMs = 15_000
        public init() {}
    }

    /// A command after each commit, at the daemon that serves rank 0.
    public struct OnCommit: Equatable, Sendable {
        /// The program's path, then its arguments.
        public var command: [String]
        public var timeoutMs = 600_000
        /// Commits that wait while a command runs; of more, the oldest is dropped.
        public var queue = 8
        public init(command: [String]) { self.command = command }
    }

    public struct Limits: Equatable, Sendable {
        public var inFlightPerRank = 2
        public var messageBytes = 64 << 20
        public var fenceMs = 30_000
        public var commitTimeoutMs = 30 * 60_000
        public var loadBytes = 1 << 30
        public var attemptTimeoutMs = 60_000
        public init() {}
    }
}
