// A process's life by pidfd: a pid can be reused, a pidfd cannot.
import CLinux
import Glibc

public enum PidWatch {
    public static func open(pid: Int32) throws(IOFailure) -> Descriptor {
        Descriptor(owning: try syscall("pidfd_open", "\(pid)") { cairn_pidfd(pid) })
    }

    /// Readable means ended, reaped or not.
    public static func isGone(_ pidfd: Descriptor) -> Bool { cairn_poll(pidfd.raw, 1, 0, 0) > 0 }

    /// Waits for the end; false on timeout.
    public static func waitUntilGone(_ pidfd: Descriptor, timeoutMilliseconds: Int) -> Bool {
        let deadline = Clock.monotonicNanoseconds() + timeoutMilliseconds * 1_000_000
        while true {
            let left = max(0, (deadline - Clock.monotonicNanoseconds() + 999_999) / 1_000_000)
            if cairn_poll(pidfd.raw, 1, 0, CInt(clamping: left)) > 0 { return true }
            if left == 0 { return false }
        }
    }
}
