// A file's bytes in another file: shared blocks where the filesystem can, else copied by the kernel, else by hand.
import CLinux
import Glibc

extension Files {
    public enum Copied: Sendable { case shared, copied }

    /// All of `from` into the empty file `to`, not synced.
    @discardableResult
    public static func copy(_ from: Descriptor, to: Descriptor, _ path: String = "") throws(IOFailure) -> Copied {
        do {
            try syscall("clone", path) { cairn_clone(to.raw, from.raw) }
            return .shared
        } catch { guard refusesCopy(error) else { throw error } }
        let bytes = try stat(from).bytes
        var done = 0
        do {
            while done < bytes {
                let got = try syscall("copy", path) { cairn_copy_range(to.raw, from.raw, Int64(done), bytes - done) }
                if got == 0 { break }
                done += got
            }
        } catch { guard refusesCopy(error) else { throw error } }
        // What the kernel would not copy; also a file that it said ends early.
        while done < bytes {
            let piece = try PositionedIO.read(from, bytes: min(IOLimits.copyBytes, bytes - done), fileOffset: done, path: path)
            guard !piece.isEmpty else { throw IOFailure(operation: "copy", errno: EIO, path: path) }
            try PositionedIO.write(to, piece, fileOffset: done, path: path)
            done += piece.count
        }
        return .copied
    }

    /// Not this pair of files, or not this kernel: another way may do.
    private static func refusesCopy(_ failure: IOFailure) -> Bool {
        [EOPNOTSUPP, ENOTTY, EXDEV, EINVAL, ENOSYS, EPERM].contains(failure.errno)
    }
}
