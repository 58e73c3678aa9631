// A memfd: the pool's segments, leases, and what a tier worker reads into. Its size never changes after `create`.
import CLinux
import Glibc

public final class SharedMemory: Sendable {
    public let descriptor: Descriptor
    public let bytes: Int

    /// A descriptor that arrived from a process that we trust for its size (main to its workers).
    public init(descriptor: Descriptor, bytes: Int) {
        precondition(bytes > 0, "\(bytes) bytes of shared memory")
        self.descriptor = descriptor; self.bytes = bytes
    }

    /// Empty pages: nothing is charged before the first touch, `allocate` or `MemoryMap.prefault`.
    public static func create(name: String, bytes: Int, seals: Seals = .fixed) throws(IOFailure) -> SharedMemory {
        let descriptor = Descriptor(owning: try syscall("memfd_create", name) { unsafe cairn_memfd(name) })
        try syscall("size memory", name) { ftruncate(descriptor.raw, off_t(bytes)) }
        if !seals.isEmpty { try syscall("seal", name) { cairn_add_seals(descriptor.raw, seals.rawValue) } }
        return SharedMemory(descriptor: descriptor, bytes: bytes)
    }

    /// Makes no filesystem call. Throws where the descriptor is no memfd.
    public static func seals(of descriptor: Descriptor) throws(IOFailure) -> Seals {
        Seals(rawValue: try syscall("read seals") { cairn_seals(descriptor.raw) })
    }

    public func allocate(offset: Int, bytes count: Int) throws(IOFailure) {
        precondition(offset >= 0 && count > 0 && offset + count <= bytes, "\(offset)+\(count) of \(bytes)")
        try syscall("allocate memory") { cairn_allocate(descriptor.raw, Int64(offset), Int64(count)) }
    }

    public func map(writable: Bool) throws(IOFailure) -> MemoryMap { try MemoryMap(descriptor, bytes: bytes, writable: writable) }

    /// By a read, not through a mapping.
    public func read(offset: Int, count: Int) throws(IOFailure) -> [UInt8] {
        precondition(offset >= 0 && count >= 0 && offset <= bytes && count <= bytes - offset, "\(count) bytes at \(offset) of \(bytes)")
        var buffer = [UInt8](repeating: 0, count: count)
        var done = 0
        while done < count {
            let got = try syscall("read memory") { () -> CInt in
                // One call's count fits an int, whatever the range's.
                unsafe buffer.withUnsafeMutableBytes { unsafe CInt(clamping: pread(descriptor.raw, $0.baseAddress! + done, min(count - done, 1 << 30), off_t(offset + done))) }
            }
            guard got > 0 else { throw IOFailure(operation: "read memory", errno: EIO) }
            done += Int(got)
        }
        return buffer
    }

    // MARK: memory of a former process

    /// Nil where it is no memfd whose size is fixed.
    public static func kept(_ descriptor: Descriptor) -> SharedMemory? {
        let seals = cairn_seals(descriptor.raw)
        var found = cairn_file_status()
        guard seals >= 0, Seals(rawValue: seals).isSuperset(of: .fixed), unsafe cairn_status(descriptor.raw, nil, &found) == 0, found.bytes > 0 else { return nil }
        return SharedMemory(descriptor: descriptor, bytes: Int(found.bytes))
    }

    /// Which memory this is: no two at a time have the same, until the next boot.
    public func identity() throws(IOFailure) -> UInt64 {
        var found = cairn_file_status()
        try syscall("identify memory") { unsafe cairn_status(descriptor.raw, nil, &found) }
        return found.inode
    }

    /// Until this process is gone, also one that is stuck in the kernel. False: another process has this byte.
    public func lock(byte: Int) throws(IOFailure) -> Bool {
        do { try syscall("lock memory") { cairn_lock_byte(descriptor.raw, Int64(byte)) } } catch {
            guard error.errno == EAGAIN || error.errno == EACCES else { throw error }
            return false
        }
        return true
    }

    /// The process that has locked this byte; nil: none.
    public func owner(ofByte byte: Int) throws(IOFailure) -> Int32? {
        var pid: Int32 = 0
        return try syscall("look at a lock") { unsafe cairn_byte_owner(descriptor.raw, Int64(byte), &pid) } == 1 ? pid : nil
    }
}
