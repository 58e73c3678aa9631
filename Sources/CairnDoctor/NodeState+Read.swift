// Reads the state of this node: /proc, /sys, the daemon's Status, and each folder of a tier with a few small files in a folder of its own,
// which is removed again. A folder whose tier does not answer by the daemon's word is not touched: whoever calls into a hung filesystem hangs.
import CairnBench
import CairnClient
import CairnIO
import CairnModel
import CairnTier
import CairnWire
import FoundationEssentials

extension NodeState {
    /// `configuration`: a file, whatever runs; nil: the running daemon's, else cairnd's embedded default.
    public static func read(socket: String?, configuration: String?, timeoutMilliseconds: Int) throws -> NodeState {
        var status: Operations.Status.Reply?, runs: [Operations.Run] = [], refusal: String?
        let asked = try configuration.map { try setup(file: $0) }
        do throws(ClientError) {
            let connection = try Connection.open(socket: socket ?? asked?.socket)
            status = try connection.call(Operations.Status.self, Nothing(), timeoutMilliseconds: timeoutMilliseconds)
            // Only for the size of a step: a tier that does not answer must not hide the rest.
            runs = (try? connection.call(Operations.Runs.self, .init(uid: nil, run: nil), timeoutMilliseconds: timeoutMilliseconds).runs) ?? []
        } catch {
            if case .noDaemon = error {} else { refusal = "\(error)" }
        }
        // A running daemon is judged by what it runs on, as far as its file may be read.
        var chosen: SetupFacts
        if let asked { chosen = asked } else if let status { chosen = (try? setup(file: status.daemon.configuration)) ?? Self.setup(status) } else { chosen = try setup(file: nil) }
        if let status { chosen.socket = status.daemon.socket } else if let socket { chosen.socket = socket }
        var node = NodeState(setup: chosen, clientVersion: CairnVersion.text)
        node.stepBytes = runs.compactMap { run in run.steps.first { $0.level == .committed }?.bytes }.max()
        node.readProcess(status)
        node.readKernel(status)
        node.readSocket(refusal)
        for tier in chosen.tiers {
            let told = status?.tiers.first { $0.tier == tier.tier.rawValue }
            for path in tier.paths {
                var folder = FolderState(tier: tier.tier, path: path)
                if let told, told.state != .up { folder.problem = told.reason ?? "its worker is starting" } else { folder = Self.folder(tier.tier, path) }
                node.folders.append(folder)
            }
        }
        return node
    }

    private static func setup(_ status: Operations.Status.Reply) -> SetupFacts {
        SetupFacts(socket: status.daemon.socket, poolBytes: status.pool.bytes, lock: "auto", tiers: status.tiers.compactMap { tier in
            Tier(rawValue: tier.tier).map { .init(tier: $0, paths: tier.paths.map(\.path), reserveBytes: 0, io: "auto", direct: "auto", retention: RetentionRules(keep: nil)) }
        })
    }

    /// What cairnd makes of a configuration; nil: of its embedded default.
    private static func setup(file: String?) throws -> SetupFacts {
        let place = FileManager.default.temporaryDirectory.path, root = try Files.openRoot(place), name = ".cairn-doctor-\(ProcessFacts.pid)"
        let output = try Files.open(root, name, flags: [.read, .write, .create, .truncate], mode: 0o600)
        try Files.unlink(root, name)
        let program = try PrivateDaemon.find()
        let child = try ChildProcess.spawn(executable: program, arguments: ["cairnd", "--check", "--json"] + (file.map { ["--config", $0] } ?? []),
                                           inherit: [(output, as: 1), (output, as: 2)], without: ["CAIRN_SOCKET"])
        let exit = child.wait(timeoutMilliseconds: DoctorLimits.programMilliseconds)
        if exit == nil { _ = child.kill(9) }
        let text = try PositionedIO.read(output, bytes: Int(clamping: try Files.stat(output).bytes), fileOffset: 0)
        guard case .code(0)? = exit, let setup = try? JSONDecoder().decode(SetupFacts.self, from: Data(text)) else {
            throw DoctorError(text: "\(program) --check: \(String(decoding: text, as: UTF8.self).split(separator: "\n").first.map(String.init) ?? "no answer")")
        }
        return setup
    }

    private mutating func readProcess(_ status: Operations.Status.Reply?) {
        let pid = String(status?.daemon.pid ?? Int(ProcessFacts.pid))
        if let status {
            var state = DaemonState(version: status.daemon.version, pid: status.daemon.pid, poolBytes: status.pool.bytes, filledBytes: status.pool.filledBytes,
                                    lockedBytes: status.pool.lockedBytes, hugeBytes: status.pool.hugeBytes)
            state.uid = (try? Files.openRoot("/proc")).flatMap { try? Files.stat($0, pid) }?.uid
            state.isReplaced = (try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/\(pid)/exe"))?.hasSuffix(" (deleted)") ?? false
            daemon = state
            let stager = status.workers.first { $0.role == "stager" }?.pid
            poolByNode = stager.map { Self.poolByNode(NodeFacts.text("/proc", "\($0)/numa_maps", limit: DoctorLimits.procBytes)) } ?? [:]
        }
        memlockBytes = Self.memlock(NodeFacts.text("/proc", "\(pid)/limits"))
        let own = NodeFacts.text("/proc", "\(pid)/status")
        seccomp = NodeFacts.value(of: "Seccomp:", in: own)
        let capabilities = own.split(separator: "\n").first { $0.hasPrefix("CapEff:") }.flatMap { UInt64($0.split(whereSeparator: \.isWhitespace).last ?? "", radix: 16) } ?? 0
        mayLockAll = capabilities & (1 << 14) != 0                 // CAP_IPC_LOCK
    }

    private mutating func readKernel(_ status: Operations.Status.Reply?) {
        ioUringDisabled = Int(NodeFacts.text("/proc", "sys/kernel/io_uring_disabled"))
        ptraceScope = Int(NodeFacts.text("/proc", "sys/kernel/yama/ptrace_scope"))
        hugePages = NodeFacts.chosen(NodeFacts.text("/sys", "kernel/mm/transparent_hugepage/enabled"))
        sharedHugePages = NodeFacts.chosen(NodeFacts.text("/sys", "kernel/mm/transparent_hugepage/shmem_enabled"))
        clockIsSynchronized = Clock.isSynchronized
        memoryNodes = Self.count(NodeFacts.text("/sys", "devices/system/node/has_memory"))
        // What the daemon's workers do says more than a ring of this process, which may be in another container.
        let workers = status?.workers.compactMap(\.io) ?? []
        if workers.isEmpty { ringRefusal = Ring.probe().map { errnoName($0.errno) } } else if workers.contains("threads") {
            ringRefusal = status?.workers.first { $0.io == "threads" }?.note ?? "the daemon's workers use threads"
        }
    }

    private mutating func readSocket(_ refusal: String?) {
        let parts = setup.socket.split(separator: "/").map(String.init)
        socket.refusal = refusal
        guard let name = parts.last, let folder = try? Files.openRoot("/" + parts.dropLast().joined(separator: "/")), let found = try? Files.stat(folder, name) else { return }
        socket.exists = true
        socket.isSocket = found.isSocket
        socket.permissions = found.permissions
    }

    /// `Max locked memory  8388608  8388608  bytes`: the soft one. Nil: unlimited, or not told.
    static func memlock(_ limits: String) -> Int? {
        limits.split(separator: "\n").first { $0.hasPrefix("Max locked memory") }.flatMap { line in Int(line.split(separator: " ").dropFirst(3).first ?? "") }
    }

    /// `0-1,3`: 3.
    static func count(_ list: String) -> Int? {
        var count = 0
        for range in list.split(separator: ",") {
            let ends = range.split(separator: "-").compactMap { Int($0) }
            guard let first = ends.first, let last = ends.last, last >= first else { return nil }
            count += last - first + 1
        }
        return count == 0 ? nil : count
    }

    /// numa_maps' lines of the pool's memfds: `… file=/memfd:cairn-pool-0 … N0=512 N1=512 kernelpagesize_kB=4`.
    static func poolByNode(_ maps: String) -> [Int: Int] {
        var bytes: [Int: Int] = [:]
        for line in maps.split(separator: "\n") where line.contains("cairn-pool-") {
            let fields = line.split(separator: " ")
            let page = fields.first { $0.hasPrefix("kernelpagesize_kB=") }.flatMap { Int($0.split(separator: "=").last ?? "") } ?? 4
            for field in fields where field.hasPrefix("N") {
                let sides = field.dropFirst().split(separator: "=").compactMap { Int($0) }
                if sides.count == 2 { bytes[sides[0], default: 0] += sides[1] * page << 10 }
            }
        }
        return bytes
    }

    // MARK: folders

    /// On a thread of its own, bounded: the filesystem may hang.
    private static func folder(_ tier: Tier, _ path: String) -> FolderState {
        let answer = WorkQueue<FolderState>(capacity: 1)
        do {
            try Threads.spawn(name: "folder") { answer.push(tried(tier, path)) }
        } catch { return FolderState(tier: tier, path: path, problem: "\(error)") }
        return answer.pop(timeoutMilliseconds: DoctorLimits.folderMilliseconds)
            ?? FolderState(tier: tier, path: path, problem: "its filesystem does not answer within \(DoctorLimits.folderMilliseconds / 1000) s")
    }

    private static func tried(_ tier: Tier, _ path: String) -> FolderState {
        var state = FolderState(tier: tier, path: path)
        // A tier's own folder is made at the start; its parent must be there.
        var root: Descriptor
        do { root = try Files.openRoot(path) } catch {
            guard error.isMissing, let parent = try? Files.openRoot("/" + path.split(separator: "/").dropLast().joined(separator: "/")) else {
                state.problem = "\(error)"
                return state
            }
            root = parent
        }
        let name = ".cairn-doctor-\(ProcessFacts.pid)"
        do {
            let space = try Files.space(root)
            (state.filesystem, state.totalBytes, state.freeBytes) = (NodeFacts.filesystem(space.filesystemType), space.totalBytes, space.freeBytes)
            state.isOnRoot = try Files.stat(root).device == Files.stat(Files.openRoot("/")).device
            try Files.makeFolder(root, name)
        } catch {
            if state.filesystem.isEmpty { state.problem = "\(error)" } else { state.writeRefusal = "\(error)" }
            return state
        }
        defer { try? Files.removeTree(root, name) }
        do throws(IOFailure) {
            let before = Clock.utcSeconds()
            try Files.writeNew(root, "\(name)/file", [UInt8](repeating: 1, count: 4096))
            let made = try Files.stat(root, "\(name)/file").modifiedSeconds, after = Clock.utcSeconds()
            state.clockAheadSeconds = made > after ? made - after : made < before ? made - before : 0
            state.directRefusal = try TierOpening.directRefusal(try Files.openFolder(root, name), "file").map { errnoName($0.errno) }
            state.namesProblem = try namesProblem(root, name)
        } catch { state.writeRefusal = "\(error)" }
        return state
    }

    /// What the protocol of many daemons needs: DESIGN's rule that the first name wins, and that a step's folder is never replaced.
    private static func namesProblem(_ root: Descriptor, _ name: String) throws(IOFailure) -> String? {
        do throws(IOFailure) { try Files.link(root, from: "\(name)/file", to: "\(name)/linked") } catch { return "no hard links (\(errnoName(error.errno)))" }
        do throws(IOFailure) {
            try Files.link(root, from: "\(name)/file", to: "\(name)/linked")
            return "a second link to a name that is taken succeeds"
        } catch { guard error.exists else { throw error } }
        try Files.makeFolder(root, "\(name)/from")
        try Files.makeFolder(root, "\(name)/to")
        for folder in ["from", "to"] { try Files.writeNew(root, "\(name)/\(folder)/\(folder)", [1]) }
        do throws(IOFailure) {
            try Files.rename(root, from: "\(name)/from", to: "\(name)/to")
            return "a folder is renamed over another that holds files"
        } catch { guard error.isNotEmpty else { throw error } }
        try Files.rename(root, from: "\(name)/from", to: "\(name)/moved")
        try Files.syncFolder(root, name)
        return try Files.statIfPresent(root, "\(name)/moved/from") == nil ? "a folder that was renamed lost its file" : nil
    }
}

extension FolderState {
    init(tier: Tier, path: String, problem: String) {
        self.init(tier: tier, path: path)
        self.problem = problem
    }
}

/// Why nothing can be looked at.
public struct DoctorError: Error, CustomStringConvertible {
    let text: String
    public var description: String { text }
}
