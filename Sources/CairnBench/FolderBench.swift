// The limit of one folder: by the data engines of the tier workers, O_DIRECT through io_uring at several depths and chunk sizes, by
// threads, and through the page cache; and the small files of a commit. All in a folder of its own below, which is removed.
import CairnIO
import CairnMessages
import CairnModel
import CairnTier
import FoundationEssentials

final class FolderBench {
    private(set) var result: FolderSpeed
    private let folder: Descriptor, folderID: Int
    private let buffer: MemoryMap
    private let fileBytes: Int
    private let cleanup: Cleanup
    private var made = 0

    /// Makes its folder below `path`, which must be there, and looks what its filesystem takes.
    init(_ path: String, tier: Tier?, buffer: MemoryMap, fileBytes: Int, cleanup: Cleanup) throws {
        self.buffer = buffer; self.fileBytes = fileBytes; self.cleanup = cleanup
        let root = try Self.openRoot(path)
        (folder, folderID) = try Self.makeFolder(root, path, cleanup)
        let folder = folder
        let (space, isOnRoot, refusal) = try Self.naming(path) { () throws(IOFailure) in
            try Files.writeNew(folder, "probe", [1])
            defer { try? Files.unlink(folder, "probe") }
            return (try Files.space(root), try Files.stat(root).device == Files.stat(Files.openRoot("/")).device, try TierOpening.directRefusal(folder, "probe"))
        }
        result = FolderSpeed(path: path, tier: tier, filesystem: NodeFacts.filesystem(space.filesystemType), isOnRoot: isOnRoot, freeBytes: space.freeBytes,
                             ringRefusal: Ring.probe().map { errnoName($0.errno) }, directRefusal: refusal.map { errnoName($0.errno) })
    }

    func remove() { cleanup.remove(folderID) }

    /// A folder for a daemon's tier; its absolute path, wherever this process works.
    func makeTier() throws -> String {
        _ = try Self.naming(result.path) { () throws(IOFailure) in try Files.makeFolder(folder, "tier", mode: 0o700) }
        return try FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/fd/\(folder.raw)") + "/tier"
    }

    func add(_ save: SaveTimes) { result.saves.append(save) }
    func add(_ restore: ReadTimes) { result.restores.append(restore) }

    static func openRoot(_ path: String) throws -> Descriptor {
        do { return try Files.openRoot(path) } catch {
            throw error.isNotPermitted ? BenchError.notWritable(path: path, reason: "\(error)")
                : BenchError.folder(path: path, reason: "\(error)\(error.isMissing ? ": make it first, or mount its filesystem" : "")")
        }
    }

    /// Of a name that no daemon takes for a run or a user's folder.
    static func makeFolder(_ root: Descriptor, _ path: String, _ cleanup: Cleanup) throws -> (Descriptor, id: Int) {
        let name = ".cairn-bench-\(Entropy.hex(bytes: 6))"
        do {
            return try cleanup.made("'\(path)/\(name)'") {
                try Files.makeFolder(root, name, mode: 0o700)
                return try Files.openFolder(root, name)
            } remove: { _ in try remove(root, name) }
        } catch let error as IOFailure {
            throw error.isNoSpace ? BenchError.noSpace(path: path, needed: BenchLimits.spareBytes, available: 0) : BenchError.notWritable(path: path, reason: "\(error)")
        }
    }

    /// The thread that measures may still be making its last file in it.
    private static func remove(_ root: Descriptor, _ name: String) throws {
        for tried in 1... {
            do throws(IOFailure) { return try Files.removeTree(root, name) } catch {
                guard error.isNotEmpty, tried < BenchLimits.removeTries else { throw error }
            }
            Clock.sleep(milliseconds: BenchLimits.removeAgainMilliseconds)
        }
    }

    /// A failure of the kernel, in words that say which folder was being measured.
    static func naming<Result>(_ path: String, _ body: () throws(IOFailure) -> Result) throws -> Result {
        do throws(IOFailure) { return try body() } catch {
            throw error.isNoSpace ? BenchError.noSpace(path: path, needed: BenchLimits.spareBytes, available: 0) : BenchError.folder(path: path, reason: "\(error)")
        }
    }

    // MARK: large

    /// Every way once, each about so long; behind the deadline only the first, which is what a daemon does.
    func round(sliceSeconds: Double, deadline: Int) throws {
        var ways = BenchLimits.shapes.map { Transfer(engine: result.usualEngine, direct: result.isDirect, chunkBytes: $0.0, depth: $0.1) }
        if result.usualEngine == .ring { ways.append(Transfer(engine: .threads, direct: result.isDirect, chunkBytes: ways[0].chunkBytes, depth: ways[0].depth)) }
        if result.isDirect { ways.append(Transfer(engine: .threads, direct: false, chunkBytes: BenchLimits.bufferedBytes, depth: 1)) }
        for (index, way) in ways.enumerated() where index == 0 || Clock.monotonicNanoseconds() < deadline {
            try cleanup.goOn()
            try Self.naming(result.path) { () throws(IOFailure) in try measure(way, sliceSeconds) }
        }
    }

    /// Writes a file until the slice is over, then reads what was written.
    private func measure(_ way: Transfer, _ sliceSeconds: Double) throws(IOFailure) {
        made += 1
        let name = "data-\(made)"
        let file = try Files.open(folder, name, flags: way.direct ? [.read, .write, .create, .exclusive, .direct] : [.read, .write, .create, .exclusive])
        defer { try? Files.unlink(folder, name) }
        try Files.allocate(file, bytes: fileBytes)
        let written = try transfer(.write, file, way, most: fileBytes, sliceSeconds)
        if !way.direct { try Files.dropCache(file) }
        _ = try transfer(.read, file, way, most: written, sliceSeconds)
    }

    /// Whole chunks, `depth` in flight, and a write's sync. Bytes moved.
    private func transfer(_ operation: Transfer.Operation, _ file: Descriptor, _ way: Transfer, most: Int, _ sliceSeconds: Double) throws(IOFailure) -> Int {
        let engine = try engine(way)
        defer { engine.close() }
        struct Completed: Sendable { let slot: Int, failure: PositionedFailure? }
        let completed = WorkQueue<Completed>(capacity: way.depth)
        var free = Array(0..<way.depth), next = 0, failure: IOFailure?
        let begin = Clock.monotonicNanoseconds(), end = begin + Int(sliceSeconds * 1e9)
        while true {
            while failure == nil, next + way.chunkBytes <= most, next == 0 || Clock.monotonicNanoseconds() < end, let slot = free.popLast() {
                engine.submit(DataOperation(kind: operation == .write ? .write : .read, file: file, path: result.path, map: buffer, mapOffset: slot * way.chunkBytes,
                                            fileOffset: next, bytes: way.chunkBytes, least: way.chunkBytes, direct: way.direct) { completed.push(Completed(slot: slot, failure: $0)) })
                next += way.chunkBytes
            }
            guard free.count < way.depth else { break }
            guard let done = completed.pop(timeoutMilliseconds: BenchLimits.operationMilliseconds) else {
                throw IOFailure(operation: "\(operation.rawValue) of \(way.chunkBytes) bytes", errno: IOFailure.timedOut, path: result.path)
            }
            free.append(done.slot)
            switch done.failure {
            case nil: break
            case .failed(let why): failure = why
            case .truncated?: failure = IOFailure(operation: "read", errno: IOFailure.inputOutput, path: result.path)
            }
        }
        if let failure { throw failure }
        if operation == .write { try Files.syncData(file, result.path) }
        result.add(operation, way, bytesPerSecond: Double(next) / max(Clock.seconds(since: begin), 1e-9))
        return next
    }

    private func engine(_ way: Transfer) throws(IOFailure) -> any DataEngine {
        // A ring that breaks completes nothing more: the wait for it ends at its bound.
        do { return way.engine == .ring ? try RingEngine(depth: way.depth) { _ in } : try ThreadEngine(threads: way.depth) } catch {
            throw error as? IOFailure ?? IOFailure(operation: "start I/O", errno: IOFailure.noMemory)
        }
    }

    // MARK: small

    /// A commit's way of publishing: write and sync under a temporary name, give it its name, sync the folder.
    func smallFiles() throws {
        var published: [Double] = [], read: [Double] = []
        let bytes = [UInt8](repeating: 0x5A, count: BenchLimits.smallFileBytes), start = Clock.monotonicNanoseconds()
        while published.count < BenchLimits.smallFiles.lowerBound
            || published.count < BenchLimits.smallFiles.upperBound && Clock.seconds(since: start) < BenchLimits.smallSeconds {
            try cleanup.goOn()
            let name = "small-\(published.count)"
            try Self.naming(result.path) { () throws(IOFailure) in
                let begin = Clock.monotonicNanoseconds()
                try Files.writeNew(folder, "." + name, bytes)
                try Files.rename(folder, from: "." + name, to: name)
                try Files.syncFolder(folder, "")
                published.append(Clock.seconds(since: begin))
            }
        }
        for index in published.indices {
            try cleanup.goOn()
            let name = "small-\(index)"
            try Self.naming(result.path) { () throws(IOFailure) in
                try Files.dropCache(try Files.open(folder, name, flags: .read))
                let begin = Clock.monotonicNanoseconds()
                _ = try Files.readAll(folder, name, limit: bytes.count)
                read.append(Clock.seconds(since: begin))
                try Files.unlink(folder, name)
            }
        }
        (result.publish, result.smallRead) = (Latency(seconds: published), Latency(seconds: read))
    }
}
