// Threads with a priority of their own: staging must not take a trainer's core.
import CLinux
import Glibc

public enum Threads {
    public enum Scheduling: Sendable {
        case normal
        /// Like normal, but never preempts a thread that woke earlier.
        case batch
        /// Only when nobody else wants the core.
        case idle
    }

    /// Starts a thread; it is detached unless `join` is called on what is returned.
    @discardableResult
    public static func spawn(name: String, niceness: Int = 0, scheduling: Scheduling = .normal,
                             _ body: @Sendable @escaping () -> Void) throws(IOFailure) -> Thread {
        let thread = Thread()
        let start = Start(name: name, niceness: niceness, scheduling: scheduling, thread: thread, body: body)
        let box = unsafe Unmanaged.passRetained(start)
        var attributes = pthread_attr_t()
        unsafe pthread_attr_init(&attributes)
        unsafe pthread_attr_setdetachstate(&attributes, CInt(PTHREAD_CREATE_DETACHED))
        defer { unsafe pthread_attr_destroy(&attributes) }
        var id = pthread_t()
        let code = unsafe pthread_create(&id, &attributes, { argument in
            // Never nil: it is the retained box below.
            let start = unsafe Unmanaged<Start>.fromOpaque(argument!).takeRetainedValue()
            start.run()
            return nil
        }, box.toOpaque())
        guard code == 0 else {
            unsafe box.release()
            throw IOFailure(operation: "start thread", errno: code, path: name)
        }
        return thread
    }

    /// The number by which the kernel knows the calling thread.
    public static var current: Int32 { cairn_thread_id() }

    /// Makes the calling thread nicer from here on.
    public static func becomeNicer(_ niceness: Int) { _ = cairn_set_niceness(cairn_thread_id(), CInt(niceness)) }

    private final class Start: Sendable {
        let name: String, niceness: Int, scheduling: Scheduling, thread: Thread, body: @Sendable () -> Void
        init(name: String, niceness: Int, scheduling: Scheduling, thread: Thread, body: @escaping @Sendable () -> Void) {
            self.name = name; self.niceness = niceness; self.scheduling = scheduling; self.thread = thread; self.body = body
        }

        func run() {
            _ = unsafe cairn_set_name(name)
            let id = cairn_thread_id()
            // Lowering is always permitted; a refused raise leaves the thread as it was.
            switch scheduling {
            case .normal: break
            case .batch: _ = cairn_set_scheduler(id, 1)
            case .idle: _ = cairn_set_scheduler(id, 2)
            }
            if niceness != 0 { _ = cairn_set_niceness(id, CInt(niceness)) }
            thread.id.update { $0 = id }
            body()
            thread.ended.update { $0 = true }
        }
    }
}

/// A running thread.
public final class Thread: Sendable {
    let id = Monitor<Int32>(0)
    let ended = Monitor(false)

    public var hasEnded: Bool { ended.read { $0 } }

    /// Waits for its end; false on timeout.
    @discardableResult
    public func join(timeoutMilliseconds: Int? = nil) -> Bool {
        ended.wait(timeoutMilliseconds: timeoutMilliseconds) { $0 ? true : nil } ?? false
    }

    /// 0…19; a thread may be made nicer, and back only with privilege.
    @discardableResult
    public func setNiceness(_ niceness: Int) -> Bool {
        let id = self.id.wait { $0 == 0 ? nil : $0 } ?? 0
        return !hasEnded && cairn_set_niceness(id, CInt(niceness)) == 0
    }
}
