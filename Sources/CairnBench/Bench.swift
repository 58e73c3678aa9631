// The course of a measurement: what fits; then of each folder limits and saves in turns, a new start of the daemon, and restores from the drive.
import CairnClient
import CairnIO
import CairnMessages
import CairnModel
import CairnWire

/// The folders to measure, and what is known of the daemon that has them.
public struct BenchTarget: Sendable {
    public var folders: [(path: String, tier: Tier?)]
    /// Of the running daemon.
    var pool: PoolFacts?
    var sessions = 0

    public init(paths: [String]) { folders = paths.map { ($0, nil) } }

    /// Of the tiers that are up.
    public init(_ status: Operations.Status.Reply) throws(BenchError) {
        folders = status.tiers.filter { $0.state == .up }.flatMap { tier in tier.paths.map { ($0.path, Tier(rawValue: tier.tier)) } }
        guard !folders.isEmpty else { throw .noTier(reason: status.tiers.compactMap(\.reason).first ?? "see `cairn status`") }
        pool = PoolFacts(status.pool)
        sessions = status.sessions.count
    }
}

public struct Bench {
    private let target: BenchTarget
    private let seconds: Int
    /// Nil: BenchLimits.usualStateBytes, or less where that does not fit.
    private let askedBytes: Int?
    private let cleanup: Cleanup
    private let progress: (String) -> Void

    /// `seconds`: about so long each folder is measured.
    public init(_ target: BenchTarget, seconds: Int, stateBytes: Int?, cleanup: Cleanup, progress: @escaping (String) -> Void) {
        self.target = target; self.seconds = seconds; askedBytes = stateBytes; self.cleanup = cleanup; self.progress = progress
    }

    public func run() throws -> Measurements {
        BenchLimits.verify()
        let node = NodeFacts.read(sessions: target.sessions), stateBytes = try fitting(node)
        progress("memory")
        let memory = try MemoryBench.measure(threads: StagerStart.threads(ofCores: node.cores))
        // As the pool is: of pages as large.
        let buffer = try SharedMemory.create(name: "cairn-bench", bytes: BenchLimits.bufferBytes).map(writable: true)
        try buffer.prefault(offset: 0, bytes: buffer.bytes)
        SaveBench.fillRandom(buffer)
        let save = try SaveBench(stateBytes: stateBytes)
        var pool = target.pool, folders: [FolderSpeed] = []
        for (path, tier) in target.folders {
            let folder = try FolderBench(path, tier: tier, buffer: buffer, fileBytes: Self.fileBytes(stateBytes), cleanup: cleanup)
            let own = try measure(folder, save, stateBytes)
            pool = pool ?? own
            folders.append(folder.result)
            folder.remove()
        }
        progress("")
        guard let pool else { preconditionFailure("no folder was measured") }
        return Measurements(node: node, memory: memory, pool: pool, stateBytes: stateBytes, wantedBytes: askedBytes ?? BenchLimits.usualStateBytes, folders: folders)
    }

    /// Gives the pool of the daemon that saved.
    private func measure(_ folder: FolderBench, _ save: SaveBench, _ stateBytes: Int) throws -> PoolFacts {
        let path = folder.result.path
        progress("\(path): small files")
        try folder.smallFiles()
        progress("\(path): starting a cairnd for it")
        let daemon = try PrivateDaemon(tier: try folder.makeTier(), poolBytes: poolBytes(stateBytes), cleanup: cleanup)
        defer { daemon.remove() }
        let pool = try daemon.start()
        try save.open(socket: daemon.socket)
        let deadline = Clock.monotonicNanoseconds() + seconds * 1_000_000_000
        // Half the time for the limits: each way writes and reads.
        let slice = Double(seconds) / 2 / Double(BenchLimits.rounds * 2 * (BenchLimits.shapes.count + 2))
        for round in 1...BenchLimits.rounds where round == 1 || Clock.monotonicNanoseconds() < deadline {
            progress("\(path): limits, \(round) of \(BenchLimits.rounds)")
            try folder.round(sliceSeconds: min(max(slice, BenchLimits.sliceSeconds.lowerBound), BenchLimits.sliceSeconds.upperBound), deadline: deadline)
            try cleanup.goOn()
            progress("\(path): save and restore, \(round) of \(BenchLimits.rounds)")
            folder.add(try save.save(step: round))
            folder.add(try save.restore(expecting: .memory))
        }
        // Its memory is empty after a new start: what is read then comes from the drive.
        progress("\(path): restore after a new start")
        save.close()
        daemon.stop()
        try daemon.start()
        try save.open(socket: daemon.socket)
        for _ in 0..<BenchLimits.tierRestores {
            try cleanup.goOn()
            folder.add(try save.restore(expecting: .local))
        }
        save.close()
        return pool
    }

    // MARK: what fits

    private static func fileBytes(_ stateBytes: Int) -> Int { min(max(stateBytes, BenchLimits.bufferBytes), BenchLimits.fileBytes) }

    /// The one that the node's daemon has, if it is smaller than the state: what that costs is to be seen. Else two chunks more, for the file's header.
    private func poolBytes(_ stateBytes: Int) -> Int {
        let whole = (Sizes.chunks(ofFile: stateBytes) + 2) * Sizes.chunkBytes
        return max(BenchLimits.leastPoolBytes, min(whole, target.pool?.bytes ?? whole))
    }

    /// The state that was asked for, or else the largest up to the usual one that memory and every folder have room for.
    private func fitting(_ node: NodeFacts) throws -> Int {
        let memory = node.availableMemoryBytes / BenchLimits.memoryShare
        func memoryFor(_ bytes: Int) -> Int { bytes + poolBytes(bytes) + BenchLimits.spareBytes }
        let room = try target.folders.map { folder in
            let root = try FolderBench.openRoot(folder.path)
            return (path: folder.path, freeBytes: try FolderBench.naming(folder.path) { () throws(IOFailure) in try Files.space(root).freeBytes })
        }
        // Each round's save stays until the end.
        func needed(_ bytes: Int) -> Int { BenchLimits.rounds * bytes + Self.fileBytes(bytes) + BenchLimits.spareBytes }
        var bytes = (askedBytes ?? BenchLimits.usualStateBytes) / BenchLimits.rowBytes * BenchLimits.rowBytes
        if askedBytes == nil {
            while bytes / 2 >= BenchLimits.leastStateBytes, memoryFor(bytes) > memory || room.contains(where: { needed(bytes) > $0.freeBytes }) { bytes /= 2 }
        }
        for (path, free) in room where needed(bytes) > free { throw BenchError.noSpace(path: path, needed: needed(bytes), available: free) }
        guard memoryFor(bytes) <= memory else { throw BenchError.noMemory(needed: memoryFor(bytes), available: memory) }
        return bytes
    }
}
