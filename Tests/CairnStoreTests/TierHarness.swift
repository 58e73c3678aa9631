import CairnIO
import CairnMessages
import CairnModel
import CairnStore
import CairnTier
import Testing

/// A folder of one test, removed with it.
final class TierFolder: Sendable {
    let path: String
    let root: Descriptor
    private let parent: Descriptor, name: String

    init(on base: String = "/tmp") throws {
        parent = try Files.openRoot(base)
        name = "cairn-tier-\(Entropy.hex(bytes: 8))"
        try Files.makeFolder(parent, name, mode: 0o700)
        path = "\(base)/\(name)"
        root = try Files.openRoot(path)
    }
    deinit { try? Files.removeTree(parent, name) }

    func names(_ path: String) throws -> [String] { try Files.list(root, path).map(\.name) }
    func flip(_ path: String, at offset: Int) throws {
        let file = try Files.open(root, path, flags: [.read, .write])
        let byte = try PositionedIO.read(file, bytes: 1, fileOffset: offset)
        try PositionedIO.write(file, [byte[0] ^ 1], fileOffset: offset)
    }
}

struct TierMode: Sendable, CustomTestStringConvertible {
    var ring = Preference.auto, direct = Preference.auto
    var base = "/tmp"
    var testDescription: String { "ring \(ring), direct \(direct), \(base)" }
    static let all = [TierMode(), TierMode(ring: .off), TierMode(direct: .off), TierMode(ring: .off, direct: .off), TierMode(base: "/dev/shm")]
}

/// The worker's role in a thread, with main's end of its channel.
final class TierHarness {
    let slots = 8, bufferSlots = 2
    let pool: MemoryMap
    let buffer: SharedMemory
    let bufferMap: MemoryMap
    private let queue: FrameQueue
    private let thread: Thread
    private var nextID = 1
    private var received: [(TierReply, [UInt8])] = []
    /// How files were stored on a tier that may compress.
    private(set) var stored: [CompressionReport] = []
    private(set) var notes: [String] = []
    private var wasCopied = false
    /// The last load that could be read into its lease was.
    private(set) var wasReadIntoLease = false
    private(set) var ring = false, direct = false
    private(set) var startFailure: TierFailure?

    init(_ paths: [String], form: TierForm = .committing, tier: Tier = .global, mode: TierMode = TierMode(), instance: String = Entropy.hex(bytes: 4),
         node: String = "n1", reserve: Int = 0, messageBytes: Int = IOLimits.frameBytes,
         compression: CompressionSetting = CompressionSetting()) throws {
        let shape = PoolShape(slots: slots)
        let memory = try SharedMemory.create(name: "pool", bytes: shape.bytes(ofSegment: 0))
        pool = try memory.map(writable: true)
        buffer = try SharedMemory.create(name: "buffer", bytes: (bufferSlots + TierStart.readBackSlots) * Sizes.chunkBytes)
        bufferMap = try buffer.map(writable: false)
        let (mine, its) = try UnixSocket.pair()
        queue = try FrameQueue(mine)
        thread = try Threads.spawn(name: "tier") { _ = runTierWorker(channel: its, asProcess: false, messageBytes: messageBytes) }
        try send(.start(TierStart(tier: tier, form: form, paths: paths, instance: instance, node: node, pool: shape, bufferSlots: bufferSlots, exclusive: tier == .local, depth: 8,
                                  ring: mode.ring, direct: mode.direct, reserveBytes: reserve, fileMode: 0o640, group: nil, compression: compression)),
                 descriptors: [memory.descriptor, buffer.descriptor])
        switch try next().0 {
        case .ready(let ring, let direct, let notes): (self.ring, self.direct, self.notes) = (ring, direct, notes)
        case .startFailed(let failure): startFailure = failure
        case let other: Issue.record("\(other)")
        }
    }

    deinit { stop() }

    func stop() {
        try? send(.stop)
        _ = thread.join(timeoutMilliseconds: 10_000)
    }

    func send(_ request: TierRequest, payload: [UInt8] = [], descriptors: [Descriptor] = []) throws {
        try queue.enqueue(Frame(json: MessageCoding.encode(request), payload: payload, descriptors: descriptors))
        while try !queue.flush() { _ = UnixSocket.waitWritable(queue.socket, timeoutMilliseconds: 1000) }
    }

    func next() throws -> (TierReply, [UInt8]) {
        let deadline = Clock.monotonicNanoseconds() + 30_000_000_000
        while received.isEmpty {
            try #require(Clock.monotonicNanoseconds() < deadline, "no reply of the tier worker")
            _ = UnixSocket.waitReadable(queue.socket, timeoutMilliseconds: 1000)
            for frame in try queue.readable() {
                let reply = try MessageCoding.decode(TierReply.self, from: frame.json)
                if case .stored(let file) = reply { stored.append(file) } else { received.append((reply, frame.payload)) }
            }
            if received.isEmpty { try #require(!queue.isClosed, "the tier worker ended") }
        }
        return received.removeFirst()
    }

    /// Sends and gives the last reply; a failure is thrown. One request is under way at a time.
    func ask(payload: [UInt8] = [], _ request: (Int) -> TierRequest) throws -> (TierReply, [UInt8]) {
        let id = nextID
        nextID += 1
        try send(request(id), payload: payload)
        let reply = try next()
        if case .failed(_, let failure) = reply.0 { throw failure }
        return reply
    }

    // MARK: what tests do again and again

    func create(_ file: StagedFile, number: Int, fileTry: Int = 1) throws {
        _ = try ask { .create(id: $0, file: number, key: file.key, fileTry: fileTry, bytes: file.plan.fileBytes) }
    }

    func write(_ file: StagedFile, number: Int) throws {
        for chunk in 0..<Sizes.chunks(ofFile: file.bytes.count) {
            let bytes = Sizes.bytes(ofChunk: chunk, fileBytes: file.bytes.count), slot = chunk % slots
            pool.zero(offset: slot * Sizes.chunkBytes, bytes: Sizes.chunkBytes)
            pool.copy(from: file.bytes[chunk * Sizes.chunkBytes..<chunk * Sizes.chunkBytes + bytes], at: slot * Sizes.chunkBytes)
            _ = try ask { .write([ChunkWrite(id: $0, file: number, chunk: chunk, bytes: bytes, source: .pool(slot: slot))]) }
        }
    }

    func publish(_ file: StagedFile, number: Int, count: Int = 1) throws {
        let manifest = file.manifest(count: count)
        _ = try ask(payload: manifest.record + BlockChecksums.encode(file.crcs)) { .publish(id: $0, file: number, manifestName: manifest.name, manifestBytes: manifest.record.count) }
    }

    func put(_ file: StagedFile, count: Int = 1) throws {
        let number = nextID + 1_000_000
        do {
            try create(file, number: number)
            try write(file, number: number)
            _ = try ask { .sync(id: $0, file: number) }
            try publish(file, number: number, count: count)
        } catch {
            try send(.abandon(file: number))                    // an error voids the file, as main does
            throw error
        }
    }

    func decide(_ save: SaveID, worldSize: Int = 1, participants: [Int]? = nil, parent: CommitSequence? = nil, ranks: [Int] = []) throws -> (TierReply, [UInt8]) {
        try ask { .decide(id: $0, run: testRun, save: save, worldSize: worldSize, participants: participants, parent: parent, ranks: ranks) }
    }

    func look(_ save: SaveID, worldSize: Int = 1, participants: [Int]? = nil, lists: Bool = true) throws -> TierReply {
        try ask { .look(id: $0, run: testRun, save: save, worldSize: worldSize, participants: participants, lists: lists) }.0
    }

    /// One rank's save, committed.
    @discardableResult
    func commit(step: Int, attempt: Int = 1, count: Int, parent: CommitSequence? = nil, seed: UInt64 = 1) throws -> StagedFile {
        let file = try StagedFile([Shard(name: "w", dtype: "U8", shape: [5000])], save: save(step, attempt: attempt), seed: seed)
        try put(file, count: count)
        guard case .decision(_, .committed) = try decide(file.key.save, parent: parent).0 else { throw TierFailure(kind: .other, text: "not committed") }
        return file
    }

    func steps(_ run: RunKey = testRun) throws -> [StepSummary] {
        guard case .steps(_, let steps) = try ask({ .list(id: $0, run: run) }).0 else { return [] }
        return steps
    }

    func ref(_ file: StagedFile, count: Int) -> StepRef {
        StepRef(run: testRun, step: file.key.save.step, sequence: CommitSequence(attempt: file.key.save.attempt, count: count), save: file.key.save)
    }

    /// The boxes' bytes, once as the stager would copy them and once as they come into a lease: both ways give the same, or fail alike.
    func load(_ ref: StepRef, _ boxes: [Box], undecided: Bool = false, segmentBytes: Int = 40 << 20) throws -> [[UInt8]] {
        let memory = try SharedMemory.create(name: "lease", bytes: segmentBytes), lease = try memory.map(writable: false)
        try send(.lease(segment: 11, bytes: segmentBytes), descriptors: [memory.descriptor])
        let read = Result { try load(ref, boxes, undecided, [LeaseSegment(segment: 11, bytes: segmentBytes)], lease) }
        try send(.release(segment: 11))
        let copied = Result { try load(ref, boxes, undecided, [3, 9].map { LeaseSegment(segment: $0, bytes: segmentBytes) }, nil) }
        switch (read, copied) {
        case (.success(let read), .success(let copied)): #expect(read == copied)
        case (.failure(let read as TierFailure), .failure(let copied as TierFailure)): #expect(read.kind == copied.kind)
        // Two segments hold what one does not.
        case (.failure(let read as TierFailure), .success): #expect(read.kind == .invalid)
        default: Issue.record("\(read) and \(copied)")
        }
        return try copied.get()
    }

    private func load(_ ref: StepRef, _ boxes: [Box], _ undecided: Bool, _ segments: [LeaseSegment], _ lease: MemoryMap?) throws -> [[UInt8]] {
        var memory = Dictionary(uniqueKeysWithValues: segments.map { ($0.segment, [UInt8](repeating: 0, count: $0.bytes)) })
        let id = nextID
        nextID += 1
        wasCopied = false
        try send(.load(id: id, ref: ref, boxes: boxes, segments: segments, undecided: undecided))
        while true {
            let (reply, payload) = try next()
            switch reply {
            case .filled(id, let slots, let copies):
                wasCopied = true
                let words = Words.unpack(payload[...]).map { Int($0) }
                #expect(words.count == copies * 4)
                for at in stride(from: 0, to: words.count, by: 4) {
                    memory[words[at + 1]]?.replaceSubrange(words[at + 2]..<words[at + 2] + words[at + 3], with: bufferMap.copyBytes(offset: words[at], count: words[at + 3]))
                }
                try send(.freeBuffers(slots: slots))
            case .loaded(id, let placed):
                var result: [[UInt8]] = []
                for piece in placed {
                    let part = if let lease, !wasCopied { lease.copyBytes(offset: piece.offset, count: piece.bytes)[...] }
                        else { (memory[piece.segment] ?? [])[piece.offset..<piece.offset + piece.bytes] }
                    if piece.begin == 0 { result.append(Array(part)) } else { result[result.count - 1] += part }
                }
                if lease != nil { wasReadIntoLease = !wasCopied }
                return result
            case .failed(id, let failure): throw failure
            default: Issue.record("\(reply)")
            }
        }
    }

    func verify(_ ref: StepRef) throws -> [VerifyProgress] {
        let id = nextID
        nextID += 1
        try send(.verify(id: id, ref: ref))
        var bad: [VerifyProgress] = [], last: VerifyProgress?
        while true {
            switch try next().0 {
            case .verifyProgress(id, let progress):
                last = progress
                if progress.badPath != nil { bad.append(progress) }
            case .done(id):
                #expect(last?.doneBytes == last?.totalBytes)
                return bad
            case .failed(id, let failure): throw failure
            case let other: Issue.record("\(other)")
            }
        }
    }
}

/// The kind of failure that a request ends in.
func failureKind(_ body: () throws -> Void) -> TierFailureKind? {
    do {
        try body()
        return nil
    } catch { return (error as? TierFailure)?.kind }
}
