// The way back: what there is, which step all ranks take, and its bytes.

extension Checkpoint {
    /// The run's checkpoints, newest first by sequence.
    public enum Steps: WireMethod {
        public static let name = Checkpoint.interface + ".Steps"
        public struct Parameters: WireFields {
            public var run: String

            public init(run: String) {
                self.run = run
            }
            public enum CodingKeys: String, CodingKey, CaseIterable { case run }
        }
        public struct Reply: WireFields {
            public var steps: [Step]

            public init(steps: [Step]) {
                self.steps = steps
            }
            public enum CodingKeys: String, CodingKey, CaseIterable { case steps }
        }
    }

    /// What a committed step holds. names limits the answer; once: of each tensor its first box only, which says type and whole shape.
    public enum Describe: WireMethod {
        public static let name = Checkpoint.interface + ".Describe"
        public struct Parameters: WireFields {
            public var step: Int
            public var sequence: Int?
            public var names: [String]?
            public var once: Bool?

            public init(step: Int, sequence: Int? = nil, names: [String]? = nil, once: Bool? = nil) {
                self.step = step; self.sequence = sequence; self.names = names; self.once = once
            }
            public enum CodingKeys: String, CodingKey, CaseIterable { case step, sequence, names, once }
        }
        public struct Reply: WireFields {
            public var worldSize: Int
            public var shards: [Shard]
            public var objects: [Object]
            public var metadata: [String: String]

            public init(worldSize: Int, shards: [Shard], objects: [Object], metadata: [String: String]) {
                self.worldSize = worldSize; self.shards = shards; self.objects = objects; self.metadata = metadata
            }
            public enum CodingKeys: String, CodingKey, CaseIterable { case worldSize, shards, objects, metadata }
        }
    }

    /// Which step to restore: the same answer for every rank of the attempt. restore counts the restores of the attempt.
    public enum Choose: WireMethod {
        public static let name = Checkpoint.interface + ".Choose"
        public struct Parameters: WireFields {
            public var restore: Int
            public var step: Int?
            public var timeoutMs: Int?

            public init(restore: Int, step: Int? = nil, timeoutMs: Int? = nil) {
                self.restore = restore; self.step = step; self.timeoutMs = timeoutMs
            }
            public enum CodingKeys: String, CodingKey, CaseIterable { case restore, step, timeoutMs }
        }
        public struct Reply: WireFields {
            public var step: Int
            public var sequence: Int

            public init(step: Int, sequence: Int) {
                self.step = step; self.sequence = sequence
            }
            public enum CodingKeys: String, CodingKey, CaseIterable { case step, sequence }
        }
    }

    /// Reads boxes into the rank's leases, from the nearest tier that has them, each block's checksum verified.
    public enum Load: WireMethod {
        public static let name = Checkpoint.interface + ".Load"
        public struct Parameters: WireFields {
            public var step: Int
            public var sequence: Int
            public var boxes: [Box]
            /// The leases to use; all of the session's where left out.
            public var segments: [Int]?

            public init(step: Int, sequence: Int, boxes: [Box], segments: [Int]? = nil) {
                self.step = step; self.sequence = sequence; self.boxes = boxes; self.segments = segments
            }
            public enum CodingKeys: String, CodingKey, CaseIterable { case step, sequence, boxes, segments }
        }
        public struct Reply: WireFields {
            public var tier: String
            public var placed: [Piece]

            public init(tier: String, placed: [Piece]) {
                self.tier = tier; self.placed = placed
            }
            public enum CodingKeys: String, CodingKey, CaseIterable { case tier, placed }
        }
    }

    /// Tells whether this rank could load what was chosen; answers when all ranks have told. again: another round follows, and reason says
    /// which rank could not, and why.
    public enum Settle: WireMethod {
        public static let name = Checkpoint.interface + ".Settle"
        public struct Parameters: WireFields {
            public var restore: Int
            public var ok: Bool
            public var reason: String?

            public init(restore: Int, ok: Bool, reason: String? = nil) {
                self.restore = restore; self.ok = ok; self.reason = reason
            }
            public enum CodingKeys: String, CodingKey, CaseIterable { case restore, ok, reason }
        }
        public struct Reply: WireFields {
            public var again: Bool
            public var reason: String?

            public init(again: Bool, reason: String? = nil) {
                self.again = again; self.reason = reason
            }
            public enum CodingKeys: String, CodingKey, CaseIterable { case again, reason }
        }
    }

    /// Makes a committed step of another run of the same user the first step of this session's run, sharing the files' bytes where the
    /// filesystem can. Without step: the newest; without sequence: the newest of that step. Every rank may call it; all get one answer.
    /// NotPermitted if this run has committed steps of its own already.
    public enum Branch: WireMethod {
        public static let name = Checkpoint.interface + ".Branch"
        public struct Parameters: WireFields {
            public var from: String
            public var step: Int?
            public var sequence: Int?

            public init(from: String, step: Int? = nil, sequence: Int? = nil) {
                self.from = from; self.step = step; self.sequence = sequence
            }
            public enum CodingKeys: String, CodingKey, CaseIterable { case from, step, sequence }
        }
        public struct Reply: WireFields {
            public var step: Int
            public var sequence: Int

            public init(step: Int, sequence: Int) {
                self.step = step; self.sequence = sequence
            }
            public enum CodingKeys: String, CodingKey, CaseIterable { case step, sequence }
        }
    }
}
