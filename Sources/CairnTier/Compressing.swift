// The threads that make frames of chunks, on the tier that commits: from the pool, or the other worker's read buffer, into buffers of their
// own, while frames before are written. They are nice: training goes first, and the queue behind them is the engine's few writes in flight.
// With `auto` every chunk comes by here, also of a file that is stored plain: what a piece of it would shrink to is what its rank's next
// file is decided by.
import CairnIO
import CairnMessages
import CairnModel
import CairnStore

final class Compressing: Sendable {
    /// Its bytes stay there until its write is done.
    struct Chunk: Sendable {
        let map: MemoryMap
        let offset: Int, bytes: Int
    }
    struct Job: Sendable {
        let write: ChunkWrite
        let file: OutFile
        let opened: OutFile.Opened
        let chunk: Chunk
    }

    let isAuto: Bool
    let speed = WriteSpeed()
    private let measure = CompressionMeasure()
    private let threads: Int
    private let buffers: FrameBuffers
    private let engine: any DataEngine
    private let replies: Replies
    private let jobs = WorkQueue<Job>(capacity: TierLimits.queuedOperations)

    /// Nil: nothing is compressed.
    init?(_ start: TierStart, engine: any DataEngine, replies: Replies) throws {
        guard start.form == .committing, start.compression.method != .none else { return nil }
        isAuto = start.compression.method == .auto
        threads = max(1, start.compression.threads)
        buffers = try FrameBuffers(threads: threads)
        self.engine = engine
        self.replies = replies
        for number in 0..<threads {
            try Threads.spawn(name: "tier-zstd-\(number)", niceness: TierLimits.compressionNiceness) { [self] in
                do {
                    let compressor = try ZstdCompressor(level: TierLimits.compressionLevel), scratch = try MemoryMap(anonymous: Zstd.bound(TierLimits.sampleBytes))
                    while let job = next() { run(job, compressor, scratch) }
                } catch {
                    let failure = TierFailure(error)
                    while let job = jobs.pop() { refuse(job, failure) }
                }
            }
        }
    }

    /// A worker that has nothing to compress for a while gives its buffers' memory back.
    private func next() -> Job? {
        repeat {
            if let job = jobs.pop(timeoutMilliseconds: TierLimits.frameRestMilliseconds) { return job }
        } while !jobs.isClosed && !buffers.rest()
        return jobs.pop()
    }

    func close() {
        jobs.close()
        buffers.slots.close()
    }

    /// On the receiving thread.
    func submit(_ job: Job) {
        if isAuto { job.file.queued(job.chunk) }
        if !jobs.push(job) { refuse(job, TierFailure(kind: .other, text: "the tier's worker is ending")) }
    }

    private func refuse(_ job: Job, _ failure: TierFailure) {
        job.file.fail(failure)
        replies.send(.failed(id: job.write.id, failure))
    }

    private func ended(_ job: Job, _ failure: TierFailure?) {
        if let failure { refuse(job, failure) } else { replies.send(.done(id: job.write.id)) }
    }

    private func run(_ job: Job, _ compressor: ZstdCompressor, _ scratch: MemoryMap) {
        do {
            _ = try job.file.usable()
            let form = try job.file.form { waiting in
                guard isAuto, try !pays(job.file, waiting, compressor, scratch) else {
                    return .frames(PackedFile(plainBytes: job.file.bytes, job.opened, engine: engine, buffers: buffers, speed: speed) { [weak file = job.file] in file?.fail($0) })
                }
                return .plain
            }
            switch form {
            case .plain:
                job.file.sampled(try sample(job.chunk, compressor, scratch))
                writePlain(job)
            case .frames(let packed):
                let slot = try buffers.take(), bytes: Int, begin = Clock.monotonicNanoseconds()
                do {
                    bytes = try compressor.compress(job.chunk.map, offset: job.chunk.offset, bytes: job.chunk.bytes, to: buffers.map,
                                                    at: slot * FrameBuffers.slotBytes + FrameBuffers.frameOffset, room: Zstd.bound(job.chunk.bytes))
                } catch {
                    buffers.give(slot)
                    throw error
                }
                measure.compressed(plain: job.chunk.bytes, nanoseconds: Clock.monotonicNanoseconds() - begin)
                packed.add(job.write.chunk, slot: slot, bytes: bytes) { [self] in ended(job, $0) }
            }
        } catch { refuse(job, TierFailure(error)) }
    }

    private func writePlain(_ job: Job) {
        let bytes = DataOperation.padded(job.write.bytes, direct: job.opened.root.direct)
        speed.begin()
        engine.submit(DataOperation(
            kind: .write, file: job.opened.descriptor, path: job.opened.root.absolute(job.opened.path), map: job.chunk.map, mapOffset: job.chunk.offset,
            fileOffset: job.write.chunk * Sizes.chunkBytes, bytes: bytes, least: bytes, direct: job.opened.root.direct) { [self] failure in
                speed.end(bytes: failure == nil ? bytes : 0)
                ended(job, failure.map { TierFailure($0) })
            })
    }

    // MARK: auto

    private func pays(_ file: OutFile, _ waiting: [Chunk], _ compressor: ZstdCompressor, _ scratch: MemoryMap) throws -> Bool {
        let key = file.key
        let share: Double
        if let known = measure.share(key.run, rank: key.rank), measure.perThread != nil { share = known } else {
            let pieces = try waiting.prefix(TierLimits.samplePieces).map { try sample($0, compressor, scratch) }
            let plain = pieces.reduce(0) { $0 + $1.plain }
            share = plain > 0 ? Double(pieces.reduce(0) { $0 + $1.frames }) / Double(plain) : 1
        }
        file.expect(share: share)
        return CompressionChoice.pays(share: share, compressedPerSecond: compressedPerSecond ?? 0, writtenPerSecond: speed.bytesPerSecond)
    }

    /// A piece of the chunk's middle.
    private func sample(_ chunk: Chunk, _ compressor: ZstdCompressor, _ scratch: MemoryMap) throws -> (plain: Int, frames: Int) {
        let bytes = min(chunk.bytes, TierLimits.sampleBytes), begin = Clock.monotonicNanoseconds()
        let frame = try compressor.compress(chunk.map, offset: chunk.offset + (chunk.bytes - bytes) / 2, bytes: bytes, to: scratch, at: 0, room: scratch.bytes)
        measure.compressed(plain: bytes, nanoseconds: Clock.monotonicNanoseconds() - begin)
        return (bytes, frame)
    }

    private var compressedPerSecond: Double? { measure.perThread.map { $0 * Double(threads) } }

    /// After its publish: what the next file of this rank is decided by, and what an operator is told.
    func published(_ file: OutFile, storedBytes: Int, isCompressed: Bool) {
        speed.estimate()
        let share = isCompressed ? Double(storedBytes) / Double(max(1, file.bytes)) : file.sampledShare ?? file.expectedShare
        if isAuto, let share { measure.keep(share, file.key.run, rank: file.key.rank) }
        replies.send(.stored(CompressionReport(isCompressed: isCompressed, plainBytes: file.bytes, storedBytes: storedBytes, share: share,
                                               compressedPerSecond: compressedPerSecond, writtenPerSecond: speed.bytesPerSecond)))
    }
}
