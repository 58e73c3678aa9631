// What the kernel knows of a socket: the path that it is bound to (which tells what systemd passed it for), the peer's groups.
import CLinux
import Glibc

extension UnixSocket {
    /// Nil for a socket without a path.
    public static func localPath(_ socket: Descriptor) -> String? {
        var address = sockaddr_un()
        var length = socklen_t(MemoryLayout<sockaddr_un>.size)
        let result = unsafe withUnsafeMutablePointer(to: &address) {
            unsafe $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { unsafe getsockname(socket.raw, $0, &length) }
        }
        guard result == 0, address.sun_family == sa_family_t(AF_UNIX) else { return nil }
        let bytes = unsafe withUnsafeBytes(of: &address.sun_path) { unsafe Array($0.prefix { $0 != 0 }) }
        return bytes.isEmpty ? nil : String(decoding: bytes, as: UTF8.self)
    }
}

extension UnixSocket {
    /// The peer's supplementary groups by SO_PEERGROUPS (socket(7)); empty where the kernel does not say.
    public static func groups(_ socket: Descriptor) -> [UInt32] {
        // NGROUPS_MAX, limits.h
        var groups = [UInt32](repeating: 0, count: 65_536)
        let count = unsafe groups.withUnsafeMutableBufferPointer { unsafe cairn_peer_groups(socket.raw, $0.baseAddress, CInt($0.count)) }
        return count < 0 ? [] : Array(groups.prefix(Int(count)))
    }
}

extension ProcessFacts {
    /// ^C on a terminal reaches a whole group of processes: a worker leaves it to its main process.
    public static func ignoreInterrupt() { signal(SIGINT, SIG_IGN) }
}
