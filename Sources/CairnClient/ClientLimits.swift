// All limits of a client.

enum ClientLimits {
    /// A daemon of this node takes a connection at once; its backlog is full only when it is stuck.
    static let connectMilliseconds = 5_000
    /// One read from the socket.
    static let receiveBytes = 256 << 10
    /// A wait without an end is made of waits of this length.
    static let pollMilliseconds = 60_000
}
