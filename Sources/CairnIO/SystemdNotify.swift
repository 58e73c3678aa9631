// systemd's protocols: notices by datagram (sd_notify), among them memory for its descriptor store; what it hands over at start
// (sd_listen_fds): sockets, then what the store holds; and the journal's datagrams.
import CLinux
import Glibc

public enum SystemdNotify {
    /// Whether anybody listens.
    public static var isAsked: Bool { address != nil }

    private static var address: String? {
        ProcessFacts.environment("NOTIFY_SOCKET").flatMap { $0.hasPrefix("/") || $0.hasPrefix("@") ? $0 : nil }
    }

    /// `READY=1`, `STATUS=…`, joined by newlines. False when nobody asked for it or it could not be sent.
    @discardableResult
    public static func send(state: String) -> Bool { send(state, [], patience: 0) }

    /// Hands memory to the service manager, which keeps it over this process's end and gives it to the next one under `name` (letters,
    /// digits and `-`). What it has already is not kept twice. Waits a while where the manager is slow: at start only.
    public static func store(name: String, _ descriptors: [Descriptor]) -> Bool {
        for begin in stride(from: 0, to: descriptors.count, by: IOLimits.storedPerNotice) {
            let batch = Array(descriptors[begin..<min(begin + IOLimits.storedPerNotice, descriptors.count)])
            guard send("FDSTORE=1\nFDPOLL=0\nFDNAME=\(name)", batch, patience: IOLimits.storeMilliseconds) else { return false }
        }
        return true
    }

    /// The manager closes all that it keeps under `name`.
    @discardableResult
    public static func forget(name: String) -> Bool { send("FDSTOREREMOVE=1\nFDNAME=\(name)", [], patience: IOLimits.storeMilliseconds) }

    private static func send(_ state: String, _ descriptors: [Descriptor], patience: Int) -> Bool {
        guard let address, let socket = connect(address) else { return false }
        let end = Clock.monotonicNanoseconds() + patience * 1_000_000
        while !send(socket, state, descriptors, wait: false) {
            // Its queue is full; a datagram goes whole or not at all.
            guard errno == EAGAIN || errno == ENOBUFS, Clock.monotonicNanoseconds() < end else { return false }
            Clock.sleep(milliseconds: 5)
        }
        return true
    }

    /// A datagram socket of systemd's, by its path, or its abstract name behind an '@'; nil: nobody has it.
    public static func connect(_ name: String) -> Descriptor? {
        let raw = cairn_unix_datagram()
        guard raw >= 0 else { return nil }
        let socket = Descriptor(owning: raw)
        let isAbstract = name.hasPrefix("@"), path = isAbstract ? String(name.dropFirst()) : name
        return unsafe cairn_unix_connect(socket.raw, path, path.utf8.count, isAbstract ? 1 : 0) == 0 ? socket : nil
    }

    /// One datagram; `wait`: until the receiver has room, for threads that may. False leaves `errno`.
    public static func send(_ socket: Descriptor, _ text: String, _ descriptors: [Descriptor] = [], wait: Bool = true) -> Bool {
        let bytes = Array(text.utf8), passed = descriptors.map(\.raw)
        return unsafe bytes.withUnsafeBytes { unsafe cairn_send(socket.raw, $0.baseAddress, $0.count, wait ? 1 : 0, passed, CInt(passed.count)) } == bytes.count
    }

    /// The sockets that systemd listens on for us and the memory that it kept, with their names. Taken once: the variables are removed.
    public static func listenDescriptors() -> [(name: String, descriptor: Descriptor)] {
        defer { for name in ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"] { ProcessFacts.setEnvironment(name, nil) } }
        guard let pid = ProcessFacts.environment("LISTEN_PID"), Int32(pid) == ProcessFacts.pid,
              let text = ProcessFacts.environment("LISTEN_FDS"), let count = Int32(text), (1...IOLimits.listenDescriptors).contains(count) else { return [] }
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

    /// How often a sign of life is due, in milliseconds: half of what the manager waits for one. Nil: it does not watch this process.
    public static func watchdogMilliseconds() -> Int? {
        guard let text = ProcessFacts.environment("WATCHDOG_USEC"), let microseconds = Int(text), microseconds > 0 else { return nil }
        if let pid = ProcessFacts.environment("WATCHDOG_PID"), Int32(pid) != ProcessFacts.pid { return nil }
        return max(1, microseconds / 2000)
    }
}
