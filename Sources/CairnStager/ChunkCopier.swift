// Copies one phase of one chunk: block by block, so that a block's checksum is computed while its bytes are in the cache.
// A block with eager and lazy bytes gets its checksum in the phase that brings its last byte.
import CairnIO
import CairnMessages
import CairnModel

enum ChunkCopier {
    /// Gives the work's checksums, completed as far as this phase goes. `progress` is called after each block.
    static func copy(_ work: ChunkWork, into map: MemoryMap, at slotOffset: Int, progress: () -> Void) throws(StageFailure) -> [UInt32?] {
        let plan = work.plan, chunkBegin = work.chunk * Sizes.chunkBytes
        let chunkEnd = chunkBegin + Sizes.bytes(ofChunk: work.chunk, fileBytes: plan.fileBytes)
        var checksums = work.checksums
        precondition(checksums.count == Sizes.blocks(ofFile: chunkEnd - chunkBegin), "\(checksums.count) checksums of a chunk")
        var number = plan.partNumber(at: chunkBegin)
        var gather = Gather(session: plan.session, map: map)
        for block in checksums.indices {
            let begin = chunkBegin + block * Sizes.blockBytes, end = min(begin + Sizes.blockBytes, chunkEnd)
            if plan.isStopped { throw .cancelled }
            var isWhole = true
            while true {
                let part = plan.part(number)
                let from = max(part.begin, begin), to = min(part.end, end)
                if from < to {
                    if part.eager == (work.phase == .eager) {
                        let target = slotOffset + from - chunkBegin
                        if let address = part.address {
                            try gather.add(address &+ UInt64(from - part.begin), to - from, to: target)
                        } else {
                            map.copy(from: plan.header[from..<to], at: target)
                        }
                    } else if work.phase == .eager { isWhole = false }
                }
                if part.end > end || number + 1 == plan.partCount { break }
                number += 1
                if plan.part(number).begin >= end { break }
            }
            try gather.flush()
            if isWhole && checksums[block] == nil {
                checksums[block] = map.crc32c(offset: slotOffset + begin - chunkBegin, bytes: end - begin)
            }
            progress()
        }
        if work.isLast && chunkEnd == plan.fileBytes {
            // O_DIRECT writes whole 4 KiB: what lies behind the file's end must not be another save's bytes.
            let end = (chunkEnd + Sizes.alignment - 1) / Sizes.alignment * Sizes.alignment
            map.zero(offset: slotOffset + chunkEnd - chunkBegin, bytes: end - chunkEnd)
        }
        if plan.session.isGone { throw .gone }
        return checksums
    }

    /// Pieces whose targets lie back to back: one read for many small tensors.
    private struct Gather {
        let session: Session, map: MemoryMap
        var pieces: [(address: UInt64, bytes: Int)] = []
        var begin = 0, end = 0

        mutating func add(_ address: UInt64, _ bytes: Int, to target: Int) throws(StageFailure) {
            if target != end || pieces.count == IOLimits.gatheredPieces { try flush() }
            if pieces.isEmpty { begin = target; end = target }
            pieces.append((address, bytes))
            end += bytes
        }

        mutating func flush() throws(StageFailure) {
            guard !pieces.isEmpty else { return }
            do { try session.read(pieces, into: map, at: begin) } catch { throw StageFailure(error) }
            pieces.removeAll(keepingCapacity: true)
        }
    }
}
