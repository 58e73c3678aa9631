// A load: the plan's runs of bytes grouped into reads of whole blocks, read and checked, and reported slot by slot.
import CairnIO
import CairnMessages
import CairnModel
import CairnStore

struct Loader {
    let engine: any DataEngine
    let frames: FrameReading
    let memory: TierMemory
    let slots: BufferSlots
    let replies: Replies

    /// `filled` for each slot, its payload telling what to copy where; gives where the boxes are. What is whole blocks but for its ends is
    /// read into the lease itself: no copy, and no memory beside it.
    func load(id: Int, step: StepFiles, boxes: [Box], segments: [LeaseSegment]) throws -> [PlacedPiece] {
        let slices = try SlicePlan.make(catalog: step.catalog, boxes: boxes)
        let reader = BlockReader(engine: engine, frames: frames, map: memory.buffer, slots: slots)
        func form(_ rank: Int) throws -> (bytes: Int, isFrames: Bool) {
            let file = try step.file(rank)
            return (file.bytes, file.frames != nil)
        }
        if segments.count == 1, let lease = memory.lease(segments[0]), let plan = try DirectPlan.make(slices, segments[0], file: form) {
            do {
                try reader.read(plan.ranges, into: lease, at: plan.places, file: step.file)
                return plan.placed
            } catch let failure as TierFailure where failure.kind == .corrupt {
                // The rank may have written there meanwhile, which proves nothing of the file: it is read again where no rank can.
            }
        }
        let plan = try LoadPlan.make(slices, segments: segments)
        let ranges = try Self.ranges(plan.runs, file: form)
        memory.fill(readBacks: false)
        let members = Self.members(plan.runs, ranges)
        try reader.read(ranges, file: step.file) { index, slot, bad in
            if let bad = bad.first { throw bad.failure }
            let words = Self.copies(plan.runs, members[index], ranges[index], base: slot * Sizes.chunkBytes)
            replies.send(.filled(id: id, slots: [slot], copies: words.count / 4), payload: Words.pack(words))
            return true
        }
        return plan.placed
    }

    /// Reads that cover all runs: at most a chunk each, small gaps read along. Runs are in order of rank and offset. Of a file of frames each
    /// is one chunk, from its beginning.
    static func ranges(_ runs: [LoadRun], file: (Int) throws -> (bytes: Int, isFrames: Bool)) throws -> [BlockRange] {
        var ranges: [BlockRange] = []
        for run in runs where run.bytes > 0 {
            let (fileBytes, isFrames) = try file(run.rank)
            guard run.fileOffset + run.bytes <= fileBytes else {
                throw TierFailure(kind: .corrupt, text: "the layout of rank \(run.rank) reaches beyond its file")
            }
            var block = run.fileOffset / Sizes.blockBytes
            if isFrames { block -= block % Sizes.blocksPerChunk }
            let last = (run.fileOffset + run.bytes - 1) / Sizes.blockBytes
            while block <= last {
                if let range = ranges.last, range.rank == run.rank {
                    let end = range.firstBlock + range.blocks
                    if block < end { block = end; continue }
                    // Not beyond the end of a chunk's size from the range's first block.
                    let limit = range.firstBlock + Sizes.blocksPerChunk
                    if block - end <= TierLimits.readGapBlocks, block < limit {
                        let upTo = min(last, limit - 1)
                        ranges[ranges.count - 1].blocks = upTo - range.firstBlock + 1
                        block = upTo + 1
                        continue
                    }
                }
                let blocks = min(last - block + 1, Sizes.blocksPerChunk)
                ranges.append(BlockRange(rank: run.rank, firstBlock: block, blocks: blocks))
                block += blocks
            }
        }
        return ranges
    }

    /// For each read, which runs have bytes in it.
    static func members(_ runs: [LoadRun], _ ranges: [BlockRange]) -> [[Int]] {
        var members = Array(repeating: [Int](), count: ranges.count)
        for (index, run) in runs.enumerated() where run.bytes > 0 {
            var low = last(ranges, rank: run.rank, fileOffset: run.fileOffset)
            while low < ranges.count, ranges[low].rank == run.rank, ranges[low].fileOffset < run.fileOffset + run.bytes {
                members[low].append(index)
                low += 1
            }
        }
        return members
    }

    /// The last read that begins at or before a byte of a run holds it; reads are in the runs' order.
    static func last(_ ranges: [BlockRange], rank: Int, fileOffset: Int) -> Int {
        var low = 0, high = ranges.count - 1
        while low < high {
            let middle = (low + high + 1) / 2
            if (ranges[middle].rank, ranges[middle].fileOffset) <= (rank, fileOffset) { low = middle } else { high = middle - 1 }
        }
        return low
    }

    /// The parts of runs inside a read: offset in the buffer, segment, offset in it, bytes.
    static func copies(_ runs: [LoadRun], _ members: [Int], _ range: BlockRange, base: Int) -> [UInt64] {
        let begin = range.fileOffset, end = begin + range.blocks * Sizes.blockBytes
        var words: [UInt64] = []
        words.reserveCapacity(members.count * 4)
        for index in members {
            let run = runs[index]
            let from = max(run.fileOffset, begin), to = min(run.fileOffset + run.bytes, end)
            words += [UInt64(base + from - begin), UInt64(run.segment), UInt64(run.offset + from - run.fileOffset), UInt64(to - from)]
        }
        return words
    }
}
