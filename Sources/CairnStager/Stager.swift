// The stager: the only process that writes the pool, and the only one that touches a rank's memory, descriptors and leases.
//   main thread     reads requests, keeps sessions and layouts; makes no call that a rank's memory can block
//   eager-N         copy what save() waits for                      stage-watch   writes off copies that stick
//   stage-N         copy the rest (niceness of the configuration)   service-N     restores, leases
//   pool-filler     makes the pool's pages present, and locks them  outbox        sends replies in order
//   memory-socket   accepts; attach: one thread a connection
import CairnIO
import CairnMessages
import CairnModel

/// The worker's whole life; gives its exit code. `channel` is its end of the socket pair. As a process (not in a test) it
/// leaves SIGINT and SIGTERM to the main process, which ends it in order.
public func runStager(channel descriptor: Descriptor, asProcess: Bool = true) -> Int32 {
    if asProcess {
        ProcessFacts.setProcessName("cairnd-stager")
        ProcessFacts.ignoreSignals()
        for number in [Signals.interrupt, Signals.terminate, Signals.hangUp] { ProcessFacts.ignore(signal: number) }
        // As much as is permitted; what is refused is told by the filler.
        try? ProcessFacts.raiseMemoryLockLimit()
        try? ProcessFacts.raiseOpenFilesLimit()
    }
    let channel = BlockingFrameChannel(descriptor)
    do {
        guard let first = try channel.receive() else { return 0 }
        guard case .start(let start) = try MessageCoding.decode(StagerRequest.self, from: first.json) else {
            throw StagerFailure("the first request is not 'start'")
        }
        let stager = try Stager(start, first.descriptors, channel)
        defer { stager.stop() }
        while let frame = try channel.receive() {
            guard try stager.handle(try MessageCoding.decode(StagerRequest.self, from: frame.json), frame) else { return 0 }
        }
        return 0
    } catch {
        StandardStreams.write(to: 2, "cairnd stager: \(error)\n")
        return 1
    }
}

/// The main process broke the protocol: a bug, after which nothing that it says can be trusted.
struct StagerFailure: Error, CustomStringConvertible {
    let description: String
    init(_ description: String) { self.description = description }
}

/// Belongs to the main thread.
final class Stager {
    private struct LayoutKey: Hashable { var session: String, layout: Int }

    private let start: StagerStart
    /// Open, and so locked, until the process is gone: a process loses its locks with any descriptor of the file that it closes.
    private let index: Descriptor?
    private let outbox: Outbox
    private let sessions = SessionTable()
    private var layouts: [LayoutKey: StageLayout] = [:]
    private let filler: PoolFiller
    private let queue: StagingQueue
    private let copies: CopyThreads
    private let service: ServiceThreads
    private let memorySocket: MemorySocket

    init(_ start: StagerStart, _ descriptors: [Descriptor], _ channel: BlockingFrameChannel) throws {
        let expected = start.pool.segments + (start.locks ? 2 : 1)
        guard descriptors.count == expected else { throw StagerFailure("\(descriptors.count) descriptors with 'start', \(expected) are expected") }
        let listener = descriptors[start.pool.segments]
        index = start.locks ? descriptors.last : nil
        if let index, try !SharedMemory(descriptor: index, bytes: 1).lock(byte: StagerStart.lockByte) {
            throw StagerFailure("another stager still holds the pool")
        }
        self.start = start
        outbox = Outbox(channel)
        let pool = try PoolMemory(start.pool, segments: Array(descriptors.prefix(start.pool.segments)))
        filler = PoolFiller(pool, lock: start.lock, outbox: outbox)
        queue = StagingQueue(start.pool, outbox: outbox)
        copies = CopyThreads(queue, pool: pool, niceness: start.niceness, stuckMilliseconds: start.stuckMilliseconds)
        service = ServiceThreads(pool, outbox: outbox)
        memorySocket = MemorySocket(listener, sessions: sessions, outbox: outbox)
        outbox.post(.ready)
        try Threads.spawn(name: "outbox") { [outbox] in outbox.run() }
        try Threads.spawn(name: "pool-filler", scheduling: .batch) { [filler] in filler.run() }
        try copies.start(start.threads)
        try service.start()
        try memorySocket.start()
    }

    /// All threads end on their own soon after; one that sticks does not hold up the end of the process.
    func stop() {
        filler.stop()
        queue.stop()
        copies.stop()
        service.stop()
        memorySocket.stop()
        outbox.close()
    }

    /// False: the role ends.
    func handle(_ request: StagerRequest, _ frame: Frame) throws -> Bool {
        switch request {
        case .start: throw StagerFailure("a second 'start'")
        case .stop: return false
        case .openSession(let token, let uid, let pid):
            let session = Session(token: token, uid: uid, pid: pid, forceDescriptor: start.forceDescriptor)
            sessions.add(session)
            outbox.post(.sessionOpened(token: token, direct: session.direct))
        case .closeSession(let token):
            layouts = layouts.filter { $0.key.session != token }
            if let session = sessions.remove(token) { service.push(.forget(session)) }
        case .layout(let session, let number):
            guard frame.payload.count.isMultiple(of: 32), let layout = StageLayout(StageExtent.unpack(frame.payload[...])) else {
                throw StagerFailure("layout \(number) of session \(session): its extents are not back to back")
            }
            layouts[LayoutKey(session: session, layout: number)] = layout
        case .forgetLayout(let session, let number): layouts[LayoutKey(session: session, layout: number)] = nil
        case .begin(let begin): self.begin(begin, header: frame.payload)
        case .stage(let assignments): queue.stage(assignments)
        case .hurry(let handle): queue.hurry(handle)
        case .cancel(let handle): queue.cancel(handle)
        case .finish(let handle): queue.finish(handle)
        case .lease(let segment, let bytes):
            guard let descriptor = frame.descriptors.first, bytes > 0 else { throw StagerFailure("lease \(segment) without memory") }
            service.push(.lease(segment: segment, SharedMemory(descriptor: descriptor, bytes: bytes)))
        case .put(let id, let handle):
            guard frame.payload.count.isMultiple(of: 32), !frame.payload.isEmpty else { throw StagerFailure("put \(id) of \(frame.payload.count) bytes") }
            try put(id, handle, Words.unpack(frame.payload[...]))
        case .release(let segment): service.release(segment: segment)
        case .buffer(let tier, let instance, let bytes):
            guard let descriptor = frame.descriptors.first, bytes > 0 else { throw StagerFailure("buffer of \(tier.rawValue) without memory") }
            service.setBuffer(tier, instance: instance, try MemoryMap(descriptor, bytes: bytes, writable: false))
        case .copyOut(let id, let source, let verify, let copies):
            guard verify >= 0, copies >= 0, frame.payload.count == (verify + copies) * 32 else {
                throw StagerFailure("copyOut \(id): \(frame.payload.count) bytes for \(verify) checks and \(copies) copies")
            }
            let words = Words.unpack(frame.payload[...])
            service.push(.copyOut(id: id, source, checks: Array(words[..<(verify * 4)]), copies: Array(words[(verify * 4)...])))
        }
        return true
    }

    private func put(_ id: Int, _ handle: Int, _ words: [UInt64]) throws {
        var pieces: [(fileOffset: Int, lease: MemoryMap, offset: Int, bytes: Int)] = []
        for at in stride(from: 0, to: words.count, by: 4) {
            guard let fileOffset = Int(exactly: words[at]), let segment = Int(exactly: words[at + 1]), let offset = Int(exactly: words[at + 2]),
                  let bytes = Int(exactly: words[at + 3]), let lease = service.lease(segment), bytes > 0, offset <= lease.bytes, bytes <= lease.bytes - offset else {
                throw StagerFailure("put \(id): \(words[at + 3]) bytes at \(words[at + 2]) are in no lease \(words[at + 1])")
            }
            pieces.append((fileOffset, lease, offset, bytes))
        }
        queue.put(id, handle, pieces)
    }

    private func begin(_ begin: BeginStaging, header: [UInt8]) {
        guard let session = sessions[begin.session] else {
            return queue.refuse(begin.handle, .gone, "session \(begin.session) is closed")
        }
        guard let layout = layouts[LayoutKey(session: begin.session, layout: begin.layout)] else {
            return queue.refuse(begin.handle, .other, "layout \(begin.layout) is not known")
        }
        guard !copies.isExhausted else {
            return queue.refuse(begin.handle, .other, "\(StagerLimits.stuckThreads) copies are stuck: the stager takes no further save")
        }
        guard !queue.isStuck(session.uid) else {
            return queue.refuse(begin.handle, .stuck, "\(StagerLimits.stuckThreadsPerUser) copies of this user's memory are stuck: end the ranks that they belong to")
        }
        guard let plan = StagePlan(begin, session: session, layout: layout, header: header) else {
            return queue.refuse(begin.handle, .other, "header, layout and objects do not make up a file of \(begin.fileBytes) bytes")
        }
        if let problem = plan.problemOfSources { return queue.refuse(begin.handle, .other, problem) }
        queue.begin(plan)
    }
}
