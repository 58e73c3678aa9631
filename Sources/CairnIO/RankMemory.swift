// Another process's memory, for reading: by its pid (process_vm_readv, where ptrace access is permitted) or through a descriptor
// of its /proc/PID/mem that it opened itself and passed on (a capability; no privilege needed).
// A pid can be reused: whoever reads by pid looks at the pidfd after each read, and discards the bytes when the process is gone.
import CLinux
import Glibc

public final class RankMemory: Sendable {
    private enum Way: Sendable {
        case process(pid_t)
        case descriptor(Descriptor)
    }
    private let way: Way

    public init(pid: Int32) { way = .process(pid) }
    public init(memoryDescriptor: Descriptor) { way = .descriptor(memoryDescriptor) }

    /// Whether `init(pid:)` will be permitted: the kernel's check for opening the file is the one of process_vm_readv.
    public static func canRead(pid: Int32) -> Bool {
        let raw = unsafe Glibc.open("/proc/\(pid)/mem", O_RDONLY | O_CLOEXEC)
        guard raw >= 0 else { return false }
        _ = Glibc.close(raw)
        return true
    }

    /// Opens this process's own memory as a rank would; for tests and the Swift client.
    public static func openOwn() throws(IOFailure) -> Descriptor {
        Descriptor(owning: try syscall("open", "/proc/self/mem") { unsafe Glibc.open("/proc/self/mem", O_RDONLY | O_CLOEXEC) })
    }

    /// Whether a received descriptor is a read-only /proc/PID/mem. The name is asked first, since it makes no filesystem call.
    public static func isMemoryDescriptor(_ descriptor: Descriptor) -> Bool {
        let flags = cairn_status_flags(descriptor.raw)
        guard flags >= 0, flags & 1 != 0, flags & 2 == 0 else { return false }
        var buffer = [CChar](repeating: 0, count: 256)
        let count = unsafe readlink("/proc/self/fd/\(descriptor.raw)", &buffer, buffer.count - 1)
        guard count > 0, count < buffer.count - 1 else { return false }
        let path = String(decoding: buffer[..<count].map { UInt8(bitPattern: $0) }, as: UTF8.self)
        let names = path.split(separator: "/")
        guard names.last == "mem", names.count >= 2, names[names.count - 2].allSatisfy(\.isNumber) else { return false }
        var space = cairn_file_space()
        return unsafe cairn_space(descriptor.raw, &space) == 0 && space.type == 0x9FA0       // PROC_SUPER_MAGIC
    }

    /// Gathers all pieces, one behind the other, into the map at `offset`.
    public func read(_ pieces: [(address: UInt64, bytes: Int)], into map: MemoryMap, at offset: Int) throws(RankMemoryFailure) {
        let total = pieces.reduce(0) { $0 + $1.bytes }
        precondition(pieces.allSatisfy { $0.bytes >= 0 }, "a piece of negative size")
        let to = unsafe map.pointer(offset, total, writing: true)
        switch way {
        case .process(let pid): unsafe try gather(pid, pieces, to)
        case .descriptor(let file):
            var done = 0
            for piece in pieces {
                unsafe try readPiece(file, piece.address, piece.bytes, to + done)
                done += piece.bytes
            }
        }
    }

    private func gather(_ pid: pid_t, _ pieces: [(address: UInt64, bytes: Int)], _ to: UnsafeMutableRawPointer) throws(RankMemoryFailure) {
        var index = 0, within = 0, done = 0           // the next piece, and how much of it is copied
        var vectors: [iovec] = unsafe []
        while index < pieces.count {
            unsafe vectors.removeAll(keepingCapacity: true)
            var wanted = 0, next = index
            // At most 256 MiB a call, so that no return value can be short only because of the kernel's own cap.
            while next < pieces.count, unsafe vectors.count < IOLimits.gatheredPieces, wanted < 256 << 20 {
                let skipped = next == index ? within : 0
                let count = pieces[next].bytes - skipped
                let address = unsafe UnsafeMutableRawPointer(bitPattern: UInt(pieces[next].address &+ UInt64(skipped)))
                unsafe vectors.append(iovec(iov_base: address, iov_len: count))
                wanted += count
                next += 1
            }
            if wanted == 0 { index = next; within = 0; continue }
            let got = unsafe cairn_read_process(pid, to + done, wanted, vectors, UInt32(vectors.count))
            if got < 0 {
                let code = errno
                switch code {
                case EINTR: continue
                case ESRCH: throw .gone
                case EPERM, EACCES: throw .notPermitted
                case EFAULT:
                    while index < next - 1, pieces[index].bytes == within { index += 1; within = 0 }
                    throw .notMapped(address: pieces[index].address &+ UInt64(within))
                default: throw .other(IOFailure(operation: "process_vm_readv", errno: code))
                }
            }
            // Partial: it stopped before what is not mapped; the next call starts there and says why.
            if got == 0 { throw .notMapped(address: pieces[index].address &+ UInt64(within)) }
            done += got
            var left = got
            while left > 0 || (index < next && pieces[index].bytes == within) {
                let step = min(left, pieces[index].bytes - within)
                left -= step
                within += step
                if within == pieces[index].bytes { index += 1; within = 0 }
                if index == pieces.count { break }
            }
        }
    }

    private func readPiece(_ file: Descriptor, _ address: UInt64, _ bytes: Int, _ to: UnsafeMutableRawPointer) throws(RankMemoryFailure) {
        var done = 0
        while done < bytes {
            guard let position = Int64(exactly: address &+ UInt64(done)) else { throw .notMapped(address: address) }
            let got = unsafe pread(file.raw, to + done, bytes - done, off_t(position))
            if got > 0 { done += got; continue }
            if got == 0 { throw .gone }                 // no address space left behind the file
            let code = errno
            switch code {
            case EINTR: continue
            case EIO, EFAULT: throw .notMapped(address: address &+ UInt64(done))
            case EPERM, EACCES: throw .notPermitted
            case ESRCH: throw .gone
            default: throw .other(IOFailure(operation: "read memory", errno: code))
            }
        }
    }
}
