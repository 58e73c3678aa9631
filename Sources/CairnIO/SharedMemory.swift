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
}
