// The four kinds of handles of the loop.
import CUV
import Glibc

public struct LoopEvents: OptionSet, Sendable {
    public let rawValue: Int32
    public init(rawValue: Int32) { self.rawValue = rawValue }
    public static let readable = LoopEvents(rawValue: 1), writable = LoopEvents(rawValue: 2)
    /// The peer closed, or shut down its writing side; what it sent before may still be read.
    public static let disconnect = LoopEvents(rawValue: 4)
    /// Only reported, never asked for.
    public static let failed = LoopEvents(rawValue: 64)
}

/// Waits for events of one descriptor.
public final class Watch: LoopHandle {
    public let descriptor: Descriptor
    public private(set) var events: LoopEvents
    private var handler: ((LoopEvents) -> Void)?

    init(_ owner: EventLoop, _ descriptor: Descriptor, _ events: LoopEvents, _ handler: @escaping (LoopEvents) -> Void) throws(IOFailure) {
        self.descriptor = descriptor; self.events = events; self.handler = handler
        super.init(owner, bytes: unsafe MemoryLayout<uv_poll_t>.size)
        let code = unsafe uv_poll_init(owner.loop, poll, descriptor.raw)
        guard code == 0 else { throw IOFailure(operation: "watch", errno: -code) }
        opened()
        start()
    }

    private var poll: UnsafeMutablePointer<uv_poll_t> { unsafe memory.assumingMemoryBound(to: uv_poll_t.self) }

    private func start() {
        guard !events.isEmpty else {
            unsafe uv_poll_stop(poll)
            return
        }
        let code = unsafe uv_poll_start(poll, events.rawValue) { raw, status, found in
            guard let watch = unsafe Watch.from(raw) else { return }
            // libuv has stopped the poll when it reports an error.
            watch.handler?(status < 0 ? [.failed, .readable, .disconnect] : LoopEvents(rawValue: found))
        }
        precondition(code == 0, "uv_poll_start: \(errnoName(-code))")
    }

    /// Other events from now on; none: paused.
    public func update(_ events: LoopEvents) {
        guard !isClosing, events != self.events else { return }
        self.events = events
        start()
    }

    public func stop() { close() }
    override func willClose() { handler = nil }
}

public final class LoopTimer: LoopHandle {
    private var handler: (() -> Void)?
    private let repeats: Bool

    init(_ owner: EventLoop, _ after: Int, _ repeating: Int, _ handler: @escaping () -> Void) {
        self.handler = handler
        repeats = repeating > 0
        super.init(owner, bytes: unsafe MemoryLayout<uv_timer_t>.size)
        unsafe uv_timer_init(owner.loop, timer)
        opened()
        unsafe uv_update_time(owner.loop)       // else a long handler would make the time shorter
        unsafe uv_timer_start(timer, { raw in
            guard let timer = unsafe LoopTimer.from(raw) else { return }
            let handler = timer.handler
            if !timer.repeats { timer.close() }
            handler?()
        }, UInt64(max(0, after)), UInt64(max(0, repeating)))
    }

    private var timer: UnsafeMutablePointer<uv_timer_t> { unsafe memory.assumingMemoryBound(to: uv_timer_t.self) }
    public func stop() { close() }
    override func willClose() { handler = nil }
}

public final class LoopSignal: LoopHandle {
    private var handler: (() -> Void)?

    init(_ owner: EventLoop, _ number: Int32, _ handler: @escaping () -> Void) throws(IOFailure) {
        self.handler = handler
        super.init(owner, bytes: unsafe MemoryLayout<uv_signal_t>.size)
        let signal = unsafe memory.assumingMemoryBound(to: uv_signal_t.self)
        let made = unsafe uv_signal_init(owner.loop, signal)
        guard made == 0 else { throw IOFailure(operation: "watch signals", errno: -made) }
        opened()
        let code = unsafe uv_signal_start(signal, { raw, _ in unsafe LoopSignal.from(raw)?.handler?() }, number)
        guard code == 0 else {
            close()
            throw IOFailure(operation: "watch signal \(number)", errno: -code)
        }
    }

    public func stop() { close() }
    override func willClose() { handler = nil }
}

/// Wakes the loop from any thread. Sends after `stop()` do nothing.
public final class Wakeup: Sendable {
    /// The handle while it is open. In a mutex, so that no send meets memory that libuv has closed.
    private let handle: Monitor<AsyncHandle?>

    init(_ owner: EventLoop, _ handler: @escaping () -> Void) throws(IOFailure) {
        handle = Monitor(try AsyncHandle.make(owner, handler))
    }

    public func send() {
        handle.withLock { $0?.send() }
    }

    /// On the loop's thread.
    public func stop() {
        handle.withLock { handle in
            handle?.close()
            handle = nil
        }
    }
}

// @unchecked: other threads only reach `send`, libuv's one thread-safe call, and only under the mutex of its `Wakeup`.
private final class AsyncHandle: LoopHandle, @unchecked Sendable {
    private var handler: (() -> Void)?

    static func make(_ owner: EventLoop, _ handler: @escaping () -> Void) throws(IOFailure) -> sending AsyncHandle {
        try AsyncHandle(owner, handler)
    }

    private init(_ owner: EventLoop, _ handler: @escaping () -> Void) throws(IOFailure) {
        self.handler = handler
        super.init(owner, bytes: unsafe MemoryLayout<uv_async_t>.size)
        let code = unsafe uv_async_init(owner.loop, async) { raw in unsafe AsyncHandle.from(raw)?.handler?() }
        guard code == 0 else { throw IOFailure(operation: "make wakeup", errno: -code) }
        opened()
    }

    private var async: UnsafeMutablePointer<uv_async_t> { unsafe memory.assumingMemoryBound(to: uv_async_t.self) }
    func send() { unsafe uv_async_send(async) }
    override func willClose() { handler = nil }
}
