import CairnIO
import CairnMessages
import CairnModel
import CairnStager
import Testing

/// The stager's role in a thread of the test, with the main process's end of its channel.
final class StagerHarness {
    let folder = try! TemporaryFolder()                 // a test without a folder cannot begin
    let pool: PoolShape
    /// Read-only, as a tier worker has them.
    let segments: [MemoryMap]
    private let queue: FrameQueue
    private let thread: Thread
    private var pending: [(StagerReply, [UInt8])] = []
    let listener: Descriptor

    init(slots: Int, threads: Int = 2, stuckMilliseconds: Int = 30_000, lock: Bool = false, forceDescriptor: Bool = false) throws {
        let pool = PoolShape(slots: slots)
        self.pool = pool
        let memories = try (0..<pool.segments).map { try SharedMemory.create(name: "pool", bytes: pool.bytes(ofSegment: $0)) }
        segments = try memories.map { try $0.map(writable: false) }
        listener = try UnixSocket.listen(path: folder.path + "/s.memory")
        let (mine, its) = try UnixSocket.pair()
        queue = try FrameQueue(mine)
        thread = try Threads.spawn(name: "stager") { _ = runStager(channel: its, asProcess: false) }
        try send(.start(.init(pool: pool, threads: threads, niceness: 0, lock: lock, stuckMilliseconds: stuckMilliseconds,
                              instance: "test", forceDescriptor: forceDescriptor)), descriptors: memories.map(\.descriptor) + [listener])
    }

    deinit {
        try? send(.stop)
        _ = thread.join(timeoutMilliseconds: 10_000)
    }

    func send(_ request: StagerRequest, payload: [UInt8] = [], descriptors: [Descriptor] = []) throws {
        try queue.enqueue(Frame(json: MessageCoding.encode(request), payload: payload, descriptors: descriptors))
        while try !queue.flush() { _ = UnixSocket.waitWritable(queue.socket, timeoutMilliseconds: 1000) }
    }

    /// The next reply, `filled` left out.
    func next() throws -> (reply: StagerReply, payload: [UInt8]) {
        let deadline = Clock.monotonicNanoseconds() + 20_000_000_000
        while true {
            while !pending.isEmpty {
                let first = pending.removeFirst()
                if case .filled = first.0 { continue }
                return first
            }
            try #require(Clock.monotonicNanoseconds() < deadline, "no reply of the stager")
            _ = UnixSocket.waitReadable(queue.socket, timeoutMilliseconds: 1000)
            for frame in try queue.readable() { pending.append((try MessageCoding.decode(StagerReply.self, from: frame.json), frame.payload)) }
            try #require(!queue.isClosed, "the stager ended")
        }
    }

    /// Whether nothing but `filled` comes for so long.
    func isSilent(milliseconds: Int) throws -> Bool {
        let deadline = Clock.monotonicNanoseconds() + milliseconds * 1_000_000
        while Clock.monotonicNanoseconds() < deadline {
            _ = UnixSocket.waitReadable(queue.socket, timeoutMilliseconds: 50)
            for frame in try queue.readable() { pending.append((try MessageCoding.decode(StagerReply.self, from: frame.json), frame.payload)) }
            pending.removeAll { if case .filled = $0.0 { true } else { false } }
            if !pending.isEmpty { return false }
        }
        return true
    }

    /// Waits until the pool's slots are filled; gives how many are locked and the note, if any.
    func waitUntilFilled() throws -> (locked: Int, notes: [String]) {
        var notes: [String] = []
        let deadline = Clock.monotonicNanoseconds() + 20_000_000_000
        while true {
            try #require(Clock.monotonicNanoseconds() < deadline)
            _ = UnixSocket.waitReadable(queue.socket, timeoutMilliseconds: 1000)
            for frame in try queue.readable() {
                guard case .filled(let slots, let locked, _, let note) = try MessageCoding.decode(StagerReply.self, from: frame.json) else { continue }
                if let note { notes.append(note) }
                if slots == pool.slots { return (locked, notes) }
            }
        }
    }

    func openSession(_ token: String = "S", pid: Int32 = ProcessFacts.pid) throws -> Bool {
        try send(.openSession(token: token, uid: ProcessFacts.uid, pid: pid))
        while true {
            if case .sessionOpened(let opened, let direct) = try next().reply, opened == token { return direct }
        }
    }

    func attach(_ token: String, _ descriptors: [Descriptor], index: Int = 0) throws -> String {
        let socket = try UnixSocket.connect(path: folder.path + "/s.memory", timeoutMilliseconds: 5000)
        let call = #"{"method":"dev.cairn.Checkpoint.Attach","parameters":{"session":"\#(token)","memory":\#(index)}}"#
        try UnixSocket.sendAll(socket, Array(call.utf8) + [0], descriptors: descriptors, timeoutMilliseconds: 5000)
        try #require(UnixSocket.waitReadable(socket, timeoutMilliseconds: 10_000))
        guard case .bytes(let bytes) = try UnixSocket.receive(socket, max: 65_536) else { return "closed" }
        return String(decoding: bytes, as: UTF8.self)
    }

    func slotBytes(_ slot: Int, offset: Int = 0, count: Int) -> [UInt8] {
        segments[PoolShape.segment(ofSlot: slot)].copyBytes(offset: PoolShape.offset(ofSlot: slot) + offset, count: count)
    }
}

/// One rank's file: header, extents over this process's own memory, objects; and the bytes that must come out.
struct FakeRank {
    var memory: MemoryMap
    var header: [UInt8]
    var extents: [StageExtent] = []
    var objects: [StageExtent] = []
    var expected: [UInt8]

    /// Each part lies with a gap of 64 bytes to the next in memory, so that nothing is right by accident.
    init(headerBytes: Int = 4096, parts: [(bytes: Int, eager: Bool)], objects objectBytes: [Int] = [100, 0, 7], eagerObjects: Bool = true) throws {
        let all = parts.map(\.bytes) + objectBytes
        let memory = try MemoryMap(anonymous: max(4096, all.reduce(0) { $0 + $1 + 64 }))
        header = patternBytes(headerBytes, seed: 77)
        expected = header
        var at = 0, offset = 0
        for (index, part) in parts.enumerated() {
            let bytes = patternBytes(part.bytes, seed: UInt64(index + 3))
            memory.copy(from: bytes, at: at)
            extents.append(StageExtent(fileOffset: offset, address: memory.address(of: at), bytes: part.bytes, eager: part.eager))
            expected += bytes
            at += part.bytes + 64
            offset += part.bytes
        }
        for (index, count) in objectBytes.enumerated() {
            let bytes = patternBytes(count, seed: UInt64(index + 1000))
            memory.copy(from: bytes, at: at)
            objects.append(StageExtent(fileOffset: expected.count, address: memory.address(of: at), bytes: count, eager: eagerObjects))
            expected += bytes
            at += count + 64
        }
        self.memory = memory
    }

    var chunks: Int { Sizes.chunks(ofFile: expected.count) }

    func begin(_ stager: StagerHarness, handle: Int, session: String = "S", layout: Int = 1, verify: Bool = false) throws {
        try stager.send(.layout(session: session, layout: layout), payload: StageExtent.pack(extents))
        try stager.send(.begin(.init(handle: handle, session: session, layout: layout, dataStart: header.count, fileBytes: expected.count,
                                     objects: objects, verify: verify)), payload: header)
    }

    func blockChecksums(_ chunk: Int) -> [UInt32] {
        let begin = chunk * Sizes.chunkBytes, end = min(begin + Sizes.chunkBytes, expected.count)
        return stride(from: begin, to: end, by: Sizes.blockBytes).map { Checksum.crc32c(seed: 0, expected[$0..<min($0 + Sizes.blockBytes, end)]) }
    }
}
