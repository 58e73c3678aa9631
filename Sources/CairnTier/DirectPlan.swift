// A load that is read into the lease itself: whole blocks of the files, one after the other, and each box's runs where they lie in them.
// A lease's bytes are all the run's own files', so what is read along with a box is nothing that its rank could not ask for.
import CairnMessages
import CairnModel
import CairnStore

struct DirectPlan {
    let placed: [PlacedPiece]
    let ranges: [BlockRange]
    /// Of each range, in the lease.
    let places: [Int]

    /// Nil where copies do better, or the blocks do not fit: a box of many rows, each in other blocks.
    static func make(_ boxes: [BoxPlan], _ lease: LeaseSegment, file: (Int) throws -> (bytes: Int, isFrames: Bool)) throws -> DirectPlan? {
        guard boxes.reduce(0, { $0 + $1.runs.count }) <= boxes.count + TierLimits.directRuns else { return nil }
        let runs = boxes.flatMap(\.runs).map { LoadRun(rank: $0.rank, fileOffset: $0.fileOffset, segment: lease.segment, offset: 0, bytes: $0.bytes) }
        let ranges = try Loader.ranges(runs.sorted { ($0.rank, $0.fileOffset) < ($1.rank, $1.fileOffset) }, file: file)
        var places: [Int] = [], end = 0
        for range in ranges {
            places.append(end)
            end += range.blocks * Sizes.blockBytes
        }
        guard end <= lease.bytes else { return nil }
        var placed: [PlacedPiece] = []
        for box in boxes {
            if box.runs.isEmpty { placed.append(PlacedPiece(name: box.name, begin: 0, bytes: 0, segment: lease.segment, offset: 0)) }
            for run in box.runs.sorted(by: { $0.destination < $1.destination }) {
                // The ranges that hold a run follow one another in the file, so they do in the lease.
                let range = Loader.last(ranges, rank: run.rank, fileOffset: run.fileOffset)
                placed.append(PlacedPiece(name: box.name, begin: run.destination, bytes: run.bytes, segment: lease.segment,
                                          offset: places[range] + run.fileOffset - ranges[range].fileOffset))
            }
        }
        return DirectPlan(placed: placed, ranges: ranges, places: places)
    }
}
