// Bytes and descriptors over a stream socket. Where a descriptor comes from decides who may take it: the main process always
// calls `receive` without room, and the kernel then drops what a client attached.
import CLinux
import Glibc

extension UnixSocket {
    public enum Received: Sendable, Equatable {
        case bytes([UInt8])
        case wouldBlock
        case closed
    }

    public struct ReceivedWithDescriptors: Sendable {
        public var bytes: [UInt8] = []
        public var descriptors: [Descriptor] = []
        public var isClosed = false, wouldBlock = false
        /// More descriptors than room: what was dropped is gone.
        public var droppedDescriptors = false
    }

    /// No room for descriptors.
    public static func receive(_ socket: Descriptor, max: Int, wait: Bool = false) throws(IOFailure) -> Received {
        var buffer = [UInt8](repeating: 0, count: max)
        do {
            let got = try syscall("receive") {
                unsafe buffer.withUnsafeMutableBytes { unsafe cairn_receive(socket.raw, $0.baseAddress, $0.count, wait ? 1 : 0) }
            }
            if got == 0 { return .closed }
            buffer.removeLast(max - got)
            return .bytes(buffer)
        } catch {
            if error.errno == EAGAIN || error.errno == EWOULDBLOCK { return .wouldBlock }
            if error.errno == ECONNRESET { return .closed }
            throw error
        }
    }

    /// Appends to `buffer` up to `max` bytes; 0 at the end of the stream, nil when nothing has arrived.
    static func receive(_ socket: Descriptor, appendingTo buffer: inout [UInt8], max: Int) throws(IOFailure) -> Int? {
        switch try receive(socket, max: max) {
        case .bytes(let bytes):
            buffer.append(contentsOf: bytes)
            return bytes.count
        case .wouldBlock: return nil
        case .closed: return 0
        }
    }

    public static func receiveWithDescriptors(_ socket: Descriptor, max: Int, room: Int = IOLimits.clientDescriptors,
                                              wait: Bool = false) throws(IOFailure) -> ReceivedWithDescriptors {
        var result = ReceivedWithDescriptors()
        var buffer = [UInt8](repeating: 0, count: max)
        var raw = [CInt](repeating: -1, count: room), count: CInt = 0, truncated: CInt = 0
        do {
            let got = try syscall("receive") {
                unsafe buffer.withUnsafeMutableBytes {
                    unsafe cairn_receive_descriptors(socket.raw, $0.baseAddress, $0.count, wait ? 1 : 0, &raw, CInt(room), &count, &truncated)
                }
            }
            result.descriptors = raw.prefix(Int(count)).map { Descriptor(owning: $0) }
            result.droppedDescriptors = truncated != 0
            result.isClosed = got == 0
            buffer.removeLast(max - got)
            result.bytes = buffer
        } catch {
            if error.errno == EAGAIN || error.errno == EWOULDBLOCK {
                result.wouldBlock = true
            } else if error.errno == ECONNRESET {
                result.isClosed = true
            } else { throw error }
        }
        return result
    }

    public enum Sent: Sendable, Equatable {
        case bytes(Int)
        case wouldBlock
    }

    /// As much as the socket takes, from `offset` on; the descriptors travel with the first byte.
    public static func send(_ socket: Descriptor, _ bytes: [UInt8], from offset: Int = 0, descriptors: [Descriptor] = [],
                            wait: Bool = false) throws(IOFailure) -> Sent {
        precondition(offset >= 0 && offset < bytes.count, "send from \(offset) of \(bytes.count) bytes")
        precondition(descriptors.count <= IOLimits.messageDescriptors, "\(descriptors.count) descriptors in one message")
        let raw = descriptors.map(\.raw)
        do {
            let sent = try syscall("send") {
                unsafe bytes.withUnsafeBytes {
                    unsafe cairn_send(socket.raw, $0.baseAddress! + offset, $0.count - offset, wait ? 1 : 0, raw, CInt(raw.count))
                }
            }
            return .bytes(sent)
        } catch {
            // ETOOMANYREFS: too many descriptors of this user are in flight; it passes as they are received.
            if [EAGAIN, EWOULDBLOCK, ETOOMANYREFS].contains(error.errno) { return .wouldBlock }
            throw error
        }
    }

    /// All of it, on a blocking or non-blocking socket; `isTimedOut` when the peer does not read in time.
    public static func sendAll(_ socket: Descriptor, _ bytes: [UInt8], descriptors: [Descriptor] = [],
                               timeoutMilliseconds: Int) throws(IOFailure) {
        let deadline = Clock.monotonicNanoseconds() + timeoutMilliseconds * 1_000_000
        var offset = 0
        while offset < bytes.count {
            switch try send(socket, bytes, from: offset, descriptors: offset == 0 ? descriptors : []) {
            case .bytes(let count): offset += count
            case .wouldBlock:
                let left = (deadline - Clock.monotonicNanoseconds()) / 1_000_000
                guard left > 0, waitWritable(socket, timeoutMilliseconds: left) else {
                    throw IOFailure(operation: "send", errno: ETIMEDOUT)
                }
            }
        }
    }
}
