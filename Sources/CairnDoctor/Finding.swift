// What the state of a node means: one finding for each check, with a remedy in one line where something is wrong. Pure.
// problem: steps may be lost, or saves fail. warning: right, but slower or smaller than it could be. skipped: could not be looked at.
import CairnModel
import CairnWire

public struct Finding: Codable, Sendable, Equatable {
    public enum Check: String, Codable, Sendable, CaseIterable {
        case version, socket, memlock, hugePages, poolPages, ioUring, ptrace, numa, clock
        case folder, filesystem, rootDisk, writable, direct, names, tierClock, space
    }
    public enum Grade: String, Codable, Sendable { case ok, skipped, warning, problem }
    public var check: Check
    /// Absent: of the node.
    public var path: String?
    public var grade: Grade, text: String, remedy: String?
    public init(_ check: Check, _ grade: Grade, _ text: String, remedy: String? = nil, path: String? = nil) {
        self.check = check; self.path = path; self.grade = grade; self.text = text; self.remedy = remedy
    }
}

extension Finding {
    public static func all(_ node: NodeState) -> [Finding] {
        [version(node), socket(node), memlock(node), hugePages(node), poolPages(node), ioUring(node), ptrace(node), numa(node), clock(node)]
            + node.folders.flatMap { folder(folder: $0, node) }
    }

    static func version(_ node: NodeState) -> Finding {
        guard let daemon = node.daemon else { return Finding(.version, .skipped, "no daemon answers at '\(node.setup.socket)'", remedy: "start cairnd, or go on with what the configuration says") }
        guard daemon.version == node.clientVersion else {
            return Finding(.version, .problem, "the daemon is \(daemon.version), this program \(node.clientVersion)", remedy: "restart cairnd after an upgrade, and install both from one package")
        }
        guard !daemon.isReplaced else { return Finding(.version, .problem, "the daemon's program was replaced since it started", remedy: "systemctl restart cairnd") }
        return Finding(.version, .ok, "daemon and client are \(daemon.version)")
    }

    static func socket(_ node: NodeState) -> Finding {
        let path = node.setup.socket, state = node.socket
        if let refusal = state.refusal, state.exists || node.daemon == nil {
            return Finding(.socket, .problem, "'\(path)' may not be used: \(refusal)", remedy: "give its folder x, and the socket r and w, for the ranks' users", path: path)
        }
        guard state.exists else {
            return Finding(.socket, node.daemon == nil ? .skipped : .ok, node.daemon == nil ? "there is no socket '\(path)' yet" : "the daemon answers", path: path)
        }
        guard state.isSocket else { return Finding(.socket, .problem, "'\(path)' is no socket", remedy: "remove it, and start cairnd", path: path) }
        guard state.permissions & 0o006 == 0o006 else {
            return Finding(.socket, .warning, "only the daemon's user and group may connect (mode \(String(state.permissions & 0o777, radix: 8)))",
                           remedy: "SocketMode=0666 in cairnd.socket, unless that is meant: the daemon tells users apart", path: path)
        }
        return Finding(.socket, .ok, "everybody may connect", path: path)
    }

    static func memlock(_ node: NodeState) -> Finding {
        let pool = node.daemon?.poolBytes ?? node.setup.poolBytes, limit = node.memlockBytes
        let remedy = "LimitMEMLOCK=infinity in the unit, `ulimit -l unlimited` by hand, memlock in /etc/security/limits.conf"
        if node.setup.lock == "false" { return Finding(.memlock, .ok, "pool.lock is false: nothing is locked") }
        if let daemon = node.daemon, daemon.lockedBytes < daemon.filledBytes {
            return Finding(.memlock, .warning, "\(HumanSize.short(daemon.lockedBytes)) of the pool's \(HumanSize.short(daemon.filledBytes)) are locked, the rest may be swapped out", remedy: remedy)
        }
        if node.daemon == nil, let limit, limit < pool, !node.mayLockAll {
            return Finding(.memlock, node.setup.lock == "true" ? .problem : .warning,
                           "the memlock limit of \(HumanSize.short(limit)) is below the pool of \(HumanSize.short(pool))", remedy: remedy)
        }
        return Finding(.memlock, .ok, node.daemon == nil ? "the pool of \(HumanSize.short(pool)) may be locked" : "the pool is locked")
    }

    static func hugePages(_ node: NodeState) -> Finding {
        guard let word = node.hugePages else { return Finding(.hugePages, .skipped, "the kernel says nothing of transparent huge pages") }
        guard word != "never" else {
            return Finding(.hugePages, .warning, "transparent huge pages are off: copying tensors takes more faults", remedy: "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled")
        }
        return Finding(.hugePages, .ok, "transparent huge pages: \(word), of shared memory: \(node.sharedHugePages ?? "unknown")")
    }

    static func poolPages(_ node: NodeState) -> Finding {
        guard let daemon = node.daemon, daemon.filledBytes > 0 else { return Finding(.poolPages, .skipped, "no pool is filled") }
        guard daemon.hugeBytes >= daemon.filledBytes / 2 else {
            return Finding(.poolPages, .warning, "\(HumanSize.short(daemon.hugeBytes)) of the pool's \(HumanSize.short(daemon.filledBytes)) are in huge pages: drives take the rest in many more requests",
                           remedy: "echo 1 > /proc/sys/vm/compact_memory, and restart cairnd; kernels before 6.1 have none")
        }
        return Finding(.poolPages, .ok, "\(HumanSize.short(daemon.hugeBytes)) of the pool's \(HumanSize.short(daemon.filledBytes)) are in huge pages")
    }

    static func ioUring(_ node: NodeState) -> Finding {
        if !node.setup.tiers.isEmpty, node.setup.tiers.allSatisfy({ $0.io == "threads" }) { return Finding(.ioUring, .ok, "the configuration asks for threads") }
        guard let refusal = node.ringRefusal else { return Finding(.ioUring, .ok, "io_uring works") }
        let remedy = (node.ioUringDisabled ?? 0) > 0 ? "sysctl -w kernel.io_uring_disabled=0, and the same line in /etc/sysctl.d"
            : node.seccomp == 2 ? "allow io_uring_setup, io_uring_enter and io_uring_register in the container's seccomp profile" : "raise LimitMEMLOCK, or see dmesg for the security module that refuses it"
        let isDemanded = node.setup.tiers.contains { $0.io == "io_uring" }
        return Finding(.ioUring, isDemanded ? .problem : .warning, "io_uring is refused (\(refusal))\(isDemanded ? ", and a tier demands it" : ": threads are used, which cost more CPU")", remedy: remedy)
    }

    static func ptrace(_ node: NodeState) -> Finding {
        guard let scope = node.ptraceScope, scope >= 2 else {
            return Finding(.ptrace, .ok, node.ptraceScope == nil ? "no Yama: ranks of the daemon's user are read by process_vm_readv" : "kernel.yama.ptrace_scope is \(node.ptraceScope ?? 0): clients permit the daemon")
        }
        return Finding(.ptrace, .warning, "kernel.yama.ptrace_scope is \(scope): ranks are read through a descriptor, at two thirds of the speed", remedy: "sysctl -w kernel.yama.ptrace_scope=1")
    }

    static func numa(_ node: NodeState) -> Finding {
        guard let nodes = node.memoryNodes else { return Finding(.numa, .skipped, "the kernel names no memory nodes") }
        guard nodes > 1 else { return Finding(.numa, .ok, "one memory node") }
        let total = node.poolByNode.values.reduce(0, +), most = node.poolByNode.values.max() ?? 0
        guard total > 0 else { return Finding(.numa, .skipped, "\(nodes) memory nodes; where the pool lies may only be read as the daemon's user or root") }
        guard Double(most) < 0.8 * Double(total) else {
            return Finding(.numa, .warning, "\(HumanSize.short(most)) of the pool's \(HumanSize.short(total)) lie on one of \(nodes) memory nodes: ranks of the others copy across", remedy: "NUMAPolicy=interleave and NUMAMask=all in the unit")
        }
        return Finding(.numa, .ok, "the pool is spread over \(nodes) memory nodes")
    }

    static func clock(_ node: NodeState) -> Finding {
        guard let synchronized = node.clockIsSynchronized else { return Finding(.clock, .skipped, "the kernel does not tell whether the clock is synchronized") }
        return synchronized ? Finding(.clock, .ok, "the clock is synchronized")
            : Finding(.clock, .warning, "the clock is not synchronized: ages and dates of steps are off by as much", remedy: "systemctl enable --now chrony, or systemd-timesyncd")
    }

    static func folder(folder: FolderState, _ node: NodeState) -> [Finding] {
        func found(_ check: Check, _ grade: Grade, _ text: String, _ remedy: String? = nil) -> Finding { Finding(check, grade, text, remedy: remedy, path: folder.path) }
        if let problem = folder.problem { return [found(.folder, .problem, "\(folder.tier) tier: \(problem)", "mount the filesystem, make the folder's parent, and give it to the daemon's user")] }
        let setup = node.setup.tiers.first { $0.tier == folder.tier }
        var all: [Finding] = []
        switch folder.filesystem {
        case "tmpfs", "ramfs": all.append(found(.filesystem, .problem, "\(folder.filesystem) is memory: it loses all when the node goes down", "use a drive; the pool is what keeps steps in memory"))
        case "overlay": all.append(found(.filesystem, .problem, "this is the container's own layer, which ends with it", "mount a volume there"))
        case let name where folder.tier == .local && node.setup.tiers.count == 2 && ["nfs", "lustre", "ceph", "gpfs", "beegfs", "smb"].contains(name):
            all.append(found(.filesystem, .warning, "\(name) is reached over a network, and this is the local tier", "use a drive of the node"))
        default: all.append(found(.filesystem, .ok, folder.filesystem))
        }
        if folder.isOnRoot, folder.filesystem != "overlay" {
            all.append(found(.rootDisk, .warning, "it is on the root filesystem: a full tier fills the system's disk, and both slow each other", "use a drive or a partition of its own"))
        }
        if let refusal = folder.writeRefusal { return all + [found(.writable, .problem, "not writable: \(refusal)", "chown it to the daemon's user, or free space")] }
        all.append(found(.writable, .ok, "writable"))
        if let refusal = folder.directRefusal, setup?.direct != "off" {
            all.append(found(.direct, setup?.direct == "on" ? .problem : .warning, "O_DIRECT is refused (\(refusal)): the page cache takes memory from training", "ext4 and xfs take it; direct: off says that this is known"))
        } else { all.append(found(.direct, .ok, setup?.direct == "off" ? "buffered, as configured" : "takes O_DIRECT")) }
        if let problem = folder.namesProblem {
            all.append(found(.names, .problem, "names are not exclusive here: \(problem)", "two daemons could both commit: use another filesystem, or other mount options"))
        } else { all.append(found(.names, .ok, "link is exclusive, a folder is not renamed over another")) }
        if let ahead = folder.clockAheadSeconds {
            let seconds = abs(ahead), way = ahead > 0 ? "ahead of" : "behind"
            all.append(seconds >= DoctorLimits.clockProblemSeconds
                ? found(.tierClock, .problem, "its clock is \(HumanAge.short(seconds: seconds)) \(way) this node's: renamed-away steps are deleted too early or too late", "synchronize the servers and this node (chrony)")
                : seconds >= DoctorLimits.clockWarningSeconds ? found(.tierClock, .warning, "its clock is \(seconds) s \(way) this node's", "synchronize the servers and this node (chrony)")
                : found(.tierClock, .ok, "its clock agrees with this node's"))
        }
        all.append(space(folder, setup, node))
        return all
    }

    /// Room for what retention keeps, and for the step that comes while nothing is removed yet.
    static func space(_ folder: FolderState, _ setup: SetupFacts.TierSetup?, _ node: NodeState) -> Finding {
        let free = folder.freeBytes - (setup?.reserveBytes ?? 0), size = "\(HumanSize.short(folder.freeBytes)) of \(HumanSize.short(folder.totalBytes)) free"
        func found(_ grade: Grade, _ text: String, _ remedy: String? = nil) -> Finding { Finding(.space, grade, text, remedy: remedy, path: folder.path) }
        guard free > 0 else {
            return found(.problem, "\(size), and \(HumanSize.short(setup?.reserveBytes ?? 0)) are reserved: nothing can be saved", "free some, lower retention (cairn gc --dry-run), or reserve less")
        }
        guard let step = node.stepBytes, step > 0, let keep = setup?.retention.keep else { return found(.ok, size) }
        guard free >= step else { return found(.problem, "\(size): less than one more step of \(HumanSize.short(step))", "free some, or lower retention (cairn gc --dry-run)") }
        let needed = (keep + 1) * step
        guard folder.totalBytes >= needed else {
            return found(.problem, "\(keep) steps of \(HumanSize.short(step)) and the next one need \(HumanSize.short(needed)), the filesystem has \(HumanSize.short(folder.totalBytes))", "lower retention's keep, or use a larger one")
        }
        return found(.ok, "\(size): \(free / step) more steps of \(HumanSize.short(step))")
    }
}

public enum DoctorLimits {
    /// A second is the resolution of some filesystems' times.
    static let clockWarningSeconds = 3
    /// What is renamed away is deleted ten minutes later by this node's clock.
    static let clockProblemSeconds = 600
    /// A folder's checks may take so long before its filesystem counts as hung.
    static let folderMilliseconds = 20_000
    static let programMilliseconds = 10_000
    static let procBytes = 4 << 20
}
