// What can go wrong between a client and a daemon, in words that say what to do.
import CairnIO
import CairnWire

public enum ClientError: Error, Sendable, CustomStringConvertible {
    /// Nobody listens at the socket.
    case noDaemon(socket: String)
    /// The socket's mode or owner keeps this user out.
    case notPermitted(socket: String)
    /// The daemon's typed error.
    case refused(WireError)
    case timedOut(method: String, milliseconds: Int)
    /// The daemon ended the connection: it stops, or took offence at what was sent.
    case closed(socket: String)
    case violation(ProtocolViolation)
    case failed(IOFailure)

    public var description: String {
        switch self {
        case .noDaemon(let socket):
            "no daemon answers at '\(socket)': start it with `systemctl start cairnd` or `cairnd`, or point CAIRN_SOCKET or --socket at it"
        case .notPermitted(let socket): "may not connect to '\(socket)': this user lacks the right to write to that socket"
        case .refused(let error): error.description
        case .timedOut(let method, let milliseconds):
            "the daemon did not answer \(method) within \(milliseconds / 1000) s: it may be stuck; see `journalctl -u cairnd`, or allow more with --timeout"
        case .closed(let socket): "the daemon at '\(socket)' closed the connection; was it stopped? see `journalctl -u cairnd`"
        case .violation(let violation): "the daemon's answer is \(violation); is another service behind this socket?"
        case .failed(let failure): failure.description
        }
    }
}
