// A file descriptor that is closed exactly once: when its last reference goes.
import CLinux
import Glibc

public final class Descriptor: Sendable, CustomStringConvertible {
    public let raw: CInt

    public init(owning raw: CInt) {
        precondition(raw >= 0, "descriptor \(raw)")
        self.raw = raw
    }

    // Not retried: Linux frees the number even on EINTR. What must be durable was synced before.
    deinit { _ = Glibc.close(raw) }

    public func duplicate() throws(IOFailure) -> Descriptor {
        Descriptor(owning: try syscall("duplicate") { cairn_duplicate(raw) })
    }

    public var description: String { "descriptor \(raw)" }
}
