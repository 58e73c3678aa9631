// What the checks are made of: this node's settings, the daemon's limits and each folder of a tier, as plain values. Reading them is
// NodeState+Read's, judging them Finding+Rules'.
import CairnModel

public struct NodeState: Codable, Sendable {
    public var setup: SetupFacts
    /// Nil: none answers.
    public var daemon: DaemonState?
    /// Of the daemon where one runs, else of this process, as is `seccomp`. Nil: no limit.
    public var memlockBytes: Int?
    public var mayLockAll = false
    /// The mode in /proc/PID/status: 2 is a filter.
    public var seccomp: Int?
    /// kernel.io_uring_disabled; nil where the kernel has no such switch.
    public var ioUringDisabled: Int?
    /// Of a ring that was tried here, or what the daemon's workers do.
    public var ringRefusal: String?
    /// The chosen words of /sys/kernel/mm/transparent_hugepage.
    public var hugePages: String?, sharedHugePages: String?
    /// kernel.yama.ptrace_scope; nil without Yama.
    public var ptraceScope: Int?
    public var clockIsSynchronized: Bool?
    public var memoryNodes: Int?
    /// Bytes of the pool on each memory node, where they may be read.
    public var poolByNode: [Int: Int] = [:]
    public var socket = SocketState()
    public var folders: [FolderState] = []
    /// The largest of the runs' newest steps.
    public var stepBytes: Int?
    public var clientVersion: String

    public init(setup: SetupFacts, clientVersion: String) { self.setup = setup; self.clientVersion = clientVersion }
}

public struct DaemonState: Codable, Sendable {
    public var version: String, pid: Int, uid: UInt32?
    /// Its program was replaced since it started.
    public var isReplaced = false
    public var poolBytes: Int, filledBytes: Int, lockedBytes: Int, hugeBytes: Int
    public init(version: String, pid: Int, poolBytes: Int, filledBytes: Int, lockedBytes: Int, hugeBytes: Int) {
        self.version = version; self.pid = pid; self.poolBytes = poolBytes; self.filledBytes = filledBytes; self.lockedBytes = lockedBytes; self.hugeBytes = hugeBytes
    }
}

public struct SocketState: Codable, Sendable {
    public var exists = false, isSocket = false
    public var permissions: UInt32 = 0
    /// What a client that may not get there was told.
    public var refusal: String?
    public init() {}
}

/// One folder of a tier, tried with files of its own that are removed again.
public struct FolderState: Codable, Sendable {
    public var tier: Tier, path: String
    /// Why it could not be tried at all: missing, not to be entered, no answer.
    public var problem: String?
    public var filesystem = "", isOnRoot = false
    public var totalBytes = 0, freeBytes = 0
    public var writeRefusal: String?, directRefusal: String?
    /// What of the protocol does not hold: a second `link` to a name, a folder renamed over another.
    public var namesProblem: String?
    /// A fresh file's time less this node's.
    public var clockAheadSeconds: Int?
    public init(tier: Tier, path: String) { self.tier = tier; self.path = path }
}
