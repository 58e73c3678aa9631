// The main process's end of a frame channel: never blocks, never accepts a descriptor. Belongs to the loop's thread.

public final class FrameQueue {
    public let socket: Descriptor
    private struct Outgoing { var bytes: [UInt8]; var descriptors: [Descriptor] }
    private var outgoing: [Outgoing] = []
    /// Index of the first frame that is not sent, and how much of it is.
    private var first = 0, sent = 0
    public private(set) var queuedBytes = 0
    private var incoming: [UInt8] = []
    private var parsed = 0
    /// The worker closed its end; what came before was returned.
    public private(set) var isClosed = false

    public init(_ socket: Descriptor) throws(IOFailure) {
        try UnixSocket.setNonBlocking(socket, true)
        self.socket = socket
    }

    /// Descriptors are kept open until they are sent.
    public func enqueue(_ frame: Frame) throws(FrameFailure) {
        let bytes = try frame.encoded()
        guard queuedBytes + bytes.count <= IOLimits.queuedFrameBytes else { throw .queueFull(bytes: queuedBytes) }
        outgoing.append(Outgoing(bytes: bytes, descriptors: frame.descriptors))
        queuedBytes += bytes.count
    }

    /// Sends what the socket takes; true when nothing is left (so the loop need not watch for writability).
    public func flush() throws(FrameFailure) -> Bool {
        while first < outgoing.count {
            let frame = outgoing[first]
            do {
                switch try UnixSocket.send(socket, frame.bytes, from: sent, descriptors: sent == 0 ? frame.descriptors : []) {
                case .wouldBlock: return false
                case .bytes(let count):
                    sent += count
                    queuedBytes -= count
                }
            } catch { throw .failed(error) }
            if sent == frame.bytes.count {
                outgoing[first] = Outgoing(bytes: [], descriptors: [])
                first += 1
                sent = 0
                if first > 64, first * 2 > outgoing.count { outgoing.removeFirst(first); first = 0 }
            }
        }
        outgoing.removeAll(keepingCapacity: true)
        first = 0
        return true
    }

    /// The frames that have arrived whole. At most `IOLimits.frameReadBytes` are taken at once: the loop comes back.
    public func readable() throws(FrameFailure) -> [Frame] {
        var taken = 0
        while !isClosed, taken < IOLimits.frameReadBytes {
            do {
                guard let got = try UnixSocket.receive(socket, appendingTo: &incoming, max: 256 << 10) else { break }
                if got == 0 { isClosed = true }
                taken += got
            } catch { throw .failed(error) }
        }
        var frames: [Frame] = []
        while incoming.count - parsed >= Frame.headBytes {
            let head = try FrameHead(incoming[parsed..<parsed + Frame.headBytes])
            let start = parsed + Frame.headBytes
            guard incoming.count - start >= head.bytes else { break }
            frames.append(Frame(json: Array(incoming[start..<start + head.jsonBytes]),
                                payload: Array(incoming[start + head.jsonBytes..<start + head.bytes])))
            parsed = start + head.bytes
        }
        // The rest moves to the front only when most of the buffer is parsed, so each byte moves at most twice.
        if parsed * 2 >= incoming.count { incoming.removeFirst(parsed); parsed = 0 }
        if isClosed && incoming.count > parsed { throw .cutOff }
        return frames
    }
}
