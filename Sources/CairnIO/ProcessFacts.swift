// What this process is and may: ids, limits, environment, signals.
import CLinux
import Glibc

public enum ProcessFacts {
    public static var uid: UInt32 { geteuid() }
    public static var gid: UInt32 { getegid() }
    public static var pid: Int32 { getpid() }

    /// Soft and hard limit; nil: unlimited.
    public static func memoryLockLimit() -> (soft: Int?, hard: Int?) { unsafe limit { unsafe cairn_memory_lock_limit($0, $1) } }
    public static func raiseMemoryLockLimit() throws(IOFailure) { try syscall("raise memlock limit") { cairn_raise_limit(0) } }
    public static func raiseOpenFilesLimit() throws(IOFailure) { try syscall("raise open files limit") { cairn_raise_limit(1) } }

    /// The soft limit.
    public static func openFilesLimit() -> Int { unsafe limit { unsafe cairn_open_files_limit($0, $1) }.soft ?? .max }

    private static func limit(_ ask: (UnsafeMutablePointer<UInt64>, UnsafeMutablePointer<UInt64>) -> CInt) -> (soft: Int?, hard: Int?) {
        var soft: UInt64 = 0, hard: UInt64 = 0
        guard unsafe ask(&soft, &hard) == 0 else { return (nil, nil) }
        return (soft == UInt64.max ? nil : Int(clamping: soft), hard == UInt64.max ? nil : Int(clamping: hard))
    }

    public static func hostname() -> String {
        var buffer = [CChar](repeating: 0, count: 256)
        guard unsafe gethostname(&buffer, 255) == 0 else { return "localhost" }
        return String(decoding: buffer.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }

    /// Differs after each boot of the node; empty where /proc is not there.
    public static func bootID() -> String {
        guard let folder = try? Files.openRoot("/proc/sys/kernel/random"),
              let file = try? Files.open(folder, "boot_id", flags: .read) else { return "" }
        var buffer = [UInt8](repeating: 0, count: 64)
        let got = unsafe read(file.raw, &buffer, 64)
        return String(decoding: buffer.prefix(max(0, got)).prefix { $0 != 10 }, as: UTF8.self)
    }

    public static func isTerminal(_ number: Int32) -> Bool { isatty(number) == 1 }

    /// Nil where it is no terminal, or does not know.
    public static func terminalRows(_ number: Int32) -> Int? {
        let rows = cairn_terminal_rows(number)
        return rows > 0 ? Int(rows) : nil
    }

    public static func environment(_ name: String) -> String? {
        guard let value = unsafe getenv(name) else { return nil }
        return unsafe String(cString: value)
    }

    public static func setEnvironment(_ name: String, _ value: String?) {
        if let value { unsafe setenv(name, value, 1) } else { unsafe unsetenv(name) }
    }

    /// All of it, each `NAME=VALUE`.
    public static func environment() -> [String] {
        guard var entry = unsafe cairn_environment() else { return [] }
        var all: [String] = []
        while let text = unsafe entry.pointee {
            unsafe all.append(String(cString: text))
            unsafe entry += 1
        }
        return all
    }

    /// SIGPIPE and SIGXFSZ become errors of the call instead of the end of the process.
    public static func ignoreSignals() {
        _ = cairn_ignore_signal(SIGPIPE)
        _ = cairn_ignore_signal(SIGXFSZ)
    }

    public static func ignore(signal number: Int32) { _ = cairn_ignore_signal(number) }

    /// Under Yama, lets a daemon and its workers read this process's memory. Without Yama this does nothing.
    public static func permitReading(by pid: Int32) { _ = cairn_permit_reading(pid) }

    /// Sends this process a signal.
    public static func raise(_ number: Int32) { _ = Glibc.kill(getpid(), number) }

    /// The calling thread and those it starts later; false where the kernel refused.
    @discardableResult
    public static func setNiceness(_ niceness: Int) -> Bool { cairn_set_niceness(0, CInt(niceness)) == 0 }

    /// What `ps` shows, 15 bytes of it.
    public static func setProcessName(_ name: String) { _ = unsafe cairn_set_name(name) }

    /// Ends at once, without exit handlers: nothing of Cairn's needs them, and one that hangs would keep the process.
    /// What `print` still buffers is written first.
    public static func exitProcess(_ code: Int32) -> Never {
        fflush(nil)
        _exit(code)
    }

    /// Kernel memory of this process in bytes (resident set), from /proc/self/statm.
    public static func residentBytes() -> Int {
        guard let folder = try? Files.openRoot("/proc/self"), let file = try? Files.open(folder, "statm", flags: .read) else { return 0 }
        var buffer = [UInt8](repeating: 0, count: 128)
        let got = unsafe read(file.raw, &buffer, 128)
        let fields = String(decoding: buffer.prefix(max(0, got)), as: UTF8.self).split(separator: " ")
        return fields.count > 1 ? (Int(fields[1]) ?? 0) * 4096 : 0
    }

    /// uid of a user's name; nil when there is none.
    public static func uid(ofUser name: String) -> UInt32? {
        if let number = UInt32(name) { return number }
        guard let found = unsafe getpwnam(name) else { return nil }
        return unsafe found.pointee.pw_uid
    }

    /// gid of a group's name; nil when there is none.
    public static func gid(ofGroup name: String) -> UInt32? {
        if let number = UInt32(name) { return number }
        guard let found = unsafe getgrnam(name) else { return nil }
        return unsafe found.pointee.gr_gid
    }
}

/// Numbers of the signals that the programs handle.
public enum Signals {
    public static let terminate = SIGTERM, interrupt = SIGINT, hangUp = SIGHUP, kill = SIGKILL, child = SIGCHLD
    public static let user1 = SIGUSR1, stop = SIGSTOP, resume = SIGCONT
}
