// io_uring for one thread: reads and writes between maps and files, many in flight.
// (1) All calls come from the thread that made the ring.
// (2) A map and a descriptor are kept alive until their operation's completion was taken.
// (3) A result is what the kernel gave: bytes, or a negative errno. A short transfer is the caller's to go on with.
import CLiburing
import CLinux
import Glibc

@safe public final class Ring {
    public struct Completion: Sendable, Equatable {
        public let tag: UInt64
        public let result: Int32
        public init(tag: UInt64, result: Int32) { self.tag = tag; self.result = result }
        /// Nil when the operation succeeded.
        public func failure(_ operation: String, _ path: String) -> IOFailure? {
            result < 0 ? IOFailure(operation: operation, errno: -result, path: path) : nil
        }
    }

    private let ring: UnsafeMutablePointer<io_uring>
    public let depth: Int
    private var held: [UInt64: [AnyObject]] = [:]

    /// ENOSYS, EPERM, EACCES or ENOMEM where it is refused (default containers, RHEL): the caller takes threads instead.
    public init(depth: Int) throws(IOFailure) {
        precondition((1...4096).contains(depth), "ring of \(depth)")
        // Not yet self's: an init that throws with all of self set would run deinit too, and free what was never made.
        let ring = UnsafeMutablePointer<io_uring>.allocate(capacity: 1)
        var result: Int32 = -ENOSYS
        // The flags since kernel 5.19 and 6.0; older kernels say EINVAL.
        for flags in [UInt32(IORING_SETUP_COOP_TASKRUN) | UInt32(IORING_SETUP_SINGLE_ISSUER), UInt32(IORING_SETUP_COOP_TASKRUN), 0] {
            unsafe ring.initialize(to: io_uring())
            result = unsafe io_uring_queue_init(UInt32(depth), ring, flags)
            if result != -EINVAL { break }
        }
        guard result >= 0 else {
            unsafe ring.deallocate()
            throw IOFailure(operation: "io_uring_queue_init", errno: -result)
        }
        self.depth = depth
        unsafe self.ring = ring
    }

    deinit {
        // The kernel may still write where an operation points to: those maps stay for the process's life.
        for object in held.values.joined() { _ = unsafe Unmanaged.passRetained(object) }
        unsafe io_uring_queue_exit(ring)
        unsafe ring.deallocate()
    }

    /// Nil when a ring works here and knows our operations.
    public static func probe() -> IOFailure? {
        do {
            let ring = try Ring(depth: 4)
            guard let found = unsafe io_uring_get_probe_ring(ring.ring) else { return IOFailure(operation: "io_uring_probe", errno: EINVAL) }
            defer { unsafe io_uring_free_probe(found) }
            for operation in [IORING_OP_READ, IORING_OP_WRITE, IORING_OP_FSYNC, IORING_OP_POLL_ADD] {
                guard unsafe io_uring_opcode_supported(found, Int32(operation.rawValue)) != 0 else {
                    return IOFailure(operation: "io_uring_probe", errno: EOPNOTSUPP)
                }
            }
            return nil
        } catch { return error }
    }

    /// Operations whose completion was not taken yet.
    public var inFlight: Int { held.count }
    public var hasRoom: Bool { held.count < depth }

    private func prepare(_ tag: UInt64, _ objects: [AnyObject]) -> UnsafeMutablePointer<io_uring_sqe> {
        precondition(hasRoom, "\(held.count) operations in a ring of \(depth)")
        precondition(held[tag] == nil, "tag \(tag) is in flight")
        held[tag] = objects
        if let entry = unsafe io_uring_get_sqe(ring) { return unsafe entry }
        unsafe io_uring_submit(ring)
        // Never nil: the submission queue was just emptied and depth bounds what is in flight.
        return unsafe io_uring_get_sqe(ring)!
    }

    public func write(_ file: Descriptor, _ map: MemoryMap, mapOffset: Int, bytes: Int, fileOffset: Int, tag: UInt64) {
        let from = unsafe map.pointer(mapOffset, bytes)
        let entry = unsafe prepare(tag, [file, map])
        unsafe io_uring_prep_write(entry, file.raw, from, UInt32(bytes), UInt64(fileOffset))
        unsafe io_uring_sqe_set_data64(entry, tag)
    }

    public func read(_ file: Descriptor, _ map: MemoryMap, mapOffset: Int, bytes: Int, fileOffset: Int, tag: UInt64) {
        let to = unsafe map.pointer(mapOffset, bytes, writing: true)
        let entry = unsafe prepare(tag, [file, map])
        unsafe io_uring_prep_read(entry, file.raw, to, UInt32(bytes), UInt64(fileOffset))
        unsafe io_uring_sqe_set_data64(entry, tag)
    }

    /// fsync, or fdatasync when only the data is asked for.
    public func sync(_ file: Descriptor, dataOnly: Bool, tag: UInt64) {
        let entry = unsafe prepare(tag, [file])
        unsafe io_uring_prep_fsync(entry, file.raw, dataOnly ? UInt32(IORING_FSYNC_DATASYNC) : 0)
        unsafe io_uring_sqe_set_data64(entry, tag)
    }

    /// Completes once when the descriptor (an eventfd, a socket) can be read or hung up.
    public func pollReadable(_ descriptor: Descriptor, tag: UInt64) {
        let entry = unsafe prepare(tag, [descriptor])
        unsafe io_uring_prep_poll_add(entry, descriptor.raw, UInt32(POLLIN))
        unsafe io_uring_sqe_set_data64(entry, tag)
    }

    public func submit() throws(IOFailure) { try submitAndWait(minimum: 0) }

    /// Hands over what was prepared and waits for completions; with a timeout it may come back with fewer.
    public func submitAndWait(minimum: Int, timeoutMilliseconds: Int? = nil) throws(IOFailure) {
        let minimum = UInt32(min(minimum, inFlight))
        while true {
            let result: Int32
            if minimum == 0 {
                result = unsafe io_uring_submit(ring)
            } else if let timeoutMilliseconds {
                var first: UnsafeMutablePointer<io_uring_cqe>?
                var limit = __kernel_timespec(tv_sec: Int64(timeoutMilliseconds / 1000), tv_nsec: Int64(timeoutMilliseconds % 1000) * 1_000_000)
                result = unsafe io_uring_submit_and_wait_timeout(ring, &first, minimum, &limit, nil)
            } else {
                result = unsafe io_uring_submit_and_wait(ring, minimum)
            }
            if result >= 0 || result == -ETIME { return }
            if result == -EINTR { continue }
            // EAGAIN, EBUSY: the kernel is short of something; taking completions makes room.
            if result == -EAGAIN || result == -EBUSY { return }
            throw IOFailure(operation: "io_uring_enter", errno: -result)
        }
    }

    /// All that have completed, without waiting.
    public func completions() -> [Completion] {
        var found: [Completion] = []
        var entry: UnsafeMutablePointer<io_uring_cqe>?
        while unsafe io_uring_peek_cqe(ring, &entry) == 0, let done = unsafe entry {
            let tag = unsafe done.pointee.user_data
            found.append(Completion(tag: tag, result: unsafe done.pointee.res))
            held[tag] = nil
            unsafe io_uring_cqe_seen(ring, done)
        }
        return found
    }
}
