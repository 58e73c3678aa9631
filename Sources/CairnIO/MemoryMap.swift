// A mapping, and all that is done to its bytes. Every range is checked here, so that no other module needs a pointer.
import CLinux
import Glibc

// @unchecked: base and size are set once in init. Who may touch which bytes is the owner's rule (a chunk belongs to one thread
// at a time); two threads on one byte would be that owner's bug, as with any shared memory.
@safe public final class MemoryMap: @unchecked Sendable {
    public let bytes: Int
    public let isWritable: Bool
    private let base: UnsafeMutableRawPointer

    public init(_ descriptor: Descriptor, bytes: Int, writable: Bool) throws(IOFailure) {
        precondition(bytes > 0, "map of \(bytes) bytes")
        let protection = writable ? PROT_READ | PROT_WRITE : PROT_READ
        guard bytes >= IOLimits.hugePageBytes else {
            unsafe base = unsafe try Self.map(nil, bytes, protection, MAP_SHARED, descriptor.raw)
            self.bytes = bytes; isWritable = writable
            return
        }
        // Huge pages begin at their multiples, which not every kernel sees to: a place is reserved that has one.
        let size = IOLimits.hugePageBytes
        let place = unsafe try Self.map(nil, bytes + size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1)
        let before = (size - Int(bitPattern: place) % size) % size
        let start = unsafe place + before, length = (bytes + 4095) / 4096 * 4096
        do { unsafe base = unsafe try Self.map(start, bytes, protection, MAP_SHARED | MAP_FIXED, descriptor.raw) } catch {
            unsafe munmap(place, bytes + size)
            throw error
        }
        if before > 0 { unsafe munmap(place, before) }
        if bytes + size > before + length { unsafe munmap(start + length, bytes + size - before - length) }
        self.bytes = bytes; isWritable = writable
    }

    private static func map(_ place: UnsafeMutableRawPointer?, _ bytes: Int, _ protection: Int32, _ flags: Int32, _ file: Int32)
        throws(IOFailure) -> UnsafeMutableRawPointer {
        let found = unsafe mmap(place, bytes, protection, flags, file, 0)
        guard let address = unsafe found, unsafe address != MAP_FAILED else {
            throw IOFailure(operation: "mmap", errno: errno, path: "\(bytes) bytes")
        }
        return unsafe address
    }

    /// Private pages of this process, for scratch that needs an address (and tests).
    public init(anonymous bytes: Int) throws(IOFailure) {
        unsafe base = unsafe try Self.map(nil, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1)
        self.bytes = bytes; isWritable = true
    }

    deinit { unsafe munmap(base, bytes) }

    /// The one place where a range becomes a pointer.
    func pointer(_ offset: Int, _ count: Int, writing: Bool = false) -> UnsafeMutableRawPointer {
        precondition(offset >= 0 && count >= 0 && offset <= bytes && count <= bytes - offset, "\(offset)+\(count) of \(bytes) mapped bytes")
        precondition(!writing || isWritable, "write to a map that is only for reading")
        return unsafe base + offset
    }

    /// Where the bytes are in this process; for tests that read their own memory.
    public func address(of offset: Int) -> UInt64 { unsafe UInt64(UInt(bitPattern: pointer(offset, 0))) }

    /// Every page present and writable now, not at first touch. What nobody has touched becomes huge pages where a range is made of such and
    /// the kernel can (Linux 6.1): it is filled 2.5 times as fast, and a drive is asked for whole chunks in a few segments, not a page each.
    /// Gives whether all of it is in huge pages.
    @discardableResult
    public func prefault(offset: Int, bytes count: Int) throws(IOFailure) -> Bool {
        guard count > 0 else { return true }
        let start = unsafe pointer(offset, count, writing: true)
        let isHuge = unsafe collapse(start, count)
        try unsafe populate(start, count)
        return isHuge
    }

    /// Shared memory gets huge pages by MADV_COLLAPSE whatever the kernel's `shmem_enabled` is (madvise(2)); one page of each must be there.
    private func collapse(_ start: UnsafeMutableRawPointer, _ count: Int) -> Bool {
        let size = IOLimits.hugePageBytes
        guard Int(bitPattern: start).isMultiple(of: size), count.isMultiple(of: size) else { return false }
        unsafe cairn_touch(start, count, size)
        return unsafe cairn_collapse(start, count) == 0
    }

    private func populate(_ start: UnsafeMutableRawPointer, _ count: Int) throws(IOFailure) {
        do { try syscall("prefault") { unsafe cairn_populate(start, count) } } catch {
            guard error.errno == EINVAL else { throw error }            // a kernel before 5.14
            unsafe cairn_touch(start, count, 4096)
        }
    }

    /// Keeps the pages in memory; ENOMEM or EPERM where RLIMIT_MEMLOCK forbids it.
    public func lock(offset: Int, bytes count: Int) throws(IOFailure) {
        let start = unsafe pointer(offset, count)
        try syscall("mlock") { unsafe mlock(start, count) }
    }

    /// False where the kernel has no huge pages for this mapping.
    @discardableResult
    public func adviseHugePages() -> Bool { unsafe cairn_huge_pages(base, bytes) == 0 }

    /// Of private pages: they are zero and take no memory until they are touched again.
    public func discard() { unsafe cairn_discard(base, bytes) }

    public func copy(from source: [UInt8], at offset: Int) { copy(from: source[...], at: offset) }

    public func copy(from source: ArraySlice<UInt8>, at offset: Int) {
        let to = unsafe pointer(offset, source.count, writing: true)
        unsafe source.withUnsafeBytes { from in
            guard let start = from.baseAddress else { return }
            unsafe to.copyMemory(from: start, byteCount: from.count)
        }
    }

    public func copyBytes(offset: Int, count: Int) -> [UInt8] {
        let from = unsafe pointer(offset, count)
        return unsafe [UInt8](unsafeUninitializedCapacity: count) { buffer, filled in
            if count > 0 { unsafe UnsafeMutableRawPointer(buffer.baseAddress!).copyMemory(from: from, byteCount: count) }
            filled = count
        }
    }

    /// Between two maps, or within one (ranges may overlap).
    public func copy(from other: MemoryMap, at: Int, to: Int, bytes count: Int) {
        let from = unsafe other.pointer(at, count), target = unsafe pointer(to, count, writing: true)
        unsafe memmove(target, from, count)
    }

    public func zero(offset: Int, bytes count: Int) {
        let start = unsafe pointer(offset, count, writing: true)
        unsafe memset(start, 0, count)
    }

    public func crc32c(offset: Int, bytes count: Int, seed: UInt32 = 0) -> UInt32 {
        let start = unsafe pointer(offset, count)
        return unsafe Checksum.crc32c(seed: seed, UnsafeRawBufferPointer(start: start, count: count))
    }
}
