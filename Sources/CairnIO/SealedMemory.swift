// A memfd that a client gave and that nobody can change any more. The seals are asked first: that is no filesystem call, and what is no
// memfd has none, so that nothing here can hang. It is read, never mapped.
import CLinux
import Glibc

public final class SealedMemory: Sendable {
    private let descriptor: Descriptor
    public let bytes: Int

    /// Nil where it is no memfd sealed against writing and shrinking.
    public init?(_ descriptor: Descriptor) {
        // Not by `syscall`, for which EBADF is a bug of ours: a client's descriptor of a path (O_PATH) gives that too.
        let seals = cairn_seals(descriptor.raw)
        guard seals >= 0, Seals(rawValue: seals).isSuperset(of: [.write, .shrink]) else { return nil }
        var found = cairn_file_status()
        guard unsafe cairn_status(descriptor.raw, nil, &found) == 0 else { return nil }
        self.descriptor = descriptor
        bytes = Int(found.bytes)
    }

    public func read(_ offset: Int, _ count: Int, into map: MemoryMap, at target: Int) throws(IOFailure) {
        precondition(offset >= 0 && count >= 0 && offset <= bytes && count <= bytes - offset, "\(count) bytes at \(offset) of \(bytes)")
        let to = unsafe map.pointer(target, count, writing: true)
        var done = 0
        while done < count {
            let got = try syscall("read sealed memory") { () -> CInt in
                // One call's count fits an int, whatever the piece's.
                unsafe CInt(clamping: pread(descriptor.raw, to + done, min(count - done, 1 << 30), off_t(offset + done)))
            }
            guard got > 0 else { throw IOFailure(operation: "read sealed memory", errno: EIO) }
            done += Int(got)
        }
    }
}
