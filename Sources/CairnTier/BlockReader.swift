// Reads ranges of blocks into slots or a lease, several in flight, and checks every block's CRC32C before the caller sees it (I7).
import CairnIO
import CairnMessages
import CairnModel

/// At most one chunk of one rank's file, whole blocks.
struct BlockRange: Sendable {
    let rank: Int
    let firstBlock: Int
    var blocks: Int
    var fileOffset: Int { firstBlock * Sizes.blockBytes }
    func bytes(in file: RankFile) -> Int { min(blocks * Sizes.blockBytes, file.bytes - fileOffset) }
}

struct BadBlock: Sendable {
    let path: String, block: Int, reason: String
    init(path: String, block: Int, reason: String) {
        self.path = path
        self.block = block
        self.reason = reason
    }

    /// A file that cannot be read at all; `path` is below the root, where the failure does not name another.
    init(file root: TierRoot, _ path: String, _ failure: TierFailure) {
        let named = failure.path ?? path
        self.init(path: named.hasPrefix("/") ? named : root.absolute(named), block: failure.block ?? -1, reason: failure.text)
    }

    var failure: TierFailure { TierFailure(kind: .corrupt, text: "'\(path)' block \(block): \(reason)", path: path, block: block) }
}

struct BlockReader {
    /// `place`: the offset in the map.
    private struct Completed: Sendable { let range: Int, place: Int, failure: ChunkFailure? }

    let engine: any DataEngine
    let frames: FrameReading
    let map: MemoryMap
    let slots: BufferSlots

    /// Ranges of a file that is stored as frames begin with a chunk. `handle` gets each range (its position) with its slot and what is wrong with
    /// it, in the order in which reads complete; true if it keeps the slot. When it throws, the reads under way are waited for, since the kernel still writes into their slots.
    func read(_ ranges: [BlockRange], file: (Int) throws -> RankFile,
              handle: (_ range: Int, _ slot: Int, [BadBlock]) throws -> Bool) throws {
        let completed = WorkQueue<Completed>(capacity: slots.count + 1)
        var next = 0, outstanding = 0
        do {
            while next < ranges.count || outstanding > 0 {
                // Wait for a slot only when nothing of our own can free one.
                while next < ranges.count, let slot = outstanding == 0 ? slots.take(timeoutMilliseconds: TierLimits.slotWaitMilliseconds) : slots.tryTake() {
                    do { try submit(ranges[next], index: next, to: map, at: slot * Sizes.chunkBytes, file(ranges[next].rank), completed) } catch {
                        slots.give([slot])
                        throw error
                    }
                    next += 1
                    outstanding += 1
                }
                guard outstanding > 0 else {
                    throw TierFailure(kind: .other, text: "no slot of the read buffer came free in \(TierLimits.slotWaitMilliseconds / 1000) s")
                }
                guard let done = completed.pop() else { break }
                outstanding -= 1
                let slot = done.place / Sizes.chunkBytes
                var kept = false
                defer { if !kept { slots.give([slot]) } }
                let range = ranges[done.range], file = try file(range.rank)
                kept = try handle(done.range, slot, try check(range, file, done, map))
            }
        } catch {
            while outstanding > 0, let done = completed.pop() {
                outstanding -= 1
                slots.give([done.place / Sizes.chunkBytes])
            }
            throw error
        }
    }

    /// Each range to its place in a lease, all at once. What is wrong with one is thrown when the last read has ended.
    func read(_ ranges: [BlockRange], into lease: MemoryMap, at places: [Int], file: (Int) throws -> RankFile) throws {
        let completed = WorkQueue<Completed>(capacity: ranges.count)
        var outstanding = 0, failure: (any Error)?
        do {
            for (index, range) in ranges.enumerated() {
                submit(range, index: index, to: lease, at: places[index], try file(range.rank), completed)
                outstanding += 1
            }
        } catch { failure = error }
        while outstanding > 0, let done = completed.pop() {
            outstanding -= 1
            guard failure == nil else { continue }
            do {
                let range = ranges[done.range]
                if let bad = try check(range, file(range.rank), done, lease).first { throw bad.failure }
            } catch { failure = error }
        }
        if let failure { throw failure }
    }

    private func submit(_ range: BlockRange, index: Int, to map: MemoryMap, at place: Int, _ file: RankFile, _ completed: WorkQueue<Completed>) {
        if let table = file.frames {
            precondition(range.firstBlock.isMultiple(of: Sizes.blocksPerChunk), "a range within a frame")
            return frames.read(file, table, chunk: range.firstBlock / Sizes.blocksPerChunk, to: map, at: place) {
                completed.push(Completed(range: index, place: place, failure: $0))
            }
        }
        let least = range.bytes(in: file)
        engine.submit(DataOperation(kind: .read, file: file.descriptor, path: file.path, map: map, mapOffset: place,
                                    fileOffset: range.fileOffset, bytes: DataOperation.padded(least, direct: file.direct), least: least,
                                    direct: file.direct) { completed.push(Completed(range: index, place: place, failure: $0.map { .read($0) })) })
    }

    private func check(_ range: BlockRange, _ file: RankFile, _ done: Completed, _ map: MemoryMap) throws -> [BadBlock] {
        switch done.failure {
        case nil: break
        case .frame(let reason)?: return [BadBlock(path: file.path, block: range.firstBlock, reason: reason)]
        case .read(.truncated(_, let offset))?: return [BadBlock(path: file.path, block: offset / Sizes.blockBytes, reason: "the file ends at byte \(offset)")]
        case .read(.failed(let failure))?:
            // A medium that cannot read a block says EIO: for the reader it is a bad block like any other.
            guard failure.errno == IOFailure.inputOutput else { throw failure }
            return [BadBlock(path: file.path, block: range.firstBlock, reason: "\(failure)")]
        }
        var bad: [BadBlock] = []
        for block in range.firstBlock..<range.firstBlock + range.blocks {
            let offset = done.place + (block - range.firstBlock) * Sizes.blockBytes
            let crc = map.crc32c(offset: offset, bytes: file.bytes(ofBlock: block))
            if crc != file.crcs[block] { bad.append(BadBlock(path: file.path, block: block, reason: "its CRC32C is not what it was when staged")) }
        }
        return bad
    }
}
