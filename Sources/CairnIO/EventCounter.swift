import CLinux
import Glibc

/// An eventfd: any thread signals, one waits on its descriptor in a ring, a poll or the loop.
public final class EventCounter: Sendable {
    public let descriptor: Descriptor

    public init() throws(IOFailure) { descriptor = Descriptor(owning: try syscall("eventfd") { cairn_eventfd() }) }
    /// An eventfd that another process made.
    public init(descriptor: Descriptor) { self.descriptor = descriptor }

    public func signal() { _ = cairn_eventfd_signal(descriptor.raw) }

    /// How often it was signalled since the last drain.
    @discardableResult
    public func drain() -> Int { Int(clamping: cairn_eventfd_drain(descriptor.raw)) }

    /// Waits for a signal; false on timeout.
    public func wait(timeoutMilliseconds: Int) -> Bool { cairn_poll(descriptor.raw, 1, 0, CInt(clamping: timeoutMilliseconds)) & 1 == 1 }
}
