// Stream sockets on this node: where they are made, who is at the other end, what arrives.
import CLinux
import Glibc

public enum UnixSocket {
    public struct Peer: Sendable, Equatable {
        public let pid: Int32, uid: UInt32, gid: UInt32
        public init(pid: Int32, uid: UInt32, gid: UInt32) { self.pid = pid; self.uid = uid; self.gid = gid }
    }

    /// A listening, non-blocking socket. A stale one is unlinked only after a connect to it was refused; a live one fails
    /// with `isInUse`. The lock file keeps two starts apart, since a socket refuses between its bind and its listen.
    public static func listen(path: String, mode: UInt32 = 0o666, backlog: Int32 = 512) throws(IOFailure) -> Descriptor {
        let lockPath = path + ".lock"
        let lock = Descriptor(owning: try syscall("open", lockPath) {
            unsafe Glibc.open(lockPath, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0o600)
        })
        guard try Files.tryLock(lock) else { throw IOFailure(operation: "listen", errno: EADDRINUSE, path: path) }
        defer { withExtendedLifetime(lock) {} }
        let socket = Descriptor(owning: try syscall("socket") { cairn_unix_socket(1) })
        do { try bind(socket, path) } catch {
            guard error.isInUse else { throw error }
            guard isStale(path) else { throw error }
            try syscall("unlink", path) { unsafe Glibc.unlink(path) }
            try bind(socket, path)
        }
        try syscall("set mode", path) { unsafe chmod(path, mode) }
        try syscall("listen", path) { Glibc.listen(socket.raw, backlog) }
        return socket
    }

    /// A socket with nobody behind it. Another kind of file refuses a connect too, and stays.
    private static func isStale(_ path: String) -> Bool {
        var found = cairn_file_status()
        guard unsafe cairn_status(AT_FDCWD, path, &found) == 0, FileStatus(found).isSocket else { return false }
        do {
            _ = try connect(path: path, timeoutMilliseconds: 1000)
            return false
        } catch { return error.errno == ECONNREFUSED }
    }

    private static func bind(_ socket: Descriptor, _ path: String) throws(IOFailure) {
        try syscall("bind", path) { unsafe cairn_unix_bind(socket.raw, path, path.utf8.count) }
    }

    /// A blocking connection. A full backlog is waited for until the timeout.
    public static func connect(path: String, timeoutMilliseconds: Int) throws(IOFailure) -> Descriptor {
        let socket = Descriptor(owning: try syscall("socket") { cairn_unix_socket(0) })
        try syscall("set timeout", path) { cairn_unix_send_timeout(socket.raw, CInt(clamping: max(1, timeoutMilliseconds))) }
        do {
            try syscall("connect", path) { unsafe cairn_unix_connect(socket.raw, path, path.utf8.count, 0) }
        } catch {
            throw error.errno == EAGAIN ? IOFailure(operation: "connect", errno: ETIMEDOUT, path: path) : error
        }
        try syscall("set timeout", path) { cairn_unix_send_timeout(socket.raw, 0) }
        return socket
    }

    public static func pair() throws(IOFailure) -> (Descriptor, Descriptor) {
        var raw: [CInt] = [-1, -1]
        try syscall("socketpair") { unsafe cairn_unix_pair(&raw) }
        return (Descriptor(owning: raw[0]), Descriptor(owning: raw[1]))
    }

    /// A non-blocking connection; nil when none waits. An error of one connection (ECONNABORTED) counts as none;
    /// EMFILE is thrown.
    public static func accept(_ listener: Descriptor) throws(IOFailure) -> Descriptor? {
        do { return Descriptor(owning: try syscall("accept") { cairn_unix_accept(listener.raw) }) } catch {
            if [EAGAIN, EWOULDBLOCK, ECONNABORTED, EPROTO].contains(error.errno) { return nil }
            throw error
        }
    }

    /// Who connected, as the kernel saw it at connect. A pid of 0 is a process of another pid namespace.
    public static func peer(_ socket: Descriptor) throws(IOFailure) -> Peer {
        var pid: Int32 = 0, uid: UInt32 = 0, gid: UInt32 = 0
        try syscall("read peer") { unsafe cairn_unix_peer(socket.raw, &pid, &uid, &gid) }
        return Peer(pid: pid, uid: uid, gid: gid)
    }

    /// Whether the peer closed the socket or shut down its writing side.
    public static func hungUp(_ socket: Descriptor) -> Bool { cairn_poll(socket.raw, 0, 0, 0) & 12 != 0 }

    public static func waitReadable(_ socket: Descriptor, timeoutMilliseconds: Int) -> Bool {
        cairn_poll(socket.raw, 1, 0, CInt(clamping: timeoutMilliseconds)) & 13 != 0
    }

    public static func waitWritable(_ socket: Descriptor, timeoutMilliseconds: Int) -> Bool {
        cairn_poll(socket.raw, 0, 1, CInt(clamping: timeoutMilliseconds)) & 14 != 0
    }

    /// The peer reads the end of the stream; this side may still read.
    public static func shutdownWriting(_ socket: Descriptor) { _ = Glibc.shutdown(socket.raw, CInt(SHUT_WR)) }
    public static func shutdown(_ socket: Descriptor) { _ = Glibc.shutdown(socket.raw, CInt(SHUT_RDWR)) }

    /// Of a listening socket: descriptors sent to it, or to what it accepts, come back to their sender as an error. Without this they are
    /// dropped unseen, and dropping one can block: a TCP socket that lingers, for as long as its owner said. False on kernels before 6.16.
    public static func refuseDescriptors(_ socket: Descriptor) -> Bool { cairn_unix_refuse_descriptors(socket.raw) == 0 }

    public static func setNonBlocking(_ socket: Descriptor, _ on: Bool) throws(IOFailure) {
        let flags = try syscall("read flags") { fcntl(socket.raw, F_GETFL) }
        try syscall("set flags") { fcntl(socket.raw, F_SETFL, on ? flags | O_NONBLOCK : flags & ~O_NONBLOCK) }
    }
}
