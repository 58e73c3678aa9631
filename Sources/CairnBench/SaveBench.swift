// What Cairn reaches: a rank's session that saves a state out of its own memory as training does, times each level, and loads it back.
import CairnClient
import CairnIO
import CairnModel
import CairnWire

final class SaveBench {
    private static let run = "bench"
    private let state: MemoryMap
    private let checksum: UInt32
    private var session: RankSession?
    private var layout = ""
    private var restores = 0

    /// The state is random, so that nothing below makes it smaller.
    init(stateBytes: Int) throws {
        state = try MemoryMap(anonymous: stateBytes)
        state.adviseHugePages()
        Self.fillRandom(state)
        checksum = state.crc32c(offset: 0, bytes: stateBytes)
    }

    /// One block of random bytes, turned a little further each time.
    static func fillRandom(_ map: MemoryMap) {
        var generator = SystemRandomNumberGenerator()
        let blockBytes = 4 << 20
        var block: [UInt8] = []
        block.reserveCapacity(blockBytes)
        while block.count < blockBytes { withUnsafeBytes(of: generator.next()) { block.append(contentsOf: $0) } }
        var at = 0, turn = 0
        while at < map.bytes {
            for part in [block[turn...], block[..<turn]] {
                let count = min(part.count, map.bytes - at)
                map.copy(from: part.prefix(count), at: at)
                at += count
            }
            turn = (turn + 4096 + 64) % blockBytes
        }
    }

    func open(socket: String) throws {
        let session = try RankSession(socket: socket, run: Self.run, timeoutMilliseconds: BenchLimits.callMilliseconds)
        layout = try session.register(stride(from: 0, to: state.bytes, by: BenchLimits.tensorBytes).map { begin in
            let bytes = min(BenchLimits.tensorBytes, state.bytes - begin)
            return Checkpoint.Shard(name: Self.name(begin), dtype: "U8", shape: [bytes / BenchLimits.rowBytes, BenchLimits.rowBytes],
                                    eager: false, source: .init(memory: [Extent(address: state.address(of: begin), bytes: bytes)]))
        })
        self.session = session
        restores = 0
    }

    func close() {
        // The daemon may be gone, and it ends the session as well when this process ends.
        try? session?.close()
        session = nil
    }

    /// All tensors are lazy: the call comes back at once, as in training.
    func save(step: Int) throws -> SaveTimes {
        guard let session else { preconditionFailure("open comes first") }
        let begin = Clock.monotonicNanoseconds()
        let save = try session.save(step: step, layout: layout)
        let accepted = Clock.seconds(since: begin)
        let reached = try [Level.staged, .local, .committed].map { level in
            try session.wait(save, level, timeoutMilliseconds: BenchLimits.saveMilliseconds)
            return Clock.seconds(since: begin)
        }
        return SaveTimes(acceptedSeconds: accepted, stagedSeconds: reached[0], localSeconds: reached[1], committedSeconds: reached[2])
    }

    /// The newest step into the state's own memory, which is emptied first; what comes back must be what was saved.
    func restore(expecting tier: Tier) throws -> ReadTimes {
        guard let session else { preconditionFailure("open comes first") }
        let connection = session.connection
        if tier != .memory {
            let step = try connection.call(Operations.Path.self, .init(run: Self.run), timeoutMilliseconds: BenchLimits.callMilliseconds)
            try FolderBench.naming(step.path) { () throws(IOFailure) in
                try Files.dropCache(try Files.open(try Files.openRoot(step.path), "rank-00000.safetensors", flags: .read))
            }
        }
        restores += 1
        let chosen = try connection.call(Checkpoint.Choose.self, .init(restore: restores, timeoutMs: BenchLimits.callMilliseconds),
                                         timeoutMilliseconds: 2 * BenchLimits.callMilliseconds)
        state.zero(offset: 0, bytes: state.bytes)
        let wanted = tier == .memory ? BenchLimits.memoryLeases : BenchLimits.tierLeases, bytes = min(wanted.bytes, state.bytes)
        let leases = try (0..<min(wanted.count, (state.bytes + bytes - 1) / bytes)).map { _ in try session.lease(bytes: bytes) }
        let begin = Clock.monotonicNanoseconds()
        let from = try load(chosen, leases, partBytes: bytes, session)
        let seconds = Clock.seconds(since: begin)
        for lease in leases { try session.release(lease) }
        let ok = state.crc32c(offset: 0, bytes: state.bytes) == checksum
        _ = try connection.call(Checkpoint.Settle.self, .init(restore: restores, ok: ok), timeoutMilliseconds: BenchLimits.callMilliseconds)
        guard ok else { throw BenchError.wrongBytes(tier: from.rawValue) }
        return ReadTimes(tier: from, seconds: seconds)
    }

    private static func name(_ begin: Int) -> String { "tensor-\(begin / BenchLimits.tensorBytes)" }

    /// While one lease is emptied the daemon fills the next. The farthest tier that something came from.
    private func load(_ chosen: Checkpoint.Choose.Reply, _ leases: [RankSession.Lease], partBytes: Int, _ session: RankSession) throws -> Tier {
        var asked: [(begin: Int, lease: RankSession.Lease)] = [], free = leases, tier = Tier.memory
        func take() throws {
            let (begin, lease) = asked.removeFirst()
            let reply = try session.connection.next(Checkpoint.Load.self, timeoutMilliseconds: BenchLimits.loadMilliseconds)
            if let from = Tier(rawValue: reply.tier), from != .memory { tier = from }
            for piece in reply.placed { state.copy(from: lease.map, at: piece.offset, to: begin + piece.begin, bytes: piece.bytes) }
            free.append(lease)
        }
        for begin in stride(from: 0, to: state.bytes, by: partBytes) {
            if free.isEmpty { try take() }
            let lease = free.removeFirst(), row = begin % BenchLimits.tensorBytes / BenchLimits.rowBytes
            let box = Box(name: Self.name(begin), offsets: [row, 0], shape: [min(partBytes, state.bytes - begin) / BenchLimits.rowBytes, BenchLimits.rowBytes])
            try session.connection.begin(Checkpoint.Load.self, .init(step: chosen.step, sequence: chosen.sequence, boxes: [box], segments: [lease.segment]))
            asked.append((begin, lease))
        }
        while !asked.isEmpty { try take() }
        return tier
    }
}
