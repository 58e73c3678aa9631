// The worker's end of a frame channel: one thread receives, any thread sends.

public final class BlockingFrameChannel: Sendable {
    private let socket: Descriptor
    private let sending = Monitor(true)
    /// Only the receiving thread is inside for longer than a moment; a second one would wait.
    private let arrived = Monitor<[Descriptor]>([])

    public init(_ socket: Descriptor) { self.socket = socket }

    /// Nil at the end of the stream: the main process is gone.
    public func receive() throws(FrameFailure) -> Frame? {
        // The mutex is held while blocked: there is one receiver.
        let result = arrived.withLock { pending in Result { () throws(FrameFailure) in try next(&pending) } }
        return try result.get()
    }

    private func next(_ pending: inout [Descriptor]) throws(FrameFailure) -> Frame? {
        guard let start = try exactly(Frame.headBytes, &pending, mayEnd: true) else { return nil }
        let head = try FrameHead(start[...])
        guard let body = try exactly(head.bytes, &pending, mayEnd: false) else { throw .cutOff }
        guard pending.count >= head.descriptors else { throw .malformed }
        let descriptors = Array(pending.prefix(head.descriptors))
        pending.removeFirst(head.descriptors)
        return Frame(json: Array(body[..<head.jsonBytes]), payload: Array(body[head.jsonBytes...]), descriptors: descriptors)
    }

    private func exactly(_ count: Int, _ pending: inout [Descriptor], mayEnd: Bool) throws(FrameFailure) -> [UInt8]? {
        var bytes: [UInt8] = []
        bytes.reserveCapacity(count)
        while bytes.count < count {
            let part: UnixSocket.ReceivedWithDescriptors
            do {
                part = try UnixSocket.receiveWithDescriptors(socket, max: min(count - bytes.count, 1 << 20),
                                                             room: IOLimits.messageDescriptors, wait: true)
            } catch { throw .failed(error) }
            if part.droppedDescriptors { throw .malformed }
            pending.append(contentsOf: part.descriptors)
            guard pending.count <= 4 * IOLimits.messageDescriptors else { throw .malformed }
            if part.wouldBlock {
                _ = UnixSocket.waitReadable(socket, timeoutMilliseconds: -1)
                continue
            }
            if part.isClosed {
                if bytes.isEmpty && mayEnd { return nil }
                throw .cutOff
            }
            bytes.append(contentsOf: part.bytes)
        }
        return bytes
    }

    /// Waits until the main process took it: it always reads. Frames of several threads never mix.
    public func send(_ frame: Frame) throws(FrameFailure) {
        let bytes = try frame.encoded()
        let result = sending.withLock { _ in
            Result { () throws(IOFailure) in
                var offset = 0
                while offset < bytes.count {
                    switch try UnixSocket.send(socket, bytes, from: offset, descriptors: offset == 0 ? frame.descriptors : [], wait: true) {
                    case .bytes(let count): offset += count
                    case .wouldBlock: _ = UnixSocket.waitWritable(socket, timeoutMilliseconds: 1000)
                    }
                }
            }
        }
        do { try result.get() } catch { throw .failed(error) }
    }

    /// Ends a blocked `receive`, for an orderly end from another thread.
    public func shutdown() { UnixSocket.shutdown(socket) }
}
