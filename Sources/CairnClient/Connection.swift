// A blocking connection to a daemon: calls in order, each with its reply or replies. Every wait has a bound, except where a
// caller asks for none. Belongs to one thread.
import CairnIO
import CairnWire

public final class Connection {
    public let socketPath: String
    /// For what a client needs beyond calls: hanging up, passing on.
    public let descriptor: Descriptor
    /// Descriptors that came with replies and were not taken yet, e.g. a lease's memfd.
    public private(set) var receivedDescriptors: [Descriptor] = []
    private var framing = VarlinkFraming()

    private init(path: String, descriptor: Descriptor) {
        socketPath = path
        self.descriptor = descriptor
    }

    /// Without `socket`: by the rule of `DefaultSocket`.
    public static func open(socket: String? = nil, timeoutMilliseconds: Int? = nil) throws(ClientError) -> Connection {
        let paths = socket.map { [$0] } ?? DefaultSocket.candidates
        precondition(!paths.isEmpty, "no path to look for a daemon at")
        for (index, path) in paths.enumerated() {
            do {
                return Connection(path: path, descriptor: try UnixSocket.connect(
                    path: path, timeoutMilliseconds: timeoutMilliseconds ?? ClientLimits.connectMilliseconds))
            } catch {
                // One that exists and does not answer is said so; it is not passed over.
                if error.isMissing && index < paths.count - 1 { continue }
                if error.isNobodyThere { throw .noDaemon(socket: path) }
                if error.isNotPermitted { throw .notPermitted(socket: path) }
                if error.isTimedOut { throw .timedOut(method: "a connection", milliseconds: timeoutMilliseconds ?? ClientLimits.connectMilliseconds) }
                throw .failed(error)
            }
        }
        throw .noDaemon(socket: paths[paths.count - 1])
    }

    /// One call, one reply. `descriptors` travel with it, named in the parameters by their index.
    public func call<Method: WireMethod>(_ method: Method.Type, _ parameters: Method.Parameters, descriptors: [Descriptor] = [],
                                         timeoutMilliseconds: Int = 30_000) throws(ClientError) -> Method.Reply {
        precondition(!Method.streams, "\(Method.name) answers with many replies: use stream")
        try send(Outgoing.call(method, parameters), descriptors: descriptors, method: Method.name, timeoutMilliseconds: timeoutMilliseconds)
        return try reply(to: method, timeoutMilliseconds: timeoutMilliseconds).value
    }

    /// One call, many replies, until the last or until `each` returns false; the connection is of no use for calls after the
    /// latter. `timeoutMilliseconds` bounds the wait for each reply; nil waits for ever.
    public func stream<Method: WireMethod>(_ method: Method.Type, _ parameters: Method.Parameters, timeoutMilliseconds: Int?,
                                           each: (Method.Reply) throws(ClientError) -> Bool) throws(ClientError) {
        precondition(Method.streams, "\(Method.name) answers once: use call")
        try send(Outgoing.call(method, parameters), method: Method.name, timeoutMilliseconds: timeoutMilliseconds ?? 30_000)
        while true {
            let (value, continues) = try reply(to: method, timeoutMilliseconds: timeoutMilliseconds)
            guard try each(value), continues else { return }
        }
    }

    /// Sends a call whose reply `next` takes, so that the caller can work meanwhile. Replies come in the order of the calls.
    public func begin<Method: WireMethod>(_ method: Method.Type, _ parameters: Method.Parameters, timeoutMilliseconds: Int = 30_000) throws(ClientError) {
        try send(Outgoing.call(method, parameters), method: Method.name, timeoutMilliseconds: timeoutMilliseconds)
    }

    public func next<Method: WireMethod>(_ method: Method.Type, timeoutMilliseconds: Int) throws(ClientError) -> Method.Reply {
        try reply(to: method, timeoutMilliseconds: timeoutMilliseconds).value
    }

    public func takeDescriptors() -> [Descriptor] {
        defer { receivedDescriptors = [] }
        return receivedDescriptors
    }

    /// Bytes as they are, also such as are no call.
    public func send(_ bytes: [UInt8], descriptors: [Descriptor] = [], method: String = "a message",
                     timeoutMilliseconds: Int = 30_000) throws(ClientError) {
        do {
            try UnixSocket.sendAll(descriptor, bytes, descriptors: descriptors, timeoutMilliseconds: timeoutMilliseconds)
        } catch {
            if error.isHungUp {
                // The daemon may have said why before it hung up: the next reply is that, or the end.
                return
            }
            throw error.isTimedOut ? .timedOut(method: method, milliseconds: timeoutMilliseconds) : .failed(error)
        }
    }

    /// The next message, whatever it answers.
    public func receive(method: String = "a message", timeoutMilliseconds: Int?) throws(ClientError) -> [UInt8] {
        let deadline = timeoutMilliseconds.map { Clock.monotonicNanoseconds() + $0 * 1_000_000 }
        while true {
            do throws(WireError) {
                if let message = try framing.next() { return message }
            } catch { throw .refused(error) }
            var left = ClientLimits.pollMilliseconds
            if let deadline {
                left = min(left, (deadline - Clock.monotonicNanoseconds() + 999_999) / 1_000_000)
                if left <= 0 { throw .timedOut(method: method, milliseconds: timeoutMilliseconds ?? 0) }
            }
            guard UnixSocket.waitReadable(descriptor, timeoutMilliseconds: left) else { continue }
            try receiveSome()
        }
    }

    private func receiveSome() throws(ClientError) {
        do throws(IOFailure) {
            let received = try UnixSocket.receiveWithDescriptors(descriptor, max: ClientLimits.receiveBytes)
            receivedDescriptors += received.descriptors
            if received.isClosed { throw IOFailure(operation: "receive", errno: IOFailure.brokenPipe) }
            framing.append(received.bytes)
        } catch {
            throw error.isHungUp ? .closed(socket: socketPath) : .failed(error)
        }
    }

    private func reply<Method: WireMethod>(to _: Method.Type, timeoutMilliseconds: Int?) throws(ClientError)
        -> (value: Method.Reply, continues: Bool) {
        let message = try receive(method: Method.name, timeoutMilliseconds: timeoutMilliseconds)
        let incoming: IncomingReply<Method.Reply>
        do { incoming = try IncomingReply(message: message) } catch { throw .violation(error) }
        switch incoming.result {
        case .success(let value): return (value, incoming.continues)
        case .failure(let error): throw .refused(error)
        }
    }
}
