// The life of a save: Save, Seal, the leases of streamed tensors, and how far it has come.

extension Checkpoint {
    /// Saves a registered layout as a step; replies when every eager shard and object is staged. Idempotent by step
    /// and try, the number of this rank's calls of save() for this step in this attempt.
    /// upto: how far the save goes (default: committed). step may be absent only with hold. participants: the ranks that take part,
    /// ascending, rank 0 and the caller among them, the same on each of them (default: all). copies: these are copies of replicas that
    /// ranks of other nodes own, kept in memory and on the local tier only; such a call comes before the one for the rank's own part.
    /// verify: all bytes are read before the reply, and the save fails, naming the shard, if one is another when it is staged.
    /// files: bytes that stand as files of these names beside the rank's own in the step's folder, for other tools; kept in that file too.
    /// plan: nothing is saved; the reply says what the file would be. hold: staged, but no step's until Seal; try counts this rank's held saves.
    public enum Save: WireMethod {
        public static let name = Checkpoint.interface + ".Save"
        public struct Parameters: WireFields {
            public var step: Int?
            public var attemptTry: Int
            public var layout: String
            public var objects: [Object]?
            public var upto: Level?
            public var participants: [Int]?
            public var metadata: [String: String]?
            public var hold: Bool?
            public var copies: Bool?
            public var verify: Bool?
            public var files: [Object]?
            public var plan: Bool?

            public init(step: Int? = nil, attemptTry: Int, layout: String, objects: [Object]? = nil, upto: Level? = nil,
                        participants: [Int]? = nil, metadata: [String: String]? = nil, hold: Bool? = nil,
                        copies: Bool? = nil, verify: Bool? = nil, files: [Object]? = nil, plan: Bool? = nil) {
                self.step = step; self.attemptTry = attemptTry; self.layout = layout; self.objects = objects
                self.upto = upto; self.participants = participants; self.metadata = metadata; self.hold = hold
                self.copies = copies; self.verify = verify; self.files = files; self.plan = plan
            }
            public enum CodingKeys: String, CodingKey, CaseIterable { case step, attemptTry = "try", layout, objects,
                upto, participants, metadata, hold, copies, verify, files, plan }
        }
        public struct Reply: WireFields {
            public var save: String
            public var bytes: Int
            /// Where data begins in the file: shards from there on, back to back.
            public var dataStart: Int

            public init(save: String, bytes: Int, dataStart: Int) {
                self.save = save; self.bytes = bytes; self.dataStart = dataStart
            }
            public enum CodingKeys: String, CodingKey, CaseIterable { case save, bytes, dataStart }
        }
    }

    /// Makes a held save a step's: its file is made of what was staged, without the shards and objects named in drop, and with more objects
    /// and files. The reply comes when those are staged. From then on it is a save like any other, under the name in the reply.
    /// Only a save that is staged can be sealed. plan: as Save's. discard: it is given up instead.
    public enum Seal: WireMethod {
        public static let name = Checkpoint.interface + ".Seal"
        public struct Parameters: WireFields {
            public var save: String
            /// What Save would have had them; absent: as the held save said. The try counts from 1.
            public var step: Int?
            public var attemptTry: Int?
            public var upto: Level?
            public var metadata: [String: String]?
            public var drop: [String]?
            public var objects: [Object]?
            public var files: [Object]?
            public var plan: Bool?
            public var discard: Bool?

            public init(save: String, step: Int? = nil, attemptTry: Int? = nil, upto: Level? = nil, metadata: [String: String]? = nil,
                        drop: [String]? = nil, objects: [Object]? = nil, files: [Object]? = nil, plan: Bool? = nil, discard: Bool? = nil) {
                self.save = save; self.step = step; self.attemptTry = attemptTry; self.upto = upto; self.metadata = metadata
                self.drop = drop; self.objects = objects; self.files = files; self.plan = plan; self.discard = discard
            }
            public enum CodingKeys: String, CodingKey, CaseIterable { case save, step, attemptTry = "try", upto, metadata, drop, objects, files, plan, discard }
        }
        public typealias Reply = Save.Reply
    }

    /// Lends a segment of shared memory; the reply carries its memfd.
    public enum Lease: WireMethod {
        public static let name = Checkpoint.interface + ".Lease"
        public struct Parameters: WireFields {
            public var bytes: Int

            public init(bytes: Int) {
                self.bytes = bytes
            }
            public enum CodingKeys: String, CodingKey, CaseIterable { case bytes }
        }
        public struct Reply: WireFields {
            public var segment: Int
            public var bytes: Int

            public init(segment: Int, bytes: Int) {
                self.segment = segment; self.bytes = bytes
            }
            public enum CodingKeys: String, CodingKey, CaseIterable { case segment, bytes }
        }
    }

    /// Bytes of a save's streamed shards, from leases. They come once, in the file's order (larger elements first, of those as registered): each
    /// piece goes on where the one before it ended, also from Put to Put. The reply means copied: the leases may be written again.
    public enum Put: WireMethod {
        public static let name = Checkpoint.interface + ".Put"
        public struct Parameters: WireFields {
            public var save: String
            public var pieces: [Piece]

            public init(save: String, pieces: [Piece]) {
                self.save = save; self.pieces = pieces
            }
            public enum CodingKeys: String, CodingKey, CaseIterable { case save, pieces }
        }
        public typealias Reply = Nothing
    }

    /// Gives a lease back.
    public enum Release: WireMethod {
        public static let name = Checkpoint.interface + ".Release"
        public struct Parameters: WireFields {
            public var segment: Int

            public init(segment: Int) {
                self.segment = segment
            }
            public enum CodingKeys: String, CodingKey, CaseIterable { case segment }
        }
        public typealias Reply = Nothing
    }

    /// Requires more. First the latest level of each unfinished save, then every change; of one rank, or of all.
    public enum Watch: WireMethod {
        public static let name = Checkpoint.interface + ".Watch"
        public static let streams = true
        public struct Parameters: WireFields {
            public var run: String
            public var rank: Int?

            public init(run: String, rank: Int? = nil) {
                self.run = run; self.rank = rank
            }
            public enum CodingKeys: String, CodingKey, CaseIterable { case run, rank }
        }
        public struct Reply: WireFields {
            public var event: Event

            public init(event: Event) {
                self.event = event
            }
            public enum CodingKeys: String, CodingKey, CaseIterable { case event }
        }
    }

    /// Waits until this rank's save is at the level or beyond, or failed, with a reason. Without timeoutMs: until the daemon's own limits.
    /// Who waits for staged gets its copy sooner: it is made at normal priority from then on. Oneway, that is all it does.
    public enum Wait: WireMethod {
        public static let name = Checkpoint.interface + ".Wait"
        public struct Parameters: WireFields {
            public var save: String
            public var level: Level
            public var timeoutMs: Int?

            public init(save: String, level: Level, timeoutMs: Int? = nil) {
                self.save = save; self.level = level; self.timeoutMs = timeoutMs
            }
            public enum CodingKeys: String, CodingKey, CaseIterable { case save, level, timeoutMs }
        }
        public struct Reply: WireFields {
            public var level: Level
            public var reason: String?

            public init(level: Level, reason: String? = nil) {
                self.level = level; self.reason = reason
            }
            public enum CodingKeys: String, CodingKey, CaseIterable { case level, reason }
        }
    }

    /// Raises how far the newest save of a step goes that this attempt ended short of the level; level is local, global or committed.
    public enum Promote: WireMethod {
        public static let name = Checkpoint.interface + ".Promote"
        public struct Parameters: WireFields {
            public var step: Int
            public var level: Level

            public init(step: Int, level: Level) {
                self.step = step; self.level = level
            }
            public enum CodingKeys: String, CodingKey, CaseIterable { case step, level }
        }
        public typealias Reply = Nothing
    }
}
