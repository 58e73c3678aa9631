// All limits of the wire, each with what happens at it.

public enum WireLimits {
    /// One message of a peer. A layout of 200,000 shards fits; more is answered with TooLarge, then the connection closes.
    public static let messageBytes = 64 << 20
    /// Messages of a peer that has not opened a session yet need no more.
    public static let greetingBytes = 64 << 10
    /// JSON values in one message, each of which costs 16 bytes while it is read: 64 MiB of `0,0,0` must not cost a
    /// gigabyte. 200,000 shards have 7 million; more is no call, and the connection closes.
    public static let values = 8 << 20
    /// Depth of arrays and objects in one message; deeper is no call, and the connection closes. Ours need 8.
    public static let depth = 32
}
