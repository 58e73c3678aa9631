import CLinux
import Glibc

/// Random bytes of the kernel: instances, session tokens, attempts.
public enum Entropy {
    public static func bytes(_ count: Int) -> [UInt8] {
        precondition((0...256).contains(count), "up to 256 bytes come whole and cannot fail")
        var bytes = [UInt8](repeating: 0, count: count)
        while true {
            let got = unsafe cairn_random(&bytes, count)
            if got == count { return bytes }
            precondition(got >= 0 || errno == EINTR, "getrandom: \(errnoName(errno))")
        }
    }

    public static func hex(bytes count: Int) -> String { Digest.hex(bytes(count)) }

    /// Below `limit`, for jitter.
    public static func number(below limit: Int) -> Int { Int.random(in: 0..<max(1, limit)) }
}
