// The types of dev.cairn.Operations that tell what there is: runs, steps, files, and what happens to them.

extension Operations {
    /// The step of another run that a run was branched from.
    public struct Origin: WireFields {
        public var run: String
        public var step: Int
        public var sequence: Int

        public init(run: String, step: Int, sequence: Int) {
            self.run = run; self.step = step; self.sequence = sequence
        }
        public enum CodingKeys: String, CodingKey, CaseIterable { case run, step, sequence }
    }

    /// One checkpoint of a run, and the tiers that hold it whole.
    public struct Step: WireFields {
        public var step: Int
        public var sequence: Int
        /// The sequence of the step that its launch had restored; absent: it restored none.
        public var parent: Int?
        /// Where it was branched from, in a run's first step.
        public var origin: Origin?
        public var save: String
        public var level: Level
        public var ranks: Int
        public var worldSize: Int
        public var bytes: Int
        public var pinned: Bool
        public var superseded: Bool
        /// UTC, ISO 8601.
        public var savedAt: String
        public var tiers: [String]

        public init(step: Int, sequence: Int, parent: Int? = nil, origin: Origin? = nil, save: String, level: Level, ranks: Int,
                    worldSize: Int, bytes: Int, pinned: Bool, superseded: Bool, savedAt: String, tiers: [String]) {
            self.step = step; self.sequence = sequence; self.parent = parent; self.origin = origin; self.save = save
            self.level = level; self.ranks = ranks
            self.worldSize = worldSize; self.bytes = bytes; self.pinned = pinned; self.superseded = superseded
            self.savedAt = savedAt; self.tiers = tiers
        }
        public enum CodingKeys: String, CodingKey, CaseIterable { case step, sequence, parent, origin, save, level, ranks,
            worldSize, bytes, pinned, superseded, savedAt, tiers }
    }

    /// steps: newest first by sequence. newestCommitted: its step. bytes: of all steps.
    public struct Run: WireFields {
        public var uid: UInt32
        public var run: String
        public var steps: [Step]
        public var newestCommitted: Int?
        public var bytes: Int

        public init(uid: UInt32, run: String, steps: [Step], newestCommitted: Int? = nil, bytes: Int) {
            self.uid = uid; self.run = run; self.steps = steps; self.newestCommitted = newestCommitted; self.bytes = bytes
        }
        public enum CodingKeys: String, CodingKey, CaseIterable { case uid, run, steps, newestCommitted, bytes }
    }

    /// One rank's file of a step.
    public struct RankFile: WireFields {
        public var rank: Int
        public var node: String?
        public var fileBytes: Int
        public var tensors: Int
        public var objects: Int
        public var tiers: [String]
        /// On the tier that restores it last.
        public var path: String

        public init(rank: Int, node: String? = nil, fileBytes: Int, tensors: Int, objects: Int, tiers: [String],
                    path: String) {
            self.rank = rank; self.node = node; self.fileBytes = fileBytes; self.tensors = tensors; self.objects = objects
            self.tiers = tiers; self.path = path
        }
        public enum CodingKeys: String, CodingKey, CaseIterable { case rank, node, fileBytes, tensors, objects, tiers,
            path }
    }

    /// The part of a tensor that one rank's file holds.
    public struct Tensor: WireFields {
        public var rank: Int
        public var name: String
        public var dtype: String
        public var shape: [Int]
        public var globalShape: [Int]?
        public var offsets: [Int]?
        public var replica: Int?
        public var replicas: Int?
        public var isPrivate: Bool
        public var bytes: Int

        public init(rank: Int, name: String, dtype: String, shape: [Int], globalShape: [Int]? = nil,
                    offsets: [Int]? = nil, replica: Int? = nil, replicas: Int? = nil, isPrivate: Bool, bytes: Int) {
            self.rank = rank; self.name = name; self.dtype = dtype; self.shape = shape; self.globalShape = globalShape
            self.offsets = offsets; self.replica = replica; self.replicas = replicas; self.isPrivate = isPrivate
            self.bytes = bytes
        }
        public enum CodingKeys: String, CodingKey, CaseIterable { case rank, name, dtype, shape, globalShape, offsets,
            replica, replicas, isPrivate = "private", bytes }
    }

    public struct Object: WireFields {
        public var rank: Int
        public var name: String
        public var scope: Scope
        public var key: String?
        public var bytes: Int

        public init(rank: Int, name: String, scope: Scope, key: String? = nil, bytes: Int) {
            self.rank = rank; self.name = name; self.scope = scope; self.key = key; self.bytes = bytes
        }
        public enum CodingKeys: String, CodingKey, CaseIterable { case rank, name, scope, key, bytes }
    }

    /// A block, of 256 KiB of the file, that is not what was staged. block -1: the file as a whole.
    public struct BadBlock: WireFields {
        public var path: String
        public var block: Int
        public var reason: String

        public init(path: String, block: Int, reason: String) {
            self.path = path; self.block = block; self.reason = reason
        }
        public enum CodingKeys: String, CodingKey, CaseIterable { case path, block, reason }
    }

    public struct Event: WireFields {
        public var uid: UInt32
        public var run: String
        public var save: String
        public var step: Int
        public var rank: Int
        public var level: Level
        /// Bytes that are done on the way to the next level, of totalBytes.
        public var bytes: Int
        public var totalBytes: Int
        public var monotonicNs: Int
        public var reason: String?

        public init(uid: UInt32, run: String, save: String, step: Int, rank: Int, level: Level, bytes: Int,
                    totalBytes: Int, monotonicNs: Int, reason: String? = nil) {
            self.uid = uid; self.run = run; self.save = save; self.step = step; self.rank = rank; self.level = level
            self.bytes = bytes; self.totalBytes = totalBytes; self.monotonicNs = monotonicNs; self.reason = reason
        }
        public enum CodingKeys: String, CodingKey, CaseIterable { case uid, run, save, step, rank, level, bytes,
            totalBytes, monotonicNs, reason }
    }
}
