// systemd's protocols: readiness by datagram (sd_notify), sockets handed over at start (sd_listen_fds), and the journal's datagrams.
import CLinux
import Glibc

public enum SystemdNotify {
    /// `READY=1`, `STATUS=…`, joined by newlines. False when nobody asked for it or it could not be sent.
    @discardableResult
    public static func send(state: String) -> Bool {
        guard let name = ProcessFacts.environment("NOTIFY_SOCKET"), name.hasPrefix("/") || name.hasPrefix("@") else { return false }
        guard let socket = connect(name) else { return false }
        return send(socket, state, wait: false)
    }

    /// A datagram socket of systemd's, by its path, or its abstract name behind an '@'; nil: nobody has it.
    public static func connect(_ name: String) -> Descriptor? {
        let raw = cairn_unix_datagram()
        guard raw >= 0 else { return nil }
        let socket = Descriptor(owning: raw)
        let isAbstract = name.hasPrefix("@")
        let path = isAbstract ? String(name.dropFirst()) : name
        return unsafe cairn_unix_connect(socket.raw, path, path.utf8.count, isAbstract ? 1 : 0) == 0 ? socket : nil
    }

    /// One datagram; `wait`: until the receiver has room, for threads that may.
    public static func send(_ socket: Descriptor, _ text: String, wait: Bool = true) -> Bool {
        let bytes = Array(text.utf8)
        return unsafe bytes.withUnsafeBytes { unsafe cairn_send(socket.raw, $0.baseAddress, $0.count, wait ? 1 : 0, nil, 0) } == bytes.count
    }

    /// The sockets that systemd listens on for us, with the names of their units. Taken once: the variables are removed.
    public static func listenDescriptors() -> [(name: String, descriptor: Descriptor)] {
        defer { for name in ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"] { ProcessFacts.setEnvironment(name, nil) } }
        guard let pid = ProcessFacts.environment("LISTEN_PID"), Int32(pid) == ProcessFacts.pid,
              let text = ProcessFacts.environment("LISTEN_FDS"), let count = Int32(text), (1...64).contains(count) else { return [] }
        let names = (ProcessFacts.environment("LISTEN_FDNAMES") ?? "").split(separator: ":", omittingEmptySubsequences: false)
        return (0..<count).compactMap { index in
            let raw = 3 + index
            guard fcntl(raw, F_SETFD, FD_CLOEXEC) == 0 else { return nil }
            let flags = fcntl(raw, F_GETFL)
            _ = fcntl(raw, F_SETFL, flags | O_NONBLOCK)
            let name = Int(index) < names.count ? String(names[Int(index)]) : "unknown"
            return (name, Descriptor(owning: raw))
        }
    }
}
