// A child process: the daemon's workers. Only named descriptors reach it; its end is seen by its pidfd.
import CLinux
import Glibc

public final class ChildProcess: Sendable {
    /// How a child ended.
    public enum Exit: Sendable, Equatable, CustomStringConvertible {
        case code(Int32)
        case signal(Int32)
        public var description: String {
            switch self {
            case .code(let code): "exit code \(code)"
            case .signal(let number): "signal \(number)"
            }
        }
    }

    public let pid: Int32
    public let pidfd: Descriptor

    private init(pid: Int32, pidfd: Descriptor) { self.pid = pid; self.pidfd = pidfd }

    public static let ownExecutable = "/proc/self/exe"

    /// `arguments` start with the program's name. `inherit` are the descriptors and the numbers they get there; all others are
    /// closed. `dieWithParent` is tied to the *thread* that calls: it must outlive the child, as the loop's thread does.
    /// `without` names environment variables that the child does not get, `adding` further ones (NAME=value). `ownGroup`: it leads a process group
    /// of its own, which `killGroup` reaches.
    public static func spawn(executable: String, arguments: [String], inherit: [(Descriptor, as: Int32)] = [],
                             dieWithParent: Bool = true, without: Set<String> = [], adding: [String] = [],
                             ownGroup: Bool = false) throws(IOFailure) -> ChildProcess {
        precondition(inherit.count <= 16, "\(inherit.count) inherited descriptors")
        let environment = ProcessFacts.environment().filter { !without.contains(String($0.prefix { $0 != "=" })) } + adding
        let from = inherit.map { $0.0.raw }, targets = inherit.map { $0.as }
        let pid = unsafe try withCStrings(arguments) { (argv) throws(IOFailure) in
            unsafe try withCStrings(environment) { (envp) throws(IOFailure) in
                try syscall("start", executable) {
                    unsafe cairn_spawn(executable, argv, envp, from, targets, Int32(from.count), dieWithParent ? 1 : 0, ownGroup ? 1 : 0)
                }
            }
        }
        // Not reaped yet, so the pid is still this child's.
        return ChildProcess(pid: pid, pidfd: try PidWatch.open(pid: pid))
    }

    /// What a child prints: the end to read, which does not block, and the one that it gets.
    public static func pipe() throws(IOFailure) -> (read: Descriptor, write: Descriptor) {
        var ends: [CInt] = [-1, -1]
        _ = try syscall("make a pipe") { unsafe cairn_pipe(&ends) }
        let (read, write) = (Descriptor(owning: ends[0]), Descriptor(owning: ends[1]))
        _ = try syscall("make a pipe") { fcntl(read.raw, F_SETFL, O_NONBLOCK) }
        return (read, write)
    }

    /// Nil where nothing is there now, or will be.
    public static func readAvailable(_ end: Descriptor) -> [UInt8]? {
        var bytes = [UInt8](repeating: 0, count: 4096)
        let got = unsafe bytes.withUnsafeMutableBytes { unsafe Glibc.read(end.raw, $0.baseAddress, $0.count) }
        return got > 0 ? Array(bytes.prefix(got)) : nil
    }

    /// False when it has ended already.
    @discardableResult
    public func kill(_ signal: Int32) -> Bool { cairn_signal_pidfd(pidfd.raw, signal) == 0 }

    /// All that it has started too; only for one with `ownGroup`, and not after it was reaped: its number may be another group's then.
    public func killGroup(_ signal: Int32) { _ = Glibc.kill(-pid, signal) }

    /// Nil while it runs. Asked again after the first answer it says `.code(-1)`.
    public func reap() -> Exit? {
        var code: Int32 = 0, signal: Int32 = 0
        let result = unsafe cairn_reap(pid, &code, &signal)
        if result == 0 { return nil }
        if result < 0 { return .code(-1) }
        return signal != 0 ? .signal(signal) : .code(code)
    }

    /// Waits, bounded, then reaps.
    public func wait(timeoutMilliseconds: Int) -> Exit? {
        PidWatch.waitUntilGone(pidfd, timeoutMilliseconds: timeoutMilliseconds) ? reap() : nil
    }
}

/// A NULL-terminated array of C strings, valid during the call.
private func withCStrings<Result>(
    _ texts: [String], _ body: (UnsafePointer<UnsafeMutablePointer<CChar>?>) throws(IOFailure) -> Result
) throws(IOFailure) -> Result {
    let list = UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>.allocate(capacity: texts.count + 1)
    for (index, text) in texts.enumerated() { unsafe (list + index).initialize(to: strdup(text)) }
    unsafe (list + texts.count).initialize(to: nil)
    defer {
        for index in texts.indices { unsafe free(list[index]) }
        unsafe list.deallocate()
    }
    return unsafe try body(UnsafePointer(list))
}
