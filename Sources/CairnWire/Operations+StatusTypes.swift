// The types of dev.cairn.Operations that tell how the daemon does: what `cairn status` shows.

import CairnModel

extension Operations {
    public typealias Level = CairnModel.Level
    public typealias Scope = CairnModel.ObjectScope

    /// Health of a worker process or a tier. degraded: its part of the work waits or goes another way.
    public enum Health: String, Codable, Sendable, CaseIterable { case up, starting, degraded }

    public struct Daemon: WireFields {
        public var version: String
        /// This node's name, as in the tiers' records.
        public var node: String
        /// Random, new at each start.
        public var instance: String
        public var pid: Int
        public var uptimeSeconds: Int
        public var socket: String
        /// The configuration file; absent: the embedded default.
        public var configuration: String?
        public var draining: Bool

        public init(version: String, node: String, instance: String, pid: Int, uptimeSeconds: Int, socket: String,
                    configuration: String? = nil, draining: Bool) {
            self.version = version; self.node = node; self.instance = instance; self.pid = pid
            self.uptimeSeconds = uptimeSeconds; self.socket = socket; self.configuration = configuration
            self.draining = draining
        }
        public enum CodingKeys: String, CodingKey, CaseIterable { case version, node, instance, pid, uptimeSeconds,
            socket, configuration, draining }
    }

    /// The pinned pool. filledBytes of it are ready; chunks is the number of ready chunks, each in one of the states after it.
    public struct Pool: WireFields {
        public var bytes: Int
        public var filledBytes: Int
        public var lockedBytes: Int
        /// In huge pages of the kernel: a drive takes them in fewer requests.
        public var hugeBytes: Int
        public var chunks: Int
        public var free: Int
        /// Not yet durable on a tier that can serve them.
        public var needed: Int
        /// Durable, kept to serve restores from memory.
        public var cached: Int
        /// Lost to I/O that may still land.
        public var quarantined: Int
        /// Why the pool is not locked, and what to raise.
        public var lockNote: String?

        public init(bytes: Int, filledBytes: Int, lockedBytes: Int, hugeBytes: Int, chunks: Int, free: Int, needed: Int, cached: Int,
                    quarantined: Int, lockNote: String? = nil) {
            self.bytes = bytes; self.filledBytes = filledBytes; self.lockedBytes = lockedBytes; self.hugeBytes = hugeBytes
            self.chunks = chunks
            self.free = free; self.needed = needed; self.cached = cached; self.quarantined = quarantined
            self.lockNote = lockNote
        }
        public enum CodingKeys: String, CodingKey, CaseIterable { case bytes, filledBytes, lockedBytes, hugeBytes, chunks, free,
            needed, cached, quarantined, lockNote }
    }

    /// A worker process of the daemon.
    public struct Worker: WireFields {
        /// stager, local, global or keeper.
        public var role: String
        public var pid: Int?
        public var state: Health
        /// io_uring or threads; absent: not yet known, or not a tier's worker.
        public var io: String?
        /// Whether files are written with O_DIRECT.
        public var direct: Bool?
        public var note: String?
        public var restarts: Int

        public init(role: String, pid: Int? = nil, state: Health, io: String? = nil, direct: Bool? = nil,
                    note: String? = nil, restarts: Int) {
            self.role = role; self.pid = pid; self.state = state; self.io = io; self.direct = direct; self.note = note
            self.restarts = restarts
        }
        public enum CodingKeys: String, CodingKey, CaseIterable { case role, pid, state, io, direct, note, restarts }
    }

    public struct Folder: WireFields {
        public var path: String
        public var totalBytes: Int
        public var freeBytes: Int

        public init(path: String, totalBytes: Int, freeBytes: Int) {
            self.path = path; self.totalBytes = totalBytes; self.freeBytes = freeBytes
        }
        public enum CodingKeys: String, CodingKey, CaseIterable { case path, totalBytes, freeBytes }
    }

    public struct TierStatus: WireFields {
        public var tier: String
        public var paths: [Folder]
        public var state: Health
        /// Why it is degraded, and what to do.
        public var reason: String?
        public var remedy: String?
        /// Bytes that wait to be written, and that were written since start.
        public var queuedBytes: Int
        public var writtenBytes: Int
        public var compression: String

        public init(tier: String, paths: [Folder], state: Health, reason: String? = nil, remedy: String? = nil,
                    queuedBytes: Int, writtenBytes: Int, compression: String) {
            self.tier = tier; self.paths = paths; self.state = state; self.reason = reason; self.remedy = remedy
            self.queuedBytes = queuedBytes; self.writtenBytes = writtenBytes; self.compression = compression
        }
        public enum CodingKeys: String, CodingKey, CaseIterable { case tier, paths, state, reason, remedy, queuedBytes,
            writtenBytes, compression }
    }

    /// A save that has not come to its last level.
    public struct SaveStatus: WireFields {
        public var uid: UInt32
        public var run: String
        public var save: String
        public var step: Int
        public var level: Level
        /// Ranks of this node that are staged, of those of this node that take part.
        public var ranksStaged: Int
        public var ranks: Int
        public var worldSize: Int
        /// Of the ranks of this node.
        public var totalBytes: Int
        public var stagedBytes: Int
        public var localBytes: Int
        public var globalBytes: Int
        public var ageMs: Int
        /// Participants, of any node, that have not delivered their part as far as this node has seen.
        public var missing: [Int]
        /// A launch before the newest made it: it is finished or voided before a restore is answered.
        public var leftover: Bool
        /// What it waits for, or why it failed.
        public var reason: String?

        public init(uid: UInt32, run: String, save: String, step: Int, level: Level, ranksStaged: Int, ranks: Int,
                    worldSize: Int, totalBytes: Int, stagedBytes: Int, localBytes: Int, globalBytes: Int, ageMs: Int,
                    missing: [Int], leftover: Bool, reason: String? = nil) {
            self.uid = uid; self.run = run; self.save = save; self.step = step; self.level = level
            self.ranksStaged = ranksStaged; self.ranks = ranks; self.worldSize = worldSize; self.totalBytes = totalBytes
            self.stagedBytes = stagedBytes; self.localBytes = localBytes; self.globalBytes = globalBytes
            self.ageMs = ageMs; self.missing = missing; self.leftover = leftover; self.reason = reason
        }
        public enum CodingKeys: String, CodingKey, CaseIterable { case uid, run, save, step, level, ranksStaged, ranks,
            worldSize, totalBytes, stagedBytes, localBytes, globalBytes, ageMs, missing,
            leftover, reason }
    }

    public struct RunSessions: WireFields {
        public var uid: UInt32
        public var run: String
        public var sessions: Int
        public var worldSize: Int

        public init(uid: UInt32, run: String, sessions: Int, worldSize: Int) {
            self.uid = uid; self.run = run; self.sessions = sessions; self.worldSize = worldSize
        }
        public enum CodingKeys: String, CodingKey, CaseIterable { case uid, run, sessions, worldSize }
    }

    public struct Sessions: WireFields {
        public var count: Int
        public var runs: [RunSessions]

        public init(count: Int, runs: [RunSessions]) {
            self.count = count; self.runs = runs
        }
        public enum CodingKeys: String, CodingKey, CaseIterable { case count, runs }
    }
}
