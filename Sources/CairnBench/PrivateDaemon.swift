// A cairnd of our own: its one tier is a temporary folder below the one that is measured. Its socket, configuration and log are in another one
// in TMPDIR, for a socket's name must be short and some filesystems have no sockets.
import CairnClient
import CairnIO
import CairnModel
import CairnWire
import FoundationEssentials

package final class PrivateDaemon {
    let socket: String
    private let program: String, home: Descriptor, log: Descriptor, null: Descriptor
    private let homeID: Int
    private let cleanup: Cleanup
    private var process: (child: ChildProcess, id: Int)?

    /// `tier`: a folder that is there. Does not start it yet.
    init(tier: String, poolBytes: Int, cleanup: Cleanup) throws {
        self.cleanup = cleanup
        program = try Self.find()
        let place = FileManager.default.temporaryDirectory.path, root = try FolderBench.openRoot(place)
        (home, homeID) = try FolderBench.makeFolder(root, place, cleanup)
        let folder = try FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/fd/\(home.raw)")
        socket = folder + "/s"
        // The stager's is SOCKET.memory, and the kernel's bound is 107.
        guard socket.utf8.count <= 100 else { throw BenchError.folder(path: place, reason: "a socket's path has at most 100 bytes: set TMPDIR to a shorter one") }
        let (home, socket) = (home, socket)
        (log, null) = try FolderBench.naming(place) { () throws(IOFailure) in
            try Files.writeNew(home, "cairnd.yaml", Array(Self.configuration(socket: socket, tier: tier, poolBytes: poolBytes).utf8))
            return (try Files.open(home, "log", flags: [.write, .create, .append]), try Files.open(try Files.openRoot("/dev"), "null", flags: [.read]))
        }
    }

    static func configuration(socket: String, tier: String, poolBytes: Int) -> String {
        func quoted(_ text: String) -> String { "\"" + text.map { $0 == "\"" || $0 == "\\" ? "\\\($0)" : String($0) }.joined() + "\"" }
        return """
            socket: \(quoted(socket))
            pool: {size: \(Quantity.sizeText(poolBytes))}
            tiers: {local: {paths: [\(quoted(tier))], reserve: 0B}}
            retention: {local: {keep: \(BenchLimits.rounds)}}

            """
    }

    /// Beside this program, else in PATH.
    package static func find() throws -> String {
        let files = FileManager.default
        let own = (try? files.destinationOfSymbolicLink(atPath: ChildProcess.ownExecutable)) ?? ""
        let beside = own.split(separator: "/").dropLast().map { "/" + $0 }.joined()
        let folders = [beside] + (ProcessFacts.environment("PATH") ?? "").split(separator: ":").map(String.init)
        for folder in folders where folder.hasPrefix("/") && files.isExecutableFile(atPath: folder + "/cairnd") { return folder + "/cairnd" }
        throw BenchError.noDaemonProgram(looked: "looked in '\(beside)' and PATH")
    }

    /// Comes back when it answers and its pool is filled. Gives its pool.
    @discardableResult
    func start() throws -> PoolFacts {
        let (program, null, log) = (program, null, log), configuration = socket.dropLast() + "cairnd.yaml"
        let (child, id) = try cleanup.made("cairnd") {
            do {
                return try ChildProcess.spawn(
                    executable: program, arguments: ["cairnd", "--config", String(configuration)], inherit: [(null, as: 0), (log, as: 1), (log, as: 2)],
                    without: ["CAIRN_SOCKET", "CAIRN_NODE", "NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "JOURNAL_STREAM", "STATE_DIRECTORY"])
            } catch { throw BenchError.daemonEnded(reason: "\(error)") }
        } remove: { try Self.stop($0) }
        process = (child, id)
        let begin = Clock.monotonicNanoseconds()
        func isLate(_ milliseconds: Int) -> Bool { Clock.seconds(since: begin) > Double(milliseconds) / 1000 }
        while true {
            try cleanup.goOn()
            if let exit = child.reap() { throw BenchError.daemonEnded(reason: "\(program) ended with \(exit): \(tail())") }
            if let status = try? Connection.open(socket: socket).call(Operations.Status.self, Nothing(), timeoutMilliseconds: BenchLimits.callMilliseconds) {
                if status.pool.filledBytes == status.pool.bytes, status.tiers.allSatisfy({ $0.state == .up }) {
                    return PoolFacts(status.pool)
                }
                if isLate(BenchLimits.poolFillMilliseconds) { throw BenchError.daemonEnded(reason: "its pool of \(HumanSize.short(status.pool.bytes)) was not filled in time") }
            } else if isLate(BenchLimits.daemonStartMilliseconds) { throw BenchError.daemonEnded(reason: "\(program) did not answer in time: \(tail())") }
            Clock.sleep(milliseconds: 10)
        }
    }

    func stop() {
        if let process { cleanup.remove(process.id) }
        process = nil
    }

    /// Ends it and removes all that it made outside of its tier.
    func remove() {
        stop()
        cleanup.remove(homeID)
    }

    /// Once to flush, then at once, then without asking.
    private static func stop(_ child: ChildProcess) throws {
        for signal in [Signals.terminate, Signals.terminate, Signals.kill] {
            child.kill(signal)
            if child.wait(timeoutMilliseconds: BenchLimits.daemonStopMilliseconds) != nil { return }
        }
        throw BenchError.daemonEnded(reason: "pid \(child.pid) does not end: its filesystem hangs, see the kernel's log")
    }

    private func tail() -> String {
        let bytes = (try? Files.readAll(home, "log", limit: 1 << 20)) ?? []
        return String(decoding: bytes.suffix(BenchLimits.logBytes), as: UTF8.self).split(separator: "\n").suffix(3).joined(separator: "; ")
    }
}
