// The methods of dev.cairn.Operations that show: Status, Runs, Describe, Path.

extension Operations {
    /// The daemon, its workers, pool and tiers, and the saves in flight.
    public enum Status: WireMethod {
        public static let name = Operations.interface + ".Status"
        public typealias Parameters = Nothing
        public struct Reply: WireFields {
            public var daemon: Daemon
            public var pool: Pool
            public var workers: [Worker]
            public var tiers: [TierStatus]
            public var saves: [SaveStatus]
            public var sessions: Sessions
            public var notes: [String]

            public init(daemon: Daemon, pool: Pool, workers: [Worker], tiers: [TierStatus], saves: [SaveStatus],
                        sessions: Sessions, notes: [String]) {
                self.daemon = daemon; self.pool = pool; self.workers = workers; self.tiers = tiers; self.saves = saves
                self.sessions = sessions; self.notes = notes
            }
            public enum CodingKeys: String, CodingKey, CaseIterable { case daemon, pool, workers, tiers, saves, sessions,
                notes }
        }
    }

    /// Runs and their steps; run and uid limit the answer.
    public enum Runs: WireMethod {
        public static let name = Operations.interface + ".Runs"
        public struct Parameters: WireFields {
            public var uid: UInt32?
            public var run: String?

            public init(uid: UInt32? = nil, run: String? = nil) {
                self.uid = uid; self.run = run
            }
            public enum CodingKeys: String, CodingKey, CaseIterable { case uid, run }
        }
        public struct Reply: WireFields {
            public var runs: [Run]

            public init(runs: [Run]) {
                self.runs = runs
            }
            public enum CodingKeys: String, CodingKey, CaseIterable { case runs }
        }
    }

    /// What a step holds, rank by rank. Without sequence: the newest of that step.
    public enum Describe: WireMethod {
        public static let name = Operations.interface + ".Describe"
        public struct Parameters: WireFields {
            public var uid: UInt32?
            public var run: String
            public var step: Int
            public var sequence: Int?

            public init(uid: UInt32? = nil, run: String, step: Int, sequence: Int? = nil) {
                self.uid = uid; self.run = run; self.step = step; self.sequence = sequence
            }
            public enum CodingKeys: String, CodingKey, CaseIterable { case uid, run, step, sequence }
        }
        public struct Reply: WireFields {
            public var uid: UInt32
            public var run: String
            public var step: Int
            public var sequence: Int
            public var save: String
            public var parent: Int?
            public var origin: Origin?
            public var level: Level
            public var worldSize: Int
            public var bytes: Int
            public var pinned: Bool
            public var superseded: Bool
            public var savedAt: String
            public var metadata: [String: String]
            public var files: [RankFile]
            public var tensors: [Tensor]
            public var objects: [Object]

            public init(uid: UInt32, run: String, step: Int, sequence: Int, save: String, parent: Int? = nil, origin: Origin? = nil,
                        level: Level, worldSize: Int, bytes: Int, pinned: Bool, superseded: Bool, savedAt: String,
                        metadata: [String: String], files: [RankFile], tensors: [Tensor], objects: [Object]) {
                self.uid = uid; self.run = run; self.step = step; self.sequence = sequence; self.save = save
                self.parent = parent; self.origin = origin; self.level = level; self.worldSize = worldSize; self.bytes = bytes
                self.pinned = pinned; self.superseded = superseded; self.savedAt = savedAt; self.metadata = metadata
                self.files = files; self.tensors = tensors; self.objects = objects
            }
            public enum CodingKeys: String, CodingKey, CaseIterable { case uid, run, step, sequence, save, parent, origin,
                level, worldSize, bytes, pinned, superseded, savedAt, metadata, files, tensors, objects }
        }
    }

    /// The folder of a committed step, on the tier that commits. Without step: the newest.
    public enum Path: WireMethod {
        public static let name = Operations.interface + ".Path"
        public struct Parameters: WireFields {
            public var uid: UInt32?
            public var run: String
            public var step: Int?

            public init(uid: UInt32? = nil, run: String, step: Int? = nil) {
                self.uid = uid; self.run = run; self.step = step
            }
            public enum CodingKeys: String, CodingKey, CaseIterable { case uid, run, step }
        }
        public struct Reply: WireFields {
            public var path: String
            public var step: Int
            public var sequence: Int

            public init(path: String, step: Int, sequence: Int) {
                self.path = path; self.step = step; self.sequence = sequence
            }
            public enum CodingKeys: String, CodingKey, CaseIterable { case path, step, sequence }
        }
    }
}
