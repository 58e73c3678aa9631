// The methods of dev.cairn.Operations that tell where time goes: Progress of what is in flight, History of what has ended.

import CairnModel

extension Operations {
    /// One rank's part of a save that has ended on this node. A line of the history's file is one of these. Times are microseconds; those of
    /// levels count from `Save`, and one is absent where that level was not reached, or not seen (the daemon was started meanwhile).
    public struct PastSave: WireFields {
        public var uid: UInt32
        public var run: String
        public var save: String
        public var step: Int
        public var rank: Int
        public var worldSize: Int
        /// Milliseconds since 1970 (UTC) when `Save` came; where that was not seen, when this daemon first knew of it.
        public var acceptedMs: Int
        /// How it ended.
        public var level: Level
        public var bytes: Int
        /// The rank waited so long for the reply to `Save`, and at its fence.
        public var callUs: Int?
        public var fenceUs: Int?
        /// Staging waited so long for room in the pool: back-pressure.
        public var poolWaitUs: Int
        public var stagedUs: Int?
        public var localUs: Int?
        public var globalUs: Int?
        public var committedUs: Int?
        public var failedUs: Int?
        public var reason: String?

        public init(uid: UInt32, run: String, save: String, step: Int, rank: Int, worldSize: Int, acceptedMs: Int, level: Level, bytes: Int,
                    callUs: Int? = nil, fenceUs: Int? = nil, poolWaitUs: Int = 0, stagedUs: Int? = nil, localUs: Int? = nil, globalUs: Int? = nil,
                    committedUs: Int? = nil, failedUs: Int? = nil, reason: String? = nil) {
            self.uid = uid; self.run = run; self.save = save; self.step = step; self.rank = rank; self.worldSize = worldSize
            self.acceptedMs = acceptedMs; self.level = level; self.bytes = bytes; self.callUs = callUs; self.fenceUs = fenceUs
            self.poolWaitUs = poolWaitUs; self.stagedUs = stagedUs; self.localUs = localUs; self.globalUs = globalUs
            self.committedUs = committedUs; self.failedUs = failedUs; self.reason = reason
        }

        /// What a file says may be anything: names that are names, times of at most a year, bytes that a sum can hold.
        public var isSound: Bool {
            let times = [callUs, fenceUs, poolWaitUs, stagedUs, localUs, globalUs, committedUs, failedUs].compactMap { $0 }
            return RunKey.isValidName(run) && SaveID(save)?.step == step && (0..<1 << 20).contains(rank) && (0...1 << 20).contains(worldSize)
                && (0..<1 << 53).contains(acceptedMs) && (0..<1 << 56).contains(bytes) && times.allSatisfy { (0...366 * 86_400_000_000).contains($0) }
        }

        public enum CodingKeys: String, CodingKey, CaseIterable { case uid, run, save, step, rank, worldSize, acceptedMs, level, bytes, callUs,
            fenceUs, poolWaitUs, stagedUs, localUs, globalUs, committedUs, failedUs, reason }
    }

    /// The saves of a run that have ended, of this node's ranks: the newest `last` (default 20), oldest first, each with all of its ranks.
    public enum History: WireMethod {
        public static let name = Operations.interface + ".History"
        public struct Parameters: WireFields {
            public var uid: UInt32?
            public var run: String
            public var last: Int?

            public init(uid: UInt32? = nil, run: String, last: Int? = nil) {
                self.uid = uid; self.run = run; self.last = last
            }
            public enum CodingKeys: String, CodingKey, CaseIterable { case uid, run, last }
        }
        public struct Reply: WireFields {
            public var node: String
            public var saves: [PastSave]

            public init(node: String, saves: [PastSave]) {
                self.node = node; self.saves = saves
            }
            public enum CodingKeys: String, CodingKey, CaseIterable { case node, saves }
        }
    }

    /// How far one rank's part has come.
    public struct RankProgress: WireFields {
        public var rank: Int
        public var level: Level
        public var totalBytes: Int
        public var stagedBytes: Int
        public var localBytes: Int
        public var globalBytes: Int
        /// The rank stands at its fence for so long.
        public var fenceMs: Int?
        /// Staging waited so long for room in the pool.
        public var poolWaitMs: Int
        /// Why it failed, or is written anew.
        public var reason: String?

        public init(rank: Int, level: Level, totalBytes: Int, stagedBytes: Int, localBytes: Int, globalBytes: Int, fenceMs: Int? = nil,
                    poolWaitMs: Int, reason: String? = nil) {
            self.rank = rank; self.level = level; self.totalBytes = totalBytes; self.stagedBytes = stagedBytes
            self.localBytes = localBytes; self.globalBytes = globalBytes; self.fenceMs = fenceMs; self.poolWaitMs = poolWaitMs
            self.reason = reason
        }
        public enum CodingKeys: String, CodingKey, CaseIterable { case rank, level, totalBytes, stagedBytes, localBytes, globalBytes, fenceMs,
            poolWaitMs, reason }
    }

    /// A save in flight, rank by rank. missing: as in SaveStatus.
    public struct SaveProgress: WireFields {
        public var uid: UInt32
        public var run: String
        public var save: String
        public var step: Int
        public var worldSize: Int
        public var ageMs: Int
        public var missing: [Int]
        public var ranks: [RankProgress]

        public init(uid: UInt32, run: String, save: String, step: Int, worldSize: Int, ageMs: Int, missing: [Int], ranks: [RankProgress]) {
            self.uid = uid; self.run = run; self.save = save; self.step = step; self.worldSize = worldSize; self.ageMs = ageMs
            self.missing = missing; self.ranks = ranks
        }
        public enum CodingKeys: String, CodingKey, CaseIterable { case uid, run, save, step, worldSize, ageMs, missing, ranks }
    }

    /// A run that this daemon knows. ageMs: since its last commit; lastStep: that commit's; fenceUs: the longest of its last save's ranks.
    public struct RunProgress: WireFields {
        public var uid: UInt32
        public var run: String
        public var sessions: Int
        public var worldSize: Int
        public var lastStep: Int?
        public var ageMs: Int?
        public var commits: Int
        public var failures: Int
        public var fenceUs: Int?
        public var committedUs: Int?

        public init(uid: UInt32, run: String, sessions: Int, worldSize: Int, lastStep: Int? = nil, ageMs: Int? = nil, commits: Int, failures: Int,
                    fenceUs: Int? = nil, committedUs: Int? = nil) {
            self.uid = uid; self.run = run; self.sessions = sessions; self.worldSize = worldSize; self.lastStep = lastStep; self.ageMs = ageMs
            self.commits = commits; self.failures = failures; self.fenceUs = fenceUs; self.committedUs = committedUs
        }
        public enum CodingKeys: String, CodingKey, CaseIterable { case uid, run, sessions, worldSize, lastStep, ageMs, commits, failures, fenceUs,
            committedUs }
    }

    /// Saves in flight rank by rank, and what has gone through each stage since the daemon's start: two answers give the rates between them.
    public enum Progress: WireMethod {
        public static let name = Operations.interface + ".Progress"
        public struct Parameters: WireFields {
            public var uid: UInt32?
            public var run: String?

            public init(uid: UInt32? = nil, run: String? = nil) {
                self.uid = uid; self.run = run
            }
            public enum CodingKeys: String, CodingKey, CaseIterable { case uid, run }
        }
        public struct Reply: WireFields {
            public var node: String
            public var monotonicNs: Int
            public var stagedBytes: Int
            public var pool: Pool
            /// Their folders are left out: no filesystem is asked.
            public var tiers: [TierStatus]
            public var runs: [RunProgress]
            public var saves: [SaveProgress]

            public init(node: String, monotonicNs: Int, stagedBytes: Int, pool: Pool, tiers: [TierStatus], runs: [RunProgress], saves: [SaveProgress]) {
                self.node = node; self.monotonicNs = monotonicNs; self.stagedBytes = stagedBytes; self.pool = pool; self.tiers = tiers
                self.runs = runs; self.saves = saves
            }
            public enum CodingKeys: String, CodingKey, CaseIterable { case node, monotonicNs, stagedBytes, pool, tiers, runs, saves }
        }
    }
}
