// SOCKET.memory: where a rank whose memory may not be read by pid hands over a read-only descriptor of its /proc/self/mem, and where any
// rank hands over sealed memfds as sources of its saves.
//   {"method": "dev.cairn.Checkpoint.Attach", "parameters": {"session": TOKEN, "memory": 0}} and one descriptor
//   {"method": "dev.cairn.Checkpoint.Attach", "parameters": {"session": TOKEN, "source": 0, "number": 5}} and one descriptor
// A connection has a thread of its own: what a client sends is looked at, and closed, only there. A descriptor that hangs at
// either holds this one thread and nothing else.
import CairnIO
import CairnMessages
import CairnWire
import Synchronization

final class MemorySocket: Sendable {
    private let listener: Descriptor
    private let sessions: SessionTable
    private let outbox: Outbox
    private let open = Monitor<[UInt32: Int]>([:])
    private let wakeup = Monitor<Wakeup?>(nil)
    private let stopped = Atomic(false)

    init(_ listener: Descriptor, sessions: SessionTable, outbox: Outbox) {
        self.listener = listener; self.sessions = sessions; self.outbox = outbox
    }

    func start() throws(IOFailure) { try Threads.spawn(name: "memory-socket") { self.run() } }

    func stop() {
        stopped.store(true, ordering: .sequentiallyConsistent)
        wakeup.withLock { $0?.send() }
    }

    private func run() {
        do {
            try UnixSocket.setNonBlocking(listener, true)
            let loop = try EventLoop()
            let wakeup = try loop.wakeup { loop.stop() }
            self.wakeup.withLock { $0 = wakeup }
            var watch: Watch?
            watch = try loop.watch(listener, events: .readable) { _ in
                guard !self.acceptAll() else { return }
                // No descriptor is left for it: the connection waits in the backlog.
                watch?.update([])
                loop.timer(afterMilliseconds: 200) { watch?.update(.readable) }
            }
            if !stopped.load(ordering: .sequentiallyConsistent) { loop.run() }
            watch?.stop()
            self.wakeup.withLock { $0 = nil }
            wakeup.stop()
        } catch {
            // The main process gave a socket that cannot be watched: ranks without ptrace access get no further.
            StandardStreams.write(to: 2, "cairnd stager: memory socket: \(error)\n")
        }
    }

    private func acceptAll() -> Bool {
        do {
            while let connection = try UnixSocket.accept(listener) { begin(connection) }
            return true
        } catch { return false }
    }

    private func begin(_ connection: Descriptor) {
        guard let peer = try? UnixSocket.peer(connection) else { return }
        let admitted = open.withLock { open in
            guard open[peer.uid, default: 0] < StagerLimits.connectionsPerUser,
                  open.values.reduce(0, +) < StagerLimits.connections else { return false }
            open[peer.uid, default: 0] += 1
            return true
        }
        guard admitted else { return }
        do {
            try Threads.spawn(name: "attach") {
                self.serve(connection, peer)
                self.leave(peer.uid)
            }
        } catch { leave(peer.uid) }
    }

    private func leave(_ uid: UInt32) {
        open.withLock { open in
            open[uid, default: 1] -= 1
            if open[uid] == 0 { open[uid] = nil }
        }
    }

    /// One call, one reply.
    private func serve(_ connection: Descriptor, _ peer: UnixSocket.Peer) {
        let deadline = Clock.monotonicNanoseconds() + StagerLimits.attachMilliseconds * 1_000_000
        func left() -> Int { max(0, (deadline - Clock.monotonicNanoseconds()) / 1_000_000) }
        var framing = VarlinkFraming(limit: StagerLimits.attachBytes)
        var descriptors: [Descriptor] = []
        while left() > 0, UnixSocket.waitReadable(connection, timeoutMilliseconds: left()) {
            guard let part = try? UnixSocket.receiveWithDescriptors(connection, max: StagerLimits.attachBytes) else { return }
            if part.isClosed { return }
            descriptors += part.descriptors
            framing.append(part.bytes)
            let reply: [UInt8]?
            do throws(WireError) {
                guard !part.droppedDescriptors, descriptors.count <= IOLimits.clientDescriptors else {
                    throw .notPermitted(reason: "at most \(IOLimits.clientDescriptors) descriptors are expected")
                }
                guard let message = try framing.next() else { continue }
                // Not a call: nothing to answer to.
                guard let call = try? IncomingCall(message: message) else { return }
                let answer = Result { () throws(WireError) in try attach(call, descriptors, peer) }
                if call.oneway { return }
                reply = switch answer {
                case .success: Outgoing.reply(Nothing())
                case .failure(let error): Outgoing.error(error)
                }
            } catch { reply = Outgoing.error(error) }
            if let reply { try? UnixSocket.sendAll(connection, reply, timeoutMilliseconds: left()) }
            return
        }
    }

    private func attach(_ call: IncomingCall, _ descriptors: [Descriptor], _ peer: UnixSocket.Peer) throws(WireError) {
        guard case .checkpoint(.attach(let parameters)) = try call.request.get() else {
            throw .methodNotImplemented(method: call.method)
        }
        guard let session = sessions[parameters.session] else { throw .notOpen }
        guard session.uid == peer.uid else { throw .notPermitted(reason: "the session is another user's") }
        if let source = parameters.source { return try attach(source, parameters, descriptors, session) }
        guard let index = parameters.memory, descriptors.indices.contains(index) else {
            throw .invalidParameter(parameter: "memory")
        }
        guard RankMemory.isMemoryDescriptor(descriptors[index]) else {
            throw .notPermitted(reason: "the descriptor is not of /proc/self/mem opened for reading only")
        }
        session.attach(descriptors[index])
        outbox.post(.memoryAttached(token: session.token))
    }

    private func attach(_ source: Int, _ parameters: Checkpoint.Attach.Parameters, _ descriptors: [Descriptor], _ session: Session) throws(WireError) {
        guard parameters.memory == nil, descriptors.indices.contains(source) else { throw .invalidParameter(parameter: "source") }
        guard let number = parameters.number, (0..<StageExtent.sources).contains(number) else { throw .invalidParameter(parameter: "number") }
        guard session.sources[number] != nil || sessions.sources(ofUser: session.uid) < StagerLimits.sourcesPerUser else {
            throw .tooLarge(bytes: StagerLimits.sourcesPerUser + 1, limit: StagerLimits.sourcesPerUser)
        }
        guard let memory = SealedMemory(descriptors[source]) else {
            throw .notPermitted(reason: "the descriptor is no memfd with the seals F_SEAL_WRITE and F_SEAL_SHRINK")
        }
        session.attach(memory, number: number)
    }
}
