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
    /// `without` names environment variables that the child does not get.
    public static func spawn(executable: String, arguments: [String], inherit: [(Descriptor, as: Int32)] = [],
                             dieWithParent: Bool = true, without: Set<String> = []) throws(IOFailure) -> ChildProcess {
        precondition(inherit.count <= 16, "\(inherit.count) inherited descriptors")
        let environment = ProcessFacts.environment().filter { !without.contains(String($0.prefix { $0 != "=" })) }
        let from = inherit.map { $0.0.raw }, targets = inherit.map { $0.as }
        let pid = unsafe try withCStrings(arguments) { (argv) throws(IOFailure) in
            unsafe try withCStrings(environment) { (envp) throws(IOFailure) in
                try syscall("start", executable) {
                    unsafe cairn_spawn(executable, argv, envp, from, targets, Int32(from.count), dieWithParent ? 1 : 0)
                }
            }
        }
        // Not reaped yet, so the pid is still this child's.
        return ChildProcess(pid: pid, pidfd: try PidWatch.open(pid: pid))
    }

    /// False when it has ended already.
    @discardableResult
    public func kill(_ signal: Int32) -> Bool { cairn_signal_pidfd(pidfd.raw, signal) == 0 }

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
