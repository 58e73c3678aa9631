// One simulated node: a whole tier worker, as `cairnd` runs it in a process of its own, here on threads, and main's end of its channel.
// Only one node works at a time, so what the kernel is asked between two marks is that node's.
import CairnIO
import CairnMessages
import CairnModel
import CairnStore
import CairnTier

struct ScaleError: Error, CustomStringConvertible {
    let description: String
    init(_ description: String) { self.description = description }
}

/// What all nodes of this process share: memory that a node fills anew for each use.
final class Memory {
    let shape = PoolShape(slots: 1)
    let poolMemory: SharedMemory, pool: MemoryMap, buffer: SharedMemory, bufferMap: MemoryMap
    static let bufferSlots = 2

    init() throws {
        poolMemory = try SharedMemory.create(name: "pool", bytes: shape.bytes(ofSegment: 0))
        pool = try poolMemory.map(writable: true)
        buffer = try SharedMemory.create(name: "buffer", bytes: (Self.bufferSlots + TierStart.readBackSlots) * Sizes.chunkBytes)
        bufferMap = try buffer.map(writable: false)
    }
}

final class Node {
    let number: Int
    private let memory: Memory
    private let queue: FrameQueue
    private let thread: Thread
    private var nextID = 1
    private var received: [(TierReply, [UInt8])] = []

    init(_ number: Int, folder: String, memory: Memory, form: TierForm = .committing) throws {
        self.number = number
        self.memory = memory
        let (mine, its) = try UnixSocket.pair()
        queue = try FrameQueue(mine)
        thread = try Threads.spawn(name: "node") { _ = runTierWorker(channel: its, asProcess: false) }
        // Threads instead of io_uring: its reads and writes are system calls that a tracer sees.
        try send(.start(TierStart(tier: .global, form: form, paths: [folder], instance: Entropy.hex(bytes: 4), node: "node-\(number)", pool: memory.shape,
                                  bufferSlots: Memory.bufferSlots, exclusive: false, depth: 2, ring: .off, direct: .off, reserveBytes: 0, fileMode: 0o640, group: nil)),
                 descriptors: [memory.poolMemory.descriptor, memory.buffer.descriptor])
        guard case .ready = try next().0 else { throw ScaleError("node \(number) does not start") }
    }

    func stop() {
        try? send(.stop)
        _ = thread.join(timeoutMilliseconds: 10_000)
    }

    func send(_ request: TierRequest, payload: [UInt8] = [], descriptors: [Descriptor] = []) throws {
        try queue.enqueue(Frame(json: MessageCoding.encode(request), payload: payload, descriptors: descriptors))
        while try !queue.flush() { _ = UnixSocket.waitWritable(queue.socket, timeoutMilliseconds: 1000) }
    }

    /// The longest that one request may take: a decision of the largest world.
    private static let patienceNanoseconds = 600 * 1_000_000_000

    private func next() throws -> (TierReply, [UInt8]) {
        let deadline = Clock.monotonicNanoseconds() + Self.patienceNanoseconds
        while received.isEmpty {
            guard Clock.monotonicNanoseconds() < deadline else { throw ScaleError("node \(number) does not answer") }
            _ = UnixSocket.waitReadable(queue.socket, timeoutMilliseconds: 1000)
            for frame in try queue.readable() { received.append((try MessageCoding.decode(TierReply.self, from: frame.json), frame.payload)) }
            if received.isEmpty, queue.isClosed { throw ScaleError("node \(number) ended") }
        }
        let reply = received.removeFirst()
        if case .failed(_, let failure) = reply.0 { throw ScaleError("node \(number): \(failure.text)") }
        return reply
    }

    @discardableResult
    func ask(payload: [UInt8] = [], _ request: (Int) -> TierRequest) throws -> (TierReply, [UInt8]) {
        let id = nextID
        nextID += 1
        try send(request(id), payload: payload)
        return try next()
    }

    func put(_ part: RankPart) throws {
        let file = part.key.rank + 1
        try ask { .create(id: $0, file: file, key: part.key, fileTry: 1, bytes: part.bytes.count) }
        for chunk in 0..<Sizes.chunks(ofFile: part.bytes.count) {
            let bytes = Sizes.bytes(ofChunk: chunk, fileBytes: part.bytes.count)
            memory.pool.copy(from: part.bytes[chunk * Sizes.chunkBytes..<chunk * Sizes.chunkBytes + bytes], at: 0)
            try ask { .write([ChunkWrite(id: $0, file: file, chunk: chunk, bytes: bytes, source: .pool(slot: 0))]) }
        }
        try ask(payload: part.manifest + part.checksums) { .publish(id: $0, file: file, manifestName: part.manifestName, manifestBytes: part.manifest.count) }
    }

    /// The bytes of all boxes, in their order, each at a multiple of 64.
    func load(_ ref: StepRef, _ boxes: [Box]) throws -> (bytes: [UInt8], placed: [PlacedPiece]) {
        let segment = LeaseSegment(segment: 0, bytes: 64 << 20)
        var lease: [UInt8] = []
        let id = nextID
        nextID += 1
        try send(.load(id: id, ref: ref, boxes: boxes, segments: [segment], undecided: false))
        while true {
            let (reply, payload) = try next()
            switch reply {
            case .filled(id, let slots, _):
                let words = Words.unpack(payload[...]).map { Int($0) }
                for at in stride(from: 0, to: words.count, by: 4) {
                    let end = words[at + 2] + words[at + 3]
                    if lease.count < end { lease += [UInt8](repeating: 0, count: end - lease.count) }
                    lease.replaceSubrange(words[at + 2]..<end, with: memory.bufferMap.copyBytes(offset: words[at], count: words[at + 3]))
                }
                try send(.freeBuffers(slots: slots))
            case .loaded(id, let placed): return (lease, placed)
            default: throw ScaleError("node \(number): a load was answered with \(reply)")
            }
        }
    }
}
