// A load: boxes packed into a rank's lease segments, and every run of bytes with its place there. The same plan serves a
// restore from memory, from the local and from the global tier.
// Boxes come in their order, each at a multiple of 64 bytes; one that does not fit goes on in the next segment.
import CairnModel

public struct LoadRun: Hashable, Sendable {
    public var rank: Int, fileOffset: Int, segment: Int, offset: Int, bytes: Int
    public init(rank: Int, fileOffset: Int, segment: Int, offset: Int, bytes: Int) {
        self.rank = rank; self.fileOffset = fileOffset; self.segment = segment; self.offset = offset; self.bytes = bytes
    }
}

public struct LoadPlan: Sendable {
    /// In the order of the boxes; a box of no bytes has one piece of none.
    public let placed: [PlacedPiece]
    /// By rank, then file offset.
    public let runs: [LoadRun]
    public let bytes: Int

    public static func make(index: StepIndex, boxes: [Box], segments: [LeaseSegment], near: Set<Int> = []) throws(SliceError) -> LoadPlan {
        try make(catalog: StepCatalog(index), boxes: boxes, segments: segments, near: near)
    }

    public static func make(catalog: StepCatalog, boxes: [Box], segments: [LeaseSegment], near: Set<Int> = []) throws(SliceError) -> LoadPlan {
        try make(SlicePlan.make(catalog: catalog, boxes: boxes, near: near), segments: segments)
    }

    public static func make(_ plans: [BoxPlan], segments: [LeaseSegment]) throws(SliceError) -> LoadPlan {
        var placed: [PlacedPiece] = [], runs: [LoadRun] = []
        var segment = 0, offset = 0
        for plan in plans {
            let first = placed.count
            var begin = 0
            offset = (offset + StoreLimits.boxAlignment - 1) / StoreLimits.boxAlignment * StoreLimits.boxAlignment
            repeat {
                while segment < segments.count, offset >= segments[segment].bytes { segment += 1; offset = 0 }
                guard segment < segments.count || plan.bytes == 0 else {
                    throw .tooLarge(bytes: plans.reduce(0) { $0 + $1.bytes }, available: segments.reduce(0) { $0 + $1.bytes })
                }
                // An empty box after the last byte needs no room: it stands at the end of the last segment.
                let atEnd = segment == segments.count
                let bytes = atEnd ? 0 : min(plan.bytes - begin, segments[segment].bytes - offset)
                placed.append(PlacedPiece(name: plan.name, begin: begin, bytes: bytes,
                                        segment: atEnd ? segments.last?.segment ?? 0 : segments[segment].segment,
                                        offset: atEnd ? segments.last?.bytes ?? 0 : offset))
                begin += bytes
                offset += bytes
            } while begin < plan.bytes
            place(plan, placed[first...], into: &runs)
        }
        runs.sort { ($0.rank, $0.fileOffset, $0.segment, $0.offset) < ($1.rank, $1.fileOffset, $1.segment, $1.offset) }
        return LoadPlan(placed: placed, runs: runs, bytes: plans.reduce(0) { $0 + $1.bytes })
    }

    /// Cuts a box's runs where its pieces end.
    private static func place(_ plan: BoxPlan, _ pieces: ArraySlice<PlacedPiece>, into runs: inout [LoadRun]) {
        let single = pieces.count == 1
        for run in plan.runs {
            var done = 0
            var piece = single ? pieces.startIndex : search(pieces, run.destination)
            while done < run.bytes {
                let inPiece = run.destination + done - pieces[piece].begin
                let bytes = min(run.bytes - done, pieces[piece].bytes - inPiece)
                runs.append(LoadRun(rank: run.rank, fileOffset: run.fileOffset + done, segment: pieces[piece].segment,
                                    offset: pieces[piece].offset + inPiece, bytes: bytes))
                done += bytes
                piece += 1
            }
        }
    }

    /// The piece that holds a byte of the box.
    private static func search(_ pieces: ArraySlice<PlacedPiece>, _ position: Int) -> Int {
        var low = pieces.startIndex, high = pieces.endIndex - 1
        while low < high {
            let middle = (low + high + 1) / 2
            if pieces[middle].begin <= position { low = middle } else { high = middle - 1 }
        }
        return low
    }
}
