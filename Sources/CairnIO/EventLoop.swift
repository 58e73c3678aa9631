// The main process's loop (libuv): one thread that waits for sockets, timers and signals, and calls closures.
// (1) Everything but `Wakeup.send` is called on the thread that made the loop; `preconditionOnLoop` guards it.
// (2) A handle's memory lives until libuv's close callback, whoever drops his reference; a watch keeps its descriptor open as long.
// (3) A handle works until `stop()`; dropping the reference alone does not stop it.
import CLinux
import CUV
import Glibc

@safe public final class EventLoop {
    let loop: UnsafeMutablePointer<uv_loop_t>
    private let thread: Int32
    let open = OpenHandles()

    public init() throws(IOFailure) {
        thread = cairn_thread_id()
        // Not `self.loop` before it is one: an initializer that throws with all properties set runs deinit.
        let loop = UnsafeMutablePointer<uv_loop_t>.allocate(capacity: 1)
        unsafe loop.initialize(to: uv_loop_t())
        let code = unsafe uv_loop_init(loop)
        guard code == 0 else {
            unsafe loop.deallocate()
            throw IOFailure(operation: "uv_loop_init", errno: -code)
        }
        unsafe self.loop = loop
    }

    deinit {
        for handle in open.handles.values { handle.close() }
        while unsafe uv_run(loop, UV_RUN_NOWAIT) != 0 {}
        let code = unsafe uv_loop_close(loop)
        precondition(code == 0, "a handle of the loop was left open")
        unsafe loop.deallocate()
    }

    public func preconditionOnLoop() {
        precondition(cairn_thread_id() == thread, "called from another thread than the loop's")
    }

    /// Until `stop()` or until nothing is left to wait for.
    public func run() {
        preconditionOnLoop()
        _ = unsafe uv_run(loop, UV_RUN_DEFAULT)
    }

    /// What is due now, without waiting; for tests and an orderly end.
    public func runOnce() {
        preconditionOnLoop()
        _ = unsafe uv_run(loop, UV_RUN_NOWAIT)
    }

    public func stop() { unsafe uv_stop(loop) }

    public var nowNanoseconds: Int { Clock.monotonicNanoseconds() }

    /// A descriptor has one watch at a time. The handler may stop it, and gets `.failed` once when the kernel reports an error:
    /// the next read or write says which.
    public func watch(_ descriptor: Descriptor, events: LoopEvents,
                      handler: @escaping (LoopEvents) -> Void) throws(IOFailure) -> Watch {
        preconditionOnLoop()
        return try Watch(self, descriptor, events, handler)
    }

    /// Once after the time, then each `repeatMilliseconds` where that is not 0. One that does not repeat closes itself.
    @discardableResult
    public func timer(afterMilliseconds: Int, repeatMilliseconds: Int = 0, handler: @escaping () -> Void) -> LoopTimer {
        preconditionOnLoop()
        return LoopTimer(self, afterMilliseconds, repeatMilliseconds, handler)
    }

    @discardableResult
    public func signal(_ number: Int32, handler: @escaping () -> Void) throws(IOFailure) -> LoopSignal {
        preconditionOnLoop()
        return try LoopSignal(self, number, handler)
    }

    /// The handler runs on the loop some time after one or more `send()`s from any thread.
    public func wakeup(handler: @escaping () -> Void) throws(IOFailure) -> Wakeup {
        preconditionOnLoop()
        return try Wakeup(self, handler)
    }

}

/// Handles that are not closed yet. Apart from the loop, so that they can still close while the loop ends.
final class OpenHandles {
    fileprivate var handles: [ObjectIdentifier: LoopHandle] = [:]
}

/// A libuv handle of any kind: its memory, and its one way to the end.
@safe public class LoopHandle {
    let memory: UnsafeMutableRawPointer
    private let open: OpenHandles
    private(set) var isClosing = false

    init(_ owner: EventLoop, bytes: Int) {
        open = owner.open
        unsafe memory = .allocate(byteCount: bytes, alignment: 16)
        unsafe memory.initializeMemory(as: UInt8.self, repeating: 0, count: bytes)
    }

    deinit { unsafe memory.deallocate() }

    /// After libuv took the memory: from now on the loop keeps this object.
    func opened() {
        unsafe uv_handle_set_data(memory.assumingMemoryBound(to: uv_handle_t.self), Unmanaged.passUnretained(self).toOpaque())
        open.handles[ObjectIdentifier(self)] = self
    }

    func close() {
        guard !isClosing else { return }
        isClosing = true
        willClose()
        unsafe uv_close(memory.assumingMemoryBound(to: uv_handle_t.self)) { raw in
            // Not nil: `opened` set it; and alive: the loop holds the object until the next line but one.
            let handle = unsafe Unmanaged<LoopHandle>.fromOpaque(uv_handle_get_data(raw)!).takeUnretainedValue()
            handle.open.handles[ObjectIdentifier(handle)] = nil
        }
    }

    /// Where a kind drops its closure (and with it the cycles that closures make).
    func willClose() {}

    /// The object behind a callback's handle; nil when it is closing.
    static func from(_ raw: UnsafeMutableRawPointer?) -> Self? {
        guard let raw = unsafe raw, let data = unsafe uv_handle_get_data(raw.assumingMemoryBound(to: uv_handle_t.self)) else { return nil }
        let handle = unsafe Unmanaged<LoopHandle>.fromOpaque(data).takeUnretainedValue()
        return handle.isClosing ? nil : handle as? Self
    }
}
