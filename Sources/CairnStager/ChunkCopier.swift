// Copies one phase of one chunk: block by block, so that a block's checksum is computed while its bytes are in the cache.
// A block with eager, lazy and streamed bytes gets its checksum in the phase that brings its last byte.
// Where a save is verified, its lazy bytes are read once before (`sums`), and are compared when they are copied: what the pool then holds
// is what stood there at the save's begin, or the save fails.
import CairnIO
import CairnMessages
import CairnModel

enum ChunkCopier {
    /// Gives the work's checksums, completed as far as this phase goes. `progress` is called after each block.
    static func copy(_ work: ChunkWork, into map: MemoryMap, at slotOffset: Int, pool: PoolMemory, progress: () -> Void) throws(StageFailure) -> [UInt32?] {
        let plan = work.plan, chunkBegin = work.chunk * Sizes.chunkBytes
        let chunkEnd = chunkBegin + Sizes.bytes(ofChunk: work.chunk, fileBytes: plan.fileBytes)
        var checksums = work.checksums
        precondition(checksums.count == Sizes.blocks(ofFile: chunkEnd - chunkBegin), "\(checksums.count) checksums of a chunk")
        var number = plan.partNumber(at: chunkBegin)
        var gather = Gather(plan: plan, map: map)
        var sums = work.sums[...]
        for block in checksums.indices {
            let begin = chunkBegin + block * Sizes.blockBytes, end = min(begin + Sizes.blockBytes, chunkEnd)
            if plan.isStopped { throw .cancelled }
            var isWhole = true, lazy: [Range<Int>] = []
            try forEachPiece(plan, from: begin, to: end, &number) { (part, piece) throws(StageFailure) in
                if part.phase == work.phase {
                    let target = slotOffset + piece.lowerBound - chunkBegin
                    if let address = part.address, part.source == StageExtent.pool {
                        try copy(from: pool, Int(address) + piece.lowerBound - part.begin, piece.count, into: map, at: target)
                    } else if let address = part.address {
                        try gather.add(address &+ UInt64(piece.lowerBound - part.begin), piece.count, to: target, source: part.source)
                    } else {
                        map.copy(from: plan.header[piece], at: target)
                    }
                    if part.phase == .lazy, plan.verifies { lazy.append(piece) }
                } else if part.phase.rawValue > work.phase.rawValue { isWhole = false }
            }
            try gather.flush()
            if isWhole && checksums[block] == nil {
                checksums[block] = map.crc32c(offset: slotOffset + begin - chunkBegin, bytes: end - begin)
            }
            for piece in lazy {
                let found = piece == begin..<end ? checksums[block] : map.crc32c(offset: slotOffset + piece.lowerBound - chunkBegin, bytes: piece.count)
                guard found == sums.popFirst() else { throw .changed(fileOffset: piece.lowerBound) }
            }
            progress()
        }
        if work.isLast { zeroTail(work, map, slotOffset) }
        if plan.isOfRank(work.chunk), plan.session.isGone { throw .gone }
        return checksums
    }

    /// O_DIRECT writes whole 4 KiB: what lies behind the file's end must not be another save's bytes.
    private static func zeroTail(_ work: ChunkWork, _ map: MemoryMap, _ slotOffset: Int) {
        let begin = work.chunk * Sizes.chunkBytes, bytes = Sizes.bytes(ofChunk: work.chunk, fileBytes: work.plan.fileBytes)
        guard begin + bytes == work.plan.fileBytes else { return }
        let end = (bytes + Sizes.alignment - 1) / Sizes.alignment * Sizes.alignment
        map.zero(offset: slotOffset + bytes, bytes: end - bytes)
    }

    /// A portion of a chunk's streamed bytes; all other phases of the chunk, and the portions before it, are done. A checksum is of the pool's
    /// bytes, for the rank may still write its lease.
    static func copy(_ portion: Portion, _ work: ChunkWork, into map: MemoryMap, at slotOffset: Int, progress: () -> Void) throws(StageFailure) -> [UInt32?] {
        let plan = work.plan, chunkBegin = work.chunk * Sizes.chunkBytes
        let chunkEnd = chunkBegin + Sizes.bytes(ofChunk: work.chunk, fileBytes: plan.fileBytes), streamedEnd = plan.streamedEnd(work.chunk)
        var checksums = work.checksums, at = portion.begin
        while at < portion.end {
            if plan.isStopped { throw .cancelled }
            let block = (at - chunkBegin) / Sizes.blockBytes, begin = chunkBegin + block * Sizes.blockBytes
            let end = min(begin + Sizes.blockBytes, chunkEnd), count = min(end, portion.end) - at
            map.copy(from: portion.lease, at: portion.offset + at - portion.begin, to: slotOffset + at - chunkBegin, bytes: count)
            at += count
            if at == end { checksums[block] = map.crc32c(offset: slotOffset + begin - chunkBegin, bytes: end - begin) }
            progress()
        }
        guard portion.end == streamedEnd else { return checksums }
        // Blocks whose streamed bytes do not reach their end, that portions ended in, or that lie before them.
        for block in checksums.indices where checksums[block] == nil {
            let begin = block * Sizes.blockBytes, end = min(begin + Sizes.blockBytes, chunkEnd - chunkBegin)
            checksums[block] = map.crc32c(offset: slotOffset + begin, bytes: end - begin)
        }
        zeroTail(work, map, slotOffset)
        return checksums
    }

    /// What a held save staged, checked before it was sealed.
    private static func copy(from pool: PoolMemory, _ offset: Int, _ bytes: Int, into map: MemoryMap, at target: Int) throws(StageFailure) {
        guard let ranges = pool.ranges(offset, bytes) else { throw .failed(.other, "\(bytes) bytes at \(offset) are not in the pool") }
        var target = target
        for range in ranges {
            map.copy(from: range.map, at: range.offset, to: target, bytes: range.bytes)
            target += range.bytes
        }
    }

    /// CRC32C of each lazy piece of a chunk, cut where blocks end, in the order in which `copy` meets them. `scratch` has room for a block.
    static func sums(_ work: ChunkWork, scratch: MemoryMap, progress: () -> Void) throws(StageFailure) -> [UInt32?] {
        let plan = work.plan, chunkBegin = work.chunk * Sizes.chunkBytes
        let chunkEnd = chunkBegin + Sizes.bytes(ofChunk: work.chunk, fileBytes: plan.fileBytes)
        var number = plan.partNumber(at: chunkBegin)
        var gather = Gather(plan: plan, map: scratch)
        var sums: [UInt32?] = []
        for begin in stride(from: chunkBegin, to: chunkEnd, by: Sizes.blockBytes) {
            if plan.isStopped { throw .cancelled }
            var lazy: [Range<Int>] = []
            try forEachPiece(plan, from: begin, to: min(begin + Sizes.blockBytes, chunkEnd), &number) { (part, piece) throws(StageFailure) in
                guard part.phase == .lazy, let address = part.address else { return }
                try gather.add(address &+ UInt64(piece.lowerBound - part.begin), piece.count, to: piece.lowerBound - begin, source: part.source)
                lazy.append(piece)
            }
            try gather.flush()
            for piece in lazy { sums.append(scratch.crc32c(offset: piece.lowerBound - begin, bytes: piece.count)) }
            progress()
        }
        if plan.session.isGone { throw .gone }
        return sums
    }

    /// The parts that make up a block, with the file's bytes of each that lie in it. `number`: the first part to look at; the next block's after it.
    private static func forEachPiece(_ plan: StagePlan, from begin: Int, to end: Int, _ number: inout Int,
                                     _ body: (StagePlan.Part, Range<Int>) throws(StageFailure) -> Void) throws(StageFailure) {
        while true {
            let part = plan.part(number)
            let from = max(part.begin, begin), to = min(part.end, end)
            if from < to { try body(part, from..<to) }
            if part.end > end || number + 1 == plan.partCount { return }
            number += 1
            if plan.part(number).begin >= end { return }
        }
    }

    /// Pieces of one source whose targets lie back to back: one read for many small tensors.
    private struct Gather {
        let plan: StagePlan, map: MemoryMap
        var source: Int?
        var pieces: [(address: UInt64, bytes: Int)] = []
        var begin = 0, end = 0

        init(plan: StagePlan, map: MemoryMap) { self.plan = plan; self.map = map }

        mutating func add(_ address: UInt64, _ bytes: Int, to target: Int, source: Int?) throws(StageFailure) {
            if source != self.source || target != end || pieces.count == IOLimits.gatheredPieces { try flush() }
            if pieces.isEmpty { begin = target; end = target; self.source = source }
            pieces.append((address, bytes))
            end += bytes
        }

        mutating func flush() throws(StageFailure) {
            guard !pieces.isEmpty else { return }
            if let source { try read(source) } else {
                do { try plan.session.read(pieces, into: map, at: begin) } catch { throw StageFailure(error) }
            }
            pieces.removeAll(keepingCapacity: true)
        }

        private func read(_ source: Int) throws(StageFailure) {
            guard let memory = plan.memory(ofSource: source) else { preconditionFailure("a plan whose sources were not looked for") }
            var target = begin
            for piece in pieces {
                do { try memory.read(Int(piece.address), piece.bytes, into: map, at: target) } catch { throw .failed(.other, "\(error)") }
                target += piece.bytes
            }
        }
    }
}
