// Which bytes of which files make up the boxes that a rank asks for, in any sharding.
//
// A box is cut with every stored piece of its tensor. Where trailing dimensions are whole in both, they are one run of bytes;
// the outer dimensions give one run each. Runs that go on in file and destination are joined. Row-major throughout.
// (1) The runs of a box cover each of its bytes exactly once, or the plan fails: stored boxes tile (the commit checked it), so
//     it is enough that the volumes of the cuts add up.
import CairnModel

public struct SliceRun: Hashable, Sendable {
    public var rank: Int, fileOffset: Int
    /// In the box, from its first byte.
    public var destination: Int
    public var bytes: Int
    public init(rank: Int, fileOffset: Int, destination: Int, bytes: Int) {
        self.rank = rank; self.fileOffset = fileOffset; self.destination = destination; self.bytes = bytes
    }
}

public struct BoxPlan: Hashable, Sendable {
    public var name: String
    public var dtype: String
    public var shape: [Int]
    public var bytes: Int
    public var runs: [SliceRun]
}

public enum SlicePlan {
    /// `near`: ranks whose files are preferred where several hold the same box.
    public static func make(index: StepIndex, boxes: [Box], near: Set<Int> = []) throws(SliceError) -> [BoxPlan] {
        try make(catalog: StepCatalog(index), boxes: boxes, near: near)
    }

    public static func make(catalog: StepCatalog, boxes: [Box], near: Set<Int> = []) throws(SliceError) -> [BoxPlan] {
        var plans: [BoxPlan] = []
        plans.reserveCapacity(boxes.count)
        var budget = StoreLimits.runs
        for box in boxes {
            let plan = try make(box, catalog, near, limit: budget)
            budget -= plan.runs.count
            plans.append(plan)
        }
        return plans
    }

    private static func make(_ box: Box, _ catalog: StepCatalog, _ near: Set<Int>, limit: Int) throws(SliceError) -> BoxPlan {
        let source = try catalog.source(of: box, near: near)
        let (offsets, shape) = try bounds(box, source.shape)
        let elementBytes = source.dtype.bytes
        let elements = shape.reduce(1, *)                   // at most the whole tensor's, whose bytes do not overflow
        var runs: [SliceRun] = []
        var covered = 0
        if elements > 0 {
            for piece in distinct(catalog.pieces(of: source, offsets: offsets, shape: shape), near) {
                covered += try cut(piece, offsets, shape, elementBytes, into: &runs, box.name, limit)
            }
            guard covered == elements else { throw .notCovered(name: box.name) }
        }
        return BoxPlan(name: box.name, dtype: source.dtype.rawValue, shape: shape, bytes: elements * elementBytes, runs: runs)
    }

    private static func bounds(_ box: Box, _ whole: [Int]) throws(SliceError) -> (offsets: [Int], shape: [Int]) {
        func outOfRange(_ reason: String) -> SliceError { .boxOutOfRange(name: box.name, reason: reason) }
        guard let offsets = box.offsets else {
            guard box.shape == nil || box.shape == whole else { throw outOfRange("shape \(box.shape ?? []) without offsets, the whole is \(whole)") }
            return (Array(repeating: 0, count: whole.count), whole)
        }
        guard let shape = box.shape else { throw outOfRange("offsets without a shape") }
        guard offsets.count == whole.count, shape.count == whole.count else {
            throw outOfRange("\(offsets.count) offsets and \(shape.count) extents for a shape of \(whole.count) dimensions")
        }
        for dimension in whole.indices {
            let (end, overflow) = offsets[dimension].addingReportingOverflow(shape[dimension])
            guard offsets[dimension] >= 0, shape[dimension] >= 0, !overflow, end <= whole[dimension] else {
                throw outOfRange("offsets \(offsets) and shape \(shape) lie outside \(whole)")
            }
        }
        return (offsets, shape)
    }

    /// One piece per stored box: of replicas a near one, else the first.
    private static func distinct(_ pieces: [StepCatalog.Source.Piece], _ near: Set<Int>) -> [StepCatalog.Source.Piece] {
        guard pieces.count > 1 else { return pieces }
        struct Key: Hashable { let offsets: [Int], shape: [Int] }
        var positions: [Key: Int] = [:]
        var chosen: [StepCatalog.Source.Piece] = []
        for piece in pieces {
            let key = Key(offsets: piece.offsets, shape: piece.shape)
            if let position = positions[key] {
                if near.contains(piece.rank) && !near.contains(chosen[position].rank) { chosen[position] = piece }
            } else {
                positions[key] = chosen.count
                chosen.append(piece)
            }
        }
        return chosen
    }

    /// Appends the runs that a piece gives to a box; returns how many elements they are.
    private static func cut(_ piece: StepCatalog.Source.Piece, _ offsets: [Int], _ shape: [Int], _ elementBytes: Int,
                            into runs: inout [SliceRun], _ name: String, _ limit: Int) throws(SliceError) -> Int {
        let dimensions = shape.count
        var begin = [Int](repeating: 0, count: dimensions), extent = begin
        for dimension in 0..<dimensions {
            begin[dimension] = max(offsets[dimension], piece.offsets[dimension])
            extent[dimension] = min(offsets[dimension] + shape[dimension], piece.offsets[dimension] + piece.shape[dimension]) - begin[dimension]
            if extent[dimension] <= 0 { return 0 }
        }
        // Dimensions from `inner` on make one run: whole in both, except that the first of them may be a part.
        var inner = dimensions
        var runElements = 1
        while inner > 0 {
            inner -= 1
            runElements *= extent[inner]
            if extent[inner] != shape[inner] || extent[inner] != piece.shape[inner] { break }
        }
        func strides(_ shape: [Int]) -> [Int] {
            var strides = [Int](repeating: 1, count: dimensions)
            for dimension in (0..<dimensions).reversed().dropFirst() { strides[dimension] = strides[dimension + 1] * shape[dimension + 1] }
            return strides
        }
        let from = strides(piece.shape), to = strides(shape)
        var source = 0, destination = 0
        for dimension in 0..<dimensions {
            source += (begin[dimension] - piece.offsets[dimension]) * from[dimension]
            destination += (begin[dimension] - offsets[dimension]) * to[dimension]
        }
        let count = extent[..<inner].reduce(1, *)
        guard runs.count + count <= limit else { throw .tooManyRuns(name: name, limit: StoreLimits.runs) }
        var position = [Int](repeating: 0, count: inner)
        for _ in 0..<count {
            append(SliceRun(rank: piece.rank, fileOffset: piece.fileOffset + source * elementBytes,
                            destination: destination * elementBytes, bytes: runElements * elementBytes), to: &runs)
            // The next position of the outer dimensions, like an odometer.
            var dimension = inner - 1
            while dimension >= 0 {
                position[dimension] += 1
                source += from[dimension]
                destination += to[dimension]
                if position[dimension] < extent[dimension] { break }
                source -= extent[dimension] * from[dimension]
                destination -= extent[dimension] * to[dimension]
                position[dimension] = 0
                dimension -= 1
            }
        }
        return count * runElements
    }

    private static func append(_ run: SliceRun, to runs: inout [SliceRun]) {
        if let last = runs.last, last.rank == run.rank, last.fileOffset + last.bytes == run.fileOffset,
           last.destination + last.bytes == run.destination {
            runs[runs.count - 1].bytes += run.bytes
        } else {
            runs.append(run)
        }
    }
}
