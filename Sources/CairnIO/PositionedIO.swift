// Whole ranges between a map and a file, by pread and pwrite: where io_uring is refused, and for small things.
import CLinux
import Glibc

public enum PositionedIO {
    /// A short write goes on where it stopped. With O_DIRECT a rest that is no longer aligned fails with EINVAL.
    public static func writeAll(_ file: Descriptor, _ map: MemoryMap, mapOffset: Int, bytes: Int, fileOffset: Int,
                                path: String = "") throws(IOFailure) {
        let from = unsafe map.pointer(mapOffset, bytes)
        var done = 0
        while done < bytes {
            let got = try syscall("write", path) { unsafe pwrite(file.raw, from + done, bytes - done, off_t(fileOffset + done)) }
            guard got > 0 else { throw IOFailure(operation: "write", errno: EIO, path: path) }
            done += got
        }
    }

    /// A file that ends before the range does is `truncated`.
    public static func readAll(_ file: Descriptor, _ map: MemoryMap, mapOffset: Int, bytes: Int, fileOffset: Int,
                               path: String = "") throws(PositionedFailure) {
        let got = try readUpTo(file, map, mapOffset: mapOffset, bytes: bytes, fileOffset: fileOffset, path: path)
        if got < bytes { throw .truncated(path: path, at: fileOffset + got) }
    }

    /// Until the range is full or the file ends: how O_DIRECT reads a file's unaligned tail.
    public static func readUpTo(_ file: Descriptor, _ map: MemoryMap, mapOffset: Int, bytes: Int, fileOffset: Int,
                                path: String = "") throws(PositionedFailure) -> Int {
        let to = unsafe map.pointer(mapOffset, bytes, writing: true)
        var done = 0
        while done < bytes {
            do {
                let got = try syscall("read", path) { unsafe pread(file.raw, to + done, bytes - done, off_t(fileOffset + done)) }
                if got == 0 { break }
                done += got
            } catch { throw .failed(error) }
        }
        return done
    }

    /// A small range into an array; shorter when the file ends.
    public static func read(_ file: Descriptor, bytes: Int, fileOffset: Int, path: String = "") throws(IOFailure) -> [UInt8] {
        var buffer = [UInt8](repeating: 0, count: bytes)
        var done = 0
        while done < bytes {
            let got = try syscall("read", path) {
                unsafe buffer.withUnsafeMutableBytes { unsafe pread(file.raw, $0.baseAddress! + done, bytes - done, off_t(fileOffset + done)) }
            }
            if got == 0 { break }
            done += got
        }
        buffer.removeLast(bytes - done)
        return buffer
    }

    public static func write(_ file: Descriptor, _ bytes: [UInt8], fileOffset: Int, path: String = "") throws(IOFailure) {
        var done = 0
        while done < bytes.count {
            done += try syscall("write", path) {
                unsafe bytes.withUnsafeBytes { unsafe pwrite(file.raw, $0.baseAddress! + done, $0.count - done, off_t(fileOffset + done)) }
            }
        }
    }
}

public enum PositionedFailure: Error, Sendable, Equatable, CustomStringConvertible {
    case truncated(path: String, at: Int)
    case failed(IOFailure)
    public var description: String {
        switch self {
        case .truncated(let path, let offset): "read '\(path)': the file ends at byte \(offset)"
        case .failed(let failure): failure.description
        }
    }
}
