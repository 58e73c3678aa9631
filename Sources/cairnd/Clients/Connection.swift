// One client's connection: bytes to calls, one call at a time (replies come in order), replies out without blocking.
// Descriptors that a client attaches are never received here: closing one can hang (it may belong to a hung filesystem).
import CairnIO
import CairnWire

final class Connection {
    let id: Int
    let socket: Descriptor
    let peer: UnixSocket.Peer
    private unowned let daemon: Daemon
    private var watch: Watch?
    private var framing: VarlinkFraming
    private var outgoing: [(bytes: [UInt8], descriptors: [Descriptor])] = []
    private var sent = 0
    private(set) var outgoingBytes = 0
    /// What lies here of messages that came, and of replies that go.
    private let charge: MemoryCharge
    /// A call is being answered; its number tells late answers apart.
    private(set) var current: Int?
    private var currentStreams = false, currentOneway = false
    private var nextCall = 1
    private var closing = false, isInNext = false
    private(set) var isClosed = false

    /// The session that this connection opened or attached to.
    weak var session: ClientSession?
    /// It opened the session: its end is the session's.
    var isSessionSocket = false
    /// Called when the connection goes while a call is being answered.
    var onGone: (() -> Void)?

    init(id: Int, socket: Descriptor, peer: UnixSocket.Peer, daemon: Daemon) throws {
        self.id = id
        self.socket = socket
        self.peer = peer
        self.daemon = daemon
        charge = MemoryCharge(daemon.clientMemory, uid: peer.uid)
        framing = VarlinkFraming(limit: min(WireLimits.greetingBytes, daemon.configuration.limits.messageBytes))
        watch = try daemon.loop.watch(socket, events: [.readable, .disconnect]) { [weak self] events in self?.ready(events) }
    }

    /// A peer with a session may send layouts.
    func trust() { framing.limit = daemon.configuration.limits.messageBytes }

    private func ready(_ events: LoopEvents) {
        if events.contains(.writable) { flush() }
        if events.contains(.readable) { read() }
        guard !isClosed else { return }
        if events.contains(.disconnect) || events.contains(.failed) {
            // What it sent before it hung up is not answered any more: nobody reads it.
            close("it hung up")
        }
    }

    private func read() {
        var taken = 0
        while taken < 4 << 20 {
            do {
                switch try UnixSocket.receive(socket, max: 256 << 10) {
                case .wouldBlock: taken = .max
                case .closed: return close("it hung up")
                case .bytes(let bytes):
                    taken += bytes.count
                    framing.append(bytes)
                    if isAnswering, framing.pendingBytes > framing.limit { taken = .max }
                }
            } catch {
                return close("reading failed: \(error)")
            }
        }
        next()
        // A call that is nearly nothing is read in any case, so that one who is out of memory is told so, and others' are not touched.
        if !isClosed, !account(), framing.pendingBytes > DaemonLimits.uncharged {
            if current == nil { begin(streams: false, oneway: false) }
            currentStreams = false
            finish(Outgoing.error(.tooLarge(bytes: framing.pendingBytes, limit: daemon.clientMemory.left(peer.uid))), thenClose: true)
        }
    }

    /// A call is being answered, or its answer is not yet read.
    private var isAnswering: Bool { current != nil || !outgoing.isEmpty }

    /// False: there is more here than its user may have.
    @discardableResult
    private func account() -> Bool { charge.set(framing.pendingBytes + outgoingBytes) }

    /// Begins the next call, if none is being answered and the last reply has been read.
    private func next() {
        // An answer given at once comes back here: the loop below goes on, so that calls sent ahead need no deep stack.
        guard !isInNext else { return }
        isInNext = true
        defer { isInNext = false }
        while !isAnswering, !closing, !isClosed {
            let message: [UInt8]
            do {
                guard let whole = try framing.next() else { break }
                message = whole
            } catch {
                begin(streams: false, oneway: false)
                return finish(Outgoing.error(error), thenClose: true)
            }
            do {
                let call = try IncomingCall(message: message)
                let number = begin(streams: call.more, oneway: call.oneway)
                daemon.handle(call, CallContext(connection: self, number: number, messageBytes: message.count))
            } catch {
                daemon.log.write(.info, "closed a connection of uid \(peer.uid), pid \(peer.pid): \(error)")
                return close("not a Varlink call")
            }
        }
        updateWatch()
    }

    @discardableResult
    private func begin(streams: Bool, oneway: Bool) -> Int {
        let number = nextCall
        nextCall += 1
        current = number
        currentStreams = streams
        currentOneway = oneway
        return number
    }

    /// The last reply of the call being answered.
    func finish(_ bytes: [UInt8], descriptors: [Descriptor] = [], thenClose: Bool = false) {
        guard !isClosed, current != nil else { return }
        current = nil
        onGone = nil
        closing = thenClose
        if !currentOneway { send(bytes, descriptors) }
        if closing, outgoing.isEmpty { close("after an error") }
        next()
    }

    func refused(_ error: WireError) { daemon.counters.refused[String(error.name.split(separator: ".").last ?? "other"), default: 0] += 1 }

    /// One of several replies.
    func push(_ bytes: [UInt8]) {
        guard !isClosed, current != nil, !currentOneway else { return }
        if outgoingBytes > DaemonLimits.watchBytes { return close("it reads too slowly") }
        send(bytes, [])
    }

    private func send(_ bytes: [UInt8], _ descriptors: [Descriptor]) {
        guard outgoingBytes + bytes.count <= DaemonLimits.outgoingBytes else { return close("it does not read its replies") }
        outgoing.append((bytes, descriptors))
        outgoingBytes += bytes.count
        flush()
        // What the socket did not take stays here.
        if !isClosed, !account(), outgoingBytes > DaemonLimits.uncharged { close("its user's replies are not read") }
    }

    private func flush() {
        while let first = outgoing.first {
            do {
                switch try UnixSocket.send(socket, first.bytes, from: sent, descriptors: sent == 0 ? first.descriptors : []) {
                case .wouldBlock: return updateWatch()
                case .bytes(let count):
                    sent += count
                    outgoingBytes -= count
                }
            } catch {
                return close("writing failed: \(error)")
            }
            if sent == first.bytes.count { outgoing.removeFirst(); sent = 0 }
        }
        guard !closing else { return close("after an error") }
        account()
        next()
        updateWatch()
    }

    private func updateWatch() {
        guard !isClosed, let watch else { return }
        var events: LoopEvents = [.disconnect]
        // A client that sends ahead while a call is being answered is read only up to one message's size.
        if !isAnswering || framing.pendingBytes <= framing.limit { events.insert(.readable) }
        if !outgoing.isEmpty { events.insert(.writable) }
        if events != watch.events { watch.update(events) }
    }

    func close(_ reason: String) {
        guard !isClosed else { return }
        isClosed = true
        watch?.stop()
        watch = nil
        outgoing.removeAll()
        _ = charge.set(0)
        let gone = onGone
        onGone = nil
        gone?()
        daemon.connectionClosed(self, reason: reason)
    }
}

/// What a handler needs to answer one call, now or later. Answers after the connection's end are dropped.
struct CallContext {
    let connection: Connection
    let number: Int
    /// What the call took on the wire.
    let messageBytes: Int
    var uid: UInt32 { connection.peer.uid }
    var isLive: Bool { connection.current == number && !connection.isClosed }

    func reply(_ fields: some WireFields, descriptors: [Descriptor] = []) {
        guard isLive else { return }
        connection.finish(Outgoing.reply(fields), descriptors: descriptors)
    }
    func push(_ fields: some WireFields) {
        guard isLive else { return }
        connection.push(Outgoing.reply(fields, continues: true))
    }
    func fail(_ error: WireError) {
        guard isLive else { return }
        connection.refused(error)
        connection.finish(Outgoing.error(error))
    }
}
