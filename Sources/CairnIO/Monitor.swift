// A value behind a mutex with a condition. The only lock there is: Swift's Mutex has no condition, and hands over through the kernel where threads
// contend for it, which the thread sanitizer does not see: what it guards is then reported as raced for.
import Glibc

// @unchecked: `value` is only touched while `mutex` is held; the two pthread objects have their own heap addresses for life.
@safe public final class Monitor<Value: Sendable>: @unchecked Sendable {
    private var value: Value
    private let mutex: UnsafeMutablePointer<pthread_mutex_t>
    private let condition: UnsafeMutablePointer<pthread_cond_t>

    public init(_ value: Value) {
        // One without bytes would have the address of `mutex`, and the thread sanitizer would take its changes for changes of that.
        precondition(MemoryLayout<Value>.size > 0, "a lock of nothing: give it a value")
        self.value = value
        unsafe mutex = .allocate(capacity: 1)
        unsafe condition = .allocate(capacity: 1)
        unsafe pthread_mutex_init(mutex, nil)
        var attributes = pthread_condattr_t()
        unsafe pthread_condattr_init(&attributes)
        unsafe pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC)
        unsafe pthread_cond_init(condition, &attributes)
        unsafe pthread_condattr_destroy(&attributes)
    }

    deinit {
        unsafe pthread_cond_destroy(condition)
        unsafe pthread_mutex_destroy(mutex)
        unsafe condition.deallocate()
        unsafe mutex.deallocate()
    }

    /// Changes the value and wakes all who wait.
    @discardableResult
    public func update<Result, Failure: Error>(_ body: (inout Value) throws(Failure) -> Result) throws(Failure) -> Result {
        unsafe pthread_mutex_lock(mutex)
        defer {
            unsafe pthread_cond_broadcast(condition)
            unsafe pthread_mutex_unlock(mutex)
        }
        return try body(&value)
    }

    /// Looks or changes without waking anybody: for values that nobody waits for.
    public func withLock<Result, Failure: Error>(_ body: (inout Value) throws(Failure) -> Result) throws(Failure) -> Result {
        unsafe pthread_mutex_lock(mutex)
        defer { unsafe pthread_mutex_unlock(mutex) }
        return try body(&value)
    }

    /// Looks without waking anybody.
    public func read<Result>(_ body: (Value) -> Result) -> Result {
        unsafe pthread_mutex_lock(mutex)
        defer { unsafe pthread_mutex_unlock(mutex) }
        return body(value)
    }

    /// Waits until `body` gives a result, and wakes the others then; nil on timeout (nil timeout: for ever).
    public func wait<Result>(timeoutMilliseconds: Int? = nil, until body: (inout Value) -> Result?) -> Result? {
        let deadline = timeoutMilliseconds.map { Clock.monotonicNanoseconds() + $0 * 1_000_000 }
        unsafe pthread_mutex_lock(mutex)
        defer { unsafe pthread_mutex_unlock(mutex) }
        while true {
            if let result = body(&value) {
                unsafe pthread_cond_broadcast(condition)
                return result
            }
            guard let deadline else {
                unsafe pthread_cond_wait(condition, mutex)
                continue
            }
            if Clock.monotonicNanoseconds() >= deadline { return nil }
            var until = timespec(tv_sec: deadline / 1_000_000_000, tv_nsec: deadline % 1_000_000_000)
            unsafe pthread_cond_timedwait(condition, mutex, &until)
        }
    }
}
