// Chunks of files that are stored as frames: read, decompressed into where the reader wants them, a few at once.
// (1) A frame is read into a buffer of its thread's own: no reader waits for another one's buffers. A tier without frames has neither.
// (2) What a frame says of itself is compared with what the manifest says before a byte of it is decompressed (SeekTable, Zstd).
import CairnIO
import CairnMessages
import CairnModel
import CairnStore

/// Why a chunk could not be had.
enum ChunkFailure: Sendable, CustomStringConvertible {
    case read(PositionedFailure)
    case frame(String)

    var description: String {
        switch self {
        case .read(let failure): "\(failure)"
        case .frame(let reason): reason
        }
    }
}

extension SeekTable {
    /// The table at a file's end; one that is none is damage to that file.
    static func read(_ root: TierRoot, _ path: String, plainBytes: Int, fileBytes: Int) throws -> SeekTable {
        let count = min(fileBytes, bytes(plainBytes: plainBytes))
        let bytes = try root.reading(path) { () throws(IOFailure) in
            try PositionedIO.read(try Files.open(root.folder, path, flags: .read), bytes: count, fileOffset: fileBytes - count, path: path)
        }
        do { return try decode(bytes, plainBytes: plainBytes, fileBytes: fileBytes) } catch { throw TierFailure.corrupt(root.absolute(path), error) }
    }

    /// The one that the manifest names; nil where the file is plain.
    static func read(_ root: TierRoot, _ path: String, _ manifest: Manifest) throws -> SeekTable? {
        guard manifest.isCompressed else { return nil }
        let table = try read(root, path, plainBytes: manifest.fileBytes, fileBytes: manifest.storedBytes)
        guard manifest.matches(seekTable: table.encode(plainBytes: manifest.fileBytes)) else {
            throw TierFailure.corrupt(root.absolute(path), RecordError.inconsistent(reason: "its seek table is not the one that the manifest names"))
        }
        return table
    }
}

/// One thread's.
final class FrameUnpacker {
    private let decompressor: ZstdDecompressor
    private let buffer: MemoryMap

    init() throws {
        decompressor = try ZstdDecompressor()
        // A frame begins and ends anywhere, and O_DIRECT reads whole blocks.
        buffer = try MemoryMap(anonymous: DataOperation.padded(Zstd.bound(Sizes.chunkBytes), direct: true) + 2 * Sizes.alignment)
    }

    func read(_ file: Descriptor, _ path: String, _ frame: Range<Int>, direct: Bool, to map: MemoryMap, at offset: Int, content: Int) -> ChunkFailure? {
        let begin = direct ? frame.lowerBound / Sizes.alignment * Sizes.alignment : frame.lowerBound
        let least = frame.upperBound - begin
        do throws(PositionedFailure) {
            let got = try PositionedIO.readUpTo(file, buffer, mapOffset: 0, bytes: DataOperation.padded(least, direct: direct), fileOffset: begin, path: path)
            guard got >= least else { return .frame("the file ends at byte \(begin + got), within a frame") }
        } catch { return .read(error) }
        do {
            try decompressor.decompress(buffer, offset: frame.lowerBound - begin, bytes: frame.count, to: map, at: offset, content: content)
            return nil
        } catch { return .frame("\(error)") }
    }
}

final class FrameReading: Sendable {
    private struct Task: Sendable {
        let file: RankFile
        let frame: Range<Int>
        let map: MemoryMap
        let offset: Int, content: Int
        let done: @Sendable (ChunkFailure?) -> Void
    }
    private let tasks = WorkQueue<Task>(capacity: TierLimits.queuedOperations)

    private let isRunning = Monitor(false)

    /// With the first frame: most tiers have none.
    private func start() throws(IOFailure) {
        try isRunning.withLock { (isRunning) throws(IOFailure) in
            guard !isRunning else { return }
            for number in 0..<TierLimits.frameThreads { try Threads.spawn(name: "tier-frame-\(number)") { [self] in run() } }
            isRunning = true
        }
    }

    private func run() {
        var unpacker: FrameUnpacker?
        while true {
            var next = unpacker == nil ? nil : tasks.pop(timeoutMilliseconds: TierLimits.frameRestMilliseconds)
            if next == nil {
                unpacker = nil
                next = tasks.pop()
            }
            guard let task = next else { return }
            do {
                let made = try unpacker ?? FrameUnpacker()
                unpacker = made
                let file = task.file
                task.done(made.read(file.descriptor, file.path, task.frame, direct: file.direct, to: task.map, at: task.offset, content: task.content))
            } catch { task.done(.frame("\(error)")) }
        }
    }

    /// The whole chunk, to `offset` in the map.
    func read(_ file: RankFile, _ frames: SeekTable, chunk: Int, to map: MemoryMap, at offset: Int, done: @escaping @Sendable (ChunkFailure?) -> Void) {
        do throws(IOFailure) { try start() } catch { return done(.read(.failed(error))) }
        let task = Task(file: file, frame: frames.frame(chunk), map: map, offset: offset, content: Sizes.bytes(ofChunk: chunk, fileBytes: file.bytes), done: done)
        if !tasks.push(task) { done(.read(.failed(IOFailure(operation: "queue", errno: IOFailure.cancelled, path: file.path)))) }
    }

    func close() { tasks.close() }
}

/// A rank's data file for its header and other small parts, which are read into arrays.
struct SmallReads {
    let file: Descriptor
    let path: String
    /// Of the plain file.
    let bytes: Int
    let frames: SeekTable?

    /// `data`: the plain file's name; the manifest says how it is stored.
    init(_ root: TierRoot, _ data: String, _ manifest: Manifest) throws {
        let name = manifest.isCompressed ? Names.compressed(data) : data
        do { file = try Files.open(root.folder, name, flags: .read) } catch {
            throw error.isOfThisFile ? TierFailure.corrupt(root.absolute(name), error) : TierFailure(error)
        }
        path = root.absolute(name)
        let size = try Files.stat(file).bytes
        guard size == manifest.storedBytes else {
            throw TierFailure(kind: .corrupt, text: "'\(path)' has \(size) bytes, not \(manifest.storedBytes)", path: path)
        }
        frames = try SeekTable.read(root, name, manifest)
        bytes = manifest.fileBytes
    }

    /// Shorter where the file ends.
    func read(_ count: Int, at offset: Int) throws -> [UInt8] {
        guard let frames else { return try PositionedIO.read(file, bytes: count, fileOffset: offset, path: path) }
        var found: [UInt8] = []
        while found.count < count, offset + found.count < bytes {
            let at = offset + found.count, chunk = at / Sizes.chunkBytes, skipped = at - chunk * Sizes.chunkBytes
            let part = min(count - found.count, Sizes.bytes(ofChunk: chunk, fileBytes: bytes) - skipped)
            let content = try beginning(frames.frame(chunk), skipped + part)
            guard content.count == skipped + part else { throw TierFailure(kind: .corrupt, text: "'\(path)': frame \(chunk) ends early", path: path, block: chunk * Sizes.blocksPerChunk) }
            found += content[skipped...]
        }
        return found
    }

    /// What stands as a file of its own beside this one: its bytes here, the blocks that hold them checked.
    func content(of file: Manifest.File, crcs: [UInt32]) throws -> [UInt8] {
        guard file.bytes > 0 else { return [] }
        let first = file.offset / Sizes.blockBytes, end = (file.offset + file.bytes + Sizes.blockBytes - 1) / Sizes.blockBytes, begin = first * Sizes.blockBytes
        let found = try read(min(end * Sizes.blockBytes, bytes) - begin, at: begin)
        for block in first..<end {
            let part = found[min(found.count, block * Sizes.blockBytes - begin)..<min(found.count, (block + 1) * Sizes.blockBytes - begin)]
            guard Checksum.crc32c(Array(part)) == crcs[block] else {
                throw BadBlock(path: path, block: block, reason: "its CRC32C is not what it was when staged").failure
            }
        }
        return Array(found[(file.offset - begin)..<(file.offset - begin + file.bytes)])
    }

    private func beginning(_ frame: Range<Int>, _ count: Int) throws -> [UInt8] {
        var at = frame.lowerBound
        do {
            return try ZstdDecompressor().beginning(count) {
                let piece = try PositionedIO.read(file, bytes: min(TierLimits.framePieceBytes, frame.upperBound - at), fileOffset: at, path: path)
                at += piece.count
                return piece
            }
        } catch let failure as ZstdFailure { throw TierFailure.corrupt(path, failure) }
    }
}
