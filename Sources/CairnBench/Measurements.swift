// What was measured, as plain numbers with their units in the names: the input of every conclusion, and what --json prints.
import CairnModel
import CairnWire

public struct Measurements: Codable, Sendable, Equatable {
    public var node: NodeFacts
    public var memory: MemorySpeed
    public var pool: PoolFacts
    /// The state that was saved, and the one that was wanted: less where there was no room.
    public var stateBytes: Int, wantedBytes: Int
    public var folders: [FolderSpeed]

    public init(node: NodeFacts, memory: MemorySpeed, pool: PoolFacts, stateBytes: Int, wantedBytes: Int, folders: [FolderSpeed]) {
        self.node = node; self.memory = memory; self.pool = pool; self.stateBytes = stateBytes; self.wantedBytes = wantedBytes
        self.folders = folders
    }
}

public struct NodeFacts: Codable, Sendable, Equatable {
    public var cores: Int
    public var availableMemoryBytes: Int
    /// kernel.io_uring_disabled: 0 on, 1 for the privileged, 2 off; nil where the kernel has no such switch.
    public var ioUringDisabled: Int?
    /// Ranks that train with the daemon that was asked for its tiers.
    public var sessions: Int
    /// The chosen word of /sys/kernel/mm/transparent_hugepage/enabled: of private memory, which ranks' tensors are.
    public var hugePages: String?

    public init(cores: Int, availableMemoryBytes: Int, sessions: Int = 0, ioUringDisabled: Int? = nil, hugePages: String? = nil) {
        self.cores = cores; self.availableMemoryBytes = availableMemoryBytes; self.sessions = sessions; self.ioUringDisabled = ioUringDisabled
        self.hugePages = hugePages
    }
}

public struct MemorySpeed: Codable, Sendable, Equatable {
    /// As many as a daemon copies with.
    public var stagingThreads: Int
    public var copyBytesPerSecond: Double, threadedCopyBytesPerSecond: Double, crc32cBytesPerSecond: Double

    public init(stagingThreads: Int, copyBytesPerSecond: Double, threadedCopyBytesPerSecond: Double, crc32cBytesPerSecond: Double) {
        self.stagingThreads = stagingThreads; self.copyBytesPerSecond = copyBytesPerSecond
        self.threadedCopyBytesPerSecond = threadedCopyBytesPerSecond; self.crc32cBytesPerSecond = crc32cBytesPerSecond
    }
}

/// The pool of the daemon that was asked for its tiers, else of the one that saved.
public struct PoolFacts: Codable, Sendable, Equatable {
    public var bytes: Int
    /// Of what is filled, without huge pages.
    public var smallBytes: Int
    /// Why it is not locked.
    public var lockNote: String?

    public init(bytes: Int, smallBytes: Int = 0, lockNote: String? = nil) { self.bytes = bytes; self.smallBytes = smallBytes; self.lockNote = lockNote }

    init(_ pool: Operations.Pool) { self.init(bytes: pool.bytes, smallBytes: pool.filledBytes - pool.hugeBytes, lockNote: pool.lockNote) }
}

public struct FolderSpeed: Codable, Sendable, Equatable {
    public var path: String
    /// In the configuration that it comes from.
    public var tier: Tier?
    public var filesystem: String
    public var isOnRoot: Bool
    public var freeBytes: Int
    /// Why the kernel takes no io_uring, and the filesystem no O_DIRECT: a tier's worker falls back to threads, to buffered I/O.
    public var ringRefusal: String?, directRefusal: String?
    public var transfers: [Transfer] = []
    /// Create, write, fsync, rename and fsync of the folder; open and read of such a file.
    public var publish = Latency(), smallRead = Latency()
    public var saves: [SaveTimes] = []
    public var restores: [ReadTimes] = []

    public init(path: String, tier: Tier?, filesystem: String, isOnRoot: Bool, freeBytes: Int, ringRefusal: String? = nil, directRefusal: String? = nil) {
        self.path = path; self.tier = tier; self.filesystem = filesystem; self.isOnRoot = isOnRoot; self.freeBytes = freeBytes
        self.ringRefusal = ringRefusal; self.directRefusal = directRefusal
    }

    /// A tier's worker's way: how, in flight, how large.
    public var usualEngine: Transfer.Engine { ringRefusal == nil ? .ring : .threads }
    public var isDirect: Bool { directRefusal == nil }

    /// The fastest way that was found: the limit.
    public func best(_ operation: Transfer.Operation) -> Transfer? {
        transfers.filter { $0.operation == operation }.max { $0.bytesPerSecond < $1.bytesPerSecond }
    }

    func find(_ operation: Transfer.Operation, chunkBytes: Int = BenchLimits.shapes[0].0, depth: Int = BenchLimits.shapes[0].1, engine: Transfer.Engine? = nil) -> Transfer? {
        transfers.first {
            $0.operation == operation && $0.chunkBytes == chunkBytes && $0.depth == depth && $0.direct == isDirect && $0.engine == engine ?? usualEngine
        }
    }

    public mutating func add(_ operation: Transfer.Operation, _ way: Transfer, bytesPerSecond: Double) {
        var way = way
        way.operation = operation
        if let at = transfers.firstIndex(where: { $0.isSameWay(as: way) }) { return transfers[at].samplesBytesPerSecond.append(bytesPerSecond) }
        way.samplesBytesPerSecond = [bytesPerSecond]
        transfers.append(way)
    }
}

/// One way of moving bytes to or from a file. A write counts until it is synced.
public struct Transfer: Codable, Sendable, Equatable {
    public enum Operation: String, Codable, Sendable { case write, read }
    public enum Engine: String, Codable, Sendable { case ring = "io_uring", threads }
    public var operation = Operation.write
    public var engine: Engine
    public var direct: Bool
    public var chunkBytes: Int, depth: Int
    public var samplesBytesPerSecond: [Double] = []

    public init(engine: Engine, direct: Bool, chunkBytes: Int, depth: Int) {
        self.engine = engine; self.direct = direct; self.chunkBytes = chunkBytes; self.depth = depth
    }
    public var bytesPerSecond: Double { median(samplesBytesPerSecond) }

    func isSameWay(as other: Transfer) -> Bool {
        operation == other.operation && engine == other.engine && direct == other.direct && chunkBytes == other.chunkBytes && depth == other.depth
    }
}

public struct Latency: Codable, Sendable, Equatable {
    public var count = 0
    public var p50Seconds = 0.0, p99Seconds = 0.0

    /// All 0 of none.
    public init(seconds samples: [Double] = []) {
        guard !samples.isEmpty else { return }
        let sorted = samples.sorted()
        count = sorted.count
        (p50Seconds, p99Seconds) = (median(sorted), sorted[min(count - 1, count * 99 / 100)])
    }
}

/// From the begin of the call.
public struct SaveTimes: Codable, Sendable, Equatable {
    public var acceptedSeconds: Double, stagedSeconds: Double, localSeconds: Double, committedSeconds: Double

    public init(acceptedSeconds: Double, stagedSeconds: Double, localSeconds: Double, committedSeconds: Double) {
        self.acceptedSeconds = acceptedSeconds; self.stagedSeconds = stagedSeconds; self.localSeconds = localSeconds
        self.committedSeconds = committedSeconds
    }
}

/// The whole state, back in the rank's memory.
public struct ReadTimes: Codable, Sendable, Equatable {
    public var tier: Tier
    public var seconds: Double
    public init(tier: Tier, seconds: Double) { self.tier = tier; self.seconds = seconds }
}

/// Of an even number the lower one of the two in the middle: always a value that was measured. 0 of none.
public func median(_ values: [Double]) -> Double {
    let sorted = values.sorted()
    return sorted.isEmpty ? 0 : sorted[(sorted.count - 1) / 2]
}
