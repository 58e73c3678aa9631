// Splits a byte stream into messages, each ended by one NUL byte. JSON never contains that byte, so it needs no escape.
// Each byte is looked at once and moved at most once more, whatever the sizes of the pieces that arrive.

public struct VarlinkFraming: Sendable {
    /// The most bytes of one message, without its NUL. May be raised once a peer is known.
    public var limit: Int
    private var buffer: [UInt8] = []
    /// Where the next message begins.
    private var head = 0
    /// No NUL stands between `head` and here.
    private var scanned = 0

    public init(limit: Int = WireLimits.messageBytes) {
        self.limit = limit
    }

    /// Bytes that have arrived and do not make a message yet; with messages not yet taken, theirs too.
    public var pendingBytes: Int { buffer.count - head }

    public mutating func append(_ bytes: [UInt8]) {
        if head == buffer.count {
            buffer.removeAll(keepingCapacity: buffer.capacity <= 1 << 16)
            head = 0
            scanned = 0
        } else if head > 1 << 16, head > buffer.count / 2 {
            buffer.removeFirst(head)
            scanned -= head
            head = 0
        }
        buffer.append(contentsOf: bytes)
    }

    /// The next whole message without its NUL, or nil until more has arrived.
    /// Throws `WireError.tooLarge` for a message over the limit: answer it, then close; this stream is of no more use.
    public mutating func next() throws(WireError) -> [UInt8]? {
        guard let end = buffer[scanned...].firstIndex(of: 0) else {
            scanned = buffer.count
            guard buffer.count - head <= limit else { throw .tooLarge(bytes: buffer.count - head, limit: limit) }
            return nil
        }
        guard end - head <= limit else { throw .tooLarge(bytes: end - head, limit: limit) }
        let message = Array(buffer[head..<end])
        head = end + 1
        scanned = head
        return message
    }
}
