// What a rank gives to a save: shards of tensors, and objects. Values only; their checks are in CairnStore's Layout.

/// The part of a tensor that one rank holds: a box of it, or a range of its elements (`isFlat`). Shapes and offsets are in elements, row-major.
public struct Shard: Hashable, Codable, Sendable {
    public var name: String
    /// A dtype by Cairn's name (CairnStore's `DType`): safetensors' names, and those that the format lacks.
    public var dtype: String
    public var shape: [Int]
    /// The whole tensor's shape; nil means the shard is the whole tensor.
    public var globalShape: [Int]?
    /// Where the shard begins in the whole tensor; nil means at zero.
    public var offsets: [Int]?
    /// Which of `replicas` equal copies this is; nil: not replicated.
    public var replica: Int?
    public var replicas: Int?
    /// Private to its rank: stored as `rank-00003/NAME`.
    public var isPrivate: Bool
    /// Copied before `save()` returns.
    public var eager: Bool

    public init(name: String, dtype: String, shape: [Int], globalShape: [Int]? = nil, offsets: [Int]? = nil,
                replica: Int? = nil, replicas: Int? = nil, isPrivate: Bool = false, eager: Bool = true) {
        self.name = name; self.dtype = dtype; self.shape = shape; self.globalShape = globalShape; self.offsets = offsets
        self.replica = replica; self.replicas = replicas; self.isPrivate = isPrivate; self.eager = eager
    }
}

extension Shard {
    /// A range of the whole tensor's elements in row-major order, as a flat optimizer buffer holds it: it has one dimension, the whole has not.
    public var isFlat: Bool { shape.count == 1 && globalShape.map { $0.count != 1 } ?? false }
    /// The whole as `shape` and `offsets` count in it: of a flat shard, its elements in a row. Checked shards only: the product may overflow.
    public var space: [Int] { isFlat ? [(globalShape ?? []).reduce(1, *)] : globalShape ?? shape }
}

/// Whether an object is equal on all ranks (checked), one rank's own, or found by its key.
public enum ObjectScope: String, Codable, Sendable { case shared, rank, keyed }

/// Opaque bytes beside the tensors, e.g. RNG state.
public struct ObjectInfo: Hashable, Codable, Sendable {
    public var name: String
    public var scope: ObjectScope
    public var key: String?
    public var bytes: Int
    public init(name: String, scope: ObjectScope, key: String? = nil, bytes: Int) {
        self.name = name; self.scope = scope; self.key = key; self.bytes = bytes
    }
}

/// A run of bytes in a rank's memory.
public struct Extent: Hashable, Codable, Sendable {
    public var address: UInt64
    public var bytes: Int
    public init(address: UInt64, bytes: Int) { self.address = address; self.bytes = bytes }
}

/// What a rank asks for at restore: a box of a global tensor (no offsets: the whole), or a rank's object or private tensor. One offset and
/// one extent, of a tensor that has not one dimension: a range of its elements in row-major order.
public struct Box: Hashable, Codable, Sendable {
    public var name: String
    public var offsets: [Int]?
    public var shape: [Int]?
    public var rank: Int?
    public init(name: String, offsets: [Int]? = nil, shape: [Int]? = nil, rank: Int? = nil) {
        self.name = name; self.offsets = offsets; self.shape = shape; self.rank = rank
    }
}

/// A segment of shared memory lent to a rank.
public struct LeaseSegment: Hashable, Codable, Sendable {
    public var segment: Int, bytes: Int
    public init(segment: Int, bytes: Int) { self.segment = segment; self.bytes = bytes }
}

/// A piece of a box in a lease: `begin` counts from the box's first byte.
public struct PlacedPiece: Hashable, Codable, Sendable {
    public var name: String, begin: Int, bytes: Int, segment: Int, offset: Int
    public init(name: String, begin: Int, bytes: Int, segment: Int, offset: Int) {
        self.name = name; self.begin = begin; self.bytes = bytes; self.segment = segment; self.offset = offset
    }
}

/// One tensor shard or object inside one rank's file: what a restore needs to find its bytes.
public struct StoredShard: Hashable, Codable, Sendable {
    /// The shard as registered (its logical name without the `rank-00003/` of a private one).
    public var shard: Shard
    /// Byte range in the file, counted from the file's first byte.
    public var fileOffset: Int
    public var bytes: Int
    public init(shard: Shard, fileOffset: Int, bytes: Int) { self.shard = shard; self.fileOffset = fileOffset; self.bytes = bytes }
}

public struct StoredObject: Hashable, Codable, Sendable {
    public var object: ObjectInfo
    public var fileOffset: Int
    public init(object: ObjectInfo, fileOffset: Int) { self.object = object; self.fileOffset = fileOffset }
}

/// What one rank's file holds.
public struct RankTable: Hashable, Codable, Sendable {
    public var rank: Int
    public var fileBytes: Int
    public var shards: [StoredShard]
    public var objects: [StoredObject]
    public init(rank: Int, fileBytes: Int, shards: [StoredShard], objects: [StoredObject]) {
        self.rank = rank; self.fileBytes = fileBytes; self.shards = shards; self.objects = objects
    }
}

/// A whole step: what `Describe` answers and slices are planned from.
public struct StepIndex: Hashable, Codable, Sendable {
    public var step: Int
    public var sequence: CommitSequence
    public var save: SaveID
    public var worldSize: Int
    public var metadata: [String: String]
    public var ranks: [RankTable]
    public init(step: Int, sequence: CommitSequence, save: SaveID, worldSize: Int, metadata: [String: String], ranks: [RankTable]) {
        self.step = step; self.sequence = sequence; self.save = save; self.worldSize = worldSize
        self.metadata = metadata; self.ranks = ranks
    }
}

/// Where a branch's first step comes from: a committed step of another run of the same user.
public struct StepOrigin: Hashable, Codable, Sendable {
    public var run: String, step: Int, sequence: CommitSequence, save: SaveID
    public init(run: String, step: Int, sequence: CommitSequence, save: SaveID) {
        self.run = run; self.step = step; self.sequence = sequence; self.save = save
    }
}

/// One committed step as `ls` shows it.
public struct StepSummary: Hashable, Codable, Sendable {
    public var step: Int, sequence: CommitSequence, save: SaveID, parent: CommitSequence?
    /// `ranks`: how many took part.
    public var ranks: Int, worldSize: Int, bytes: Int
    public var pinned: Bool, superseded: Bool
    /// UTC, ISO 8601 with seconds.
    public var savedAt: String
    /// In the first step of a branch.
    public var origin: StepOrigin?
    public init(step: Int, sequence: CommitSequence, save: SaveID, parent: CommitSequence?, ranks: Int? = nil, worldSize: Int, bytes: Int,
                pinned: Bool, superseded: Bool, savedAt: String, origin: StepOrigin? = nil) {
        self.step = step; self.sequence = sequence; self.save = save; self.parent = parent; self.ranks = ranks ?? worldSize; self.worldSize = worldSize
        self.bytes = bytes; self.pinned = pinned; self.superseded = superseded; self.savedAt = savedAt; self.origin = origin
    }
}

/// The sizes that formats and engine share.
public enum Sizes {
    /// Unit of staging and I/O.
    public static let chunkBytes = 8 << 20
    /// Unit of checksum.
    public static let blockBytes = 256 << 10
    /// O_DIRECT's alignment of address, offset and length, and where a file's data begins.
    public static let alignment = 4 << 10
    public static let blocksPerChunk = chunkBytes / blockBytes
    public static func chunks(ofFile bytes: Int) -> Int { (bytes + chunkBytes - 1) / chunkBytes }
    public static func blocks(ofFile bytes: Int) -> Int { (bytes + blockBytes - 1) / blockBytes }
    public static func bytes(ofChunk chunk: Int, fileBytes: Int) -> Int { min(chunkBytes, fileBytes - chunk * chunkBytes) }
}
