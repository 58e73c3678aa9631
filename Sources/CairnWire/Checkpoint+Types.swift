// The types of dev.cairn.Checkpoint as they stand on the wire. Extent, Box, Level and Scope are CairnModel's own: equal in both.

import CairnModel

extension Checkpoint {
    public typealias Level = CairnModel.Level
    public typealias Scope = CairnModel.ObjectScope
    public typealias Extent = CairnModel.Extent
    public typealias Box = CairnModel.Box

    /// Where the bytes of a shard or an object come from. Exactly one kind is given; none in replies.
    public struct Source: WireFields {
        /// Extents in the rank's memory, in order.
        public var memory: [Extent]?
        /// The rank puts the bytes itself, by way of its leases; for shards only, and no reply waits for them.
        public var streamed: Bool?
        /// Number of a sealed memfd that Attach gave on SOCKET.memory.
        public var descriptor: Int?
        /// Where the bytes begin in that memfd; absent: at 0.
        public var offset: Int?

        public init(memory: [Extent]? = nil, streamed: Bool? = nil, descriptor: Int? = nil, offset: Int? = nil) {
            self.memory = memory; self.streamed = streamed; self.descriptor = descriptor; self.offset = offset
        }
        public enum CodingKeys: String, CodingKey, CaseIterable { case memory, streamed, descriptor, offset }
    }

    /// The part of a tensor that one rank holds. Shapes and offsets are in elements, row-major. A shape of one dimension where the
    /// global shape has not one: a range of the flattened tensor's elements, as of a flat optimizer buffer.
    public struct Shard: WireFields {
        public var name: String
        /// By the names of safetensors (F32, BF16, I64, ...), and those that the format lacks.
        public var dtype: String
        public var shape: [Int]
        /// Shape of the whole tensor; absent: the shard is the whole.
        public var globalShape: [Int]?
        /// Where the shard begins in the whole tensor; absent: at zero.
        public var offsets: [Int]?
        /// Which of how many equal copies this is; absent: not replicated.
        public var replica: Int?
        public var replicas: Int?
        /// Private to its rank, even where another rank uses the same name.
        public var isPrivate: Bool?
        /// Copied before Save replies (the default); false: until the fence.
        public var eager: Bool?
        /// Which rank holds it; in replies only.
        public var rank: Int?
        public var source: Source

        public init(name: String, dtype: String, shape: [Int], globalShape: [Int]? = nil, offsets: [Int]? = nil,
                    replica: Int? = nil, replicas: Int? = nil, isPrivate: Bool? = nil, eager: Bool? = nil,
                    rank: Int? = nil, source: Source = Source()) {
            self.name = name; self.dtype = dtype; self.shape = shape; self.globalShape = globalShape
            self.offsets = offsets; self.replica = replica; self.replicas = replicas; self.isPrivate = isPrivate
            self.eager = eager; self.rank = rank; self.source = source
        }
        public enum CodingKeys: String, CodingKey, CaseIterable { case name, dtype, shape, globalShape, offsets, replica,
            replicas, isPrivate = "private", eager, rank, source }
    }

    /// Opaque bytes beside the tensors, e.g. RNG state.
    public struct Object: WireFields {
        public var name: String
        public var scope: Scope
        /// The key of a keyed object.
        public var key: String?
        public var bytes: Int
        /// As a shard's: false where the rank keeps the bytes as they are until the save is staged.
        public var eager: Bool?
        /// Which rank holds it; in replies only.
        public var rank: Int?
        public var source: Source

        public init(name: String, scope: Scope, key: String? = nil, bytes: Int, eager: Bool? = nil, rank: Int? = nil,
                    source: Source = Source()) {
            self.name = name; self.scope = scope; self.key = key; self.bytes = bytes; self.eager = eager; self.rank = rank
            self.source = source
        }
        public enum CodingKeys: String, CodingKey, CaseIterable { case name, scope, key, bytes, eager, rank, source }
    }

    /// Bytes of a save or of a load, and where they lie in one of the rank's leases. begin counts from the first byte of the
    /// shard, object or box; the pieces of a load come in the order of its boxes.
    public struct Piece: WireFields {
        public var name: String
        public var begin: Int
        public var bytes: Int
        public var segment: Int
        public var offset: Int

        public init(name: String, begin: Int, bytes: Int, segment: Int, offset: Int) {
            self.name = name; self.begin = begin; self.bytes = bytes; self.segment = segment; self.offset = offset
        }
        public enum CodingKeys: String, CodingKey, CaseIterable { case name, begin, bytes, segment, offset }
    }

    /// One rank's save has come to a level, or further on its way to the next.
    public struct Event: WireFields {
        public var run: String
        public var save: String
        public var step: Int
        public var rank: Int
        public var level: Level
        /// Bytes that are done on the way to the next level, of totalBytes.
        public var bytes: Int
        public var totalBytes: Int
        public var monotonicNs: Int
        /// Why it failed.
        public var reason: String?

        public init(run: String, save: String, step: Int, rank: Int, level: Level, bytes: Int, totalBytes: Int,
                    monotonicNs: Int, reason: String? = nil) {
            self.run = run; self.save = save; self.step = step; self.rank = rank; self.level = level; self.bytes = bytes
            self.totalBytes = totalBytes; self.monotonicNs = monotonicNs; self.reason = reason
        }
        public enum CodingKeys: String, CodingKey, CaseIterable { case run, save, step, rank, level, bytes, totalBytes,
            monotonicNs, reason }
    }

    /// One checkpoint of a run.
    public struct Step: WireFields {
        public var step: Int
        /// The order of commits; newest means the highest sequence, never the highest step.
        public var sequence: Int
        public var level: Level
        /// How many ranks' files are there, of worldSize.
        public var ranks: Int
        public var worldSize: Int
        public var bytes: Int
        public var pinned: Bool
        /// A later attempt went back before this step: never restored by default, first to be deleted.
        public var superseded: Bool
        /// UTC, ISO 8601.
        public var savedAt: String

        public init(step: Int, sequence: Int, level: Level, ranks: Int, worldSize: Int, bytes: Int, pinned: Bool,
                    superseded: Bool, savedAt: String) {
            self.step = step; self.sequence = sequence; self.level = level; self.ranks = ranks; self.worldSize = worldSize
            self.bytes = bytes; self.pinned = pinned; self.superseded = superseded; self.savedAt = savedAt
        }
        public enum CodingKeys: String, CodingKey, CaseIterable { case step, sequence, level, ranks, worldSize, bytes,
            pinned, superseded, savedAt }
    }
}
