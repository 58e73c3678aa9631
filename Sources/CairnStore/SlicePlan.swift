// Which bytes of which files make up the boxes that a rank asks for, in any sharding.
//
// A box is cut with every stored piece of its tensor. Where trailing dimensions are whole in both, they are one run of bytes;
// the outer dimensions give one run each. Runs that go on in file and destination are joined. Row-major throughout.
// Wanted and stored parts may also be ranges of the flattened tensor. A wanted range of stored boxes is some boxes one after the other; a
// wanted box of stored ranges is first cut with the whole, which gives its runs in the flattened tensor, and these with the ranges.
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
        let (offsets, shape, isFlat) = try bounds(box, source.shape)
        let elementBytes = source.dtype.bytes
        let elements = shape.reduce(1, *)                   // at most the whole tensor's, whose bytes do not overflow
        var runs: [SliceRun] = []
        var covered = 0
        func cutAll(_ offsets: [Int], _ shape: [Int], _ destination: Int) throws(SliceError) {
            for piece in distinct(catalog.pieces(of: source, offsets: offsets, shape: shape), near) {
                covered += try cut(piece, offsets, shape, elementBytes, at: destination, into: &runs, box.name, limit)
            }
        }
        switch (isFlat, source.isFlat) {
        case _ where elements == 0: break
        case (false, false), (true, true): try cutAll(offsets, shape, 0)
        case (true, false):
            for part in boxes(from: offsets[0], count: elements, of: source.shape) { try cutAll(part.offsets, part.shape, part.destination) }
        case (false, true):
            let whole = StepCatalog.Source.Piece(rank: 0, offsets: source.shape.map { _ in 0 }, shape: source.shape, fileOffset: 0)
            var flat: [SliceRun] = []
            _ = try cut(whole, offsets, shape, elementBytes, at: 0, into: &flat, box.name, limit)
            // At least one, for the box has elements.
            let begin = flat[0].fileOffset / elementBytes, end = (flat[flat.count - 1].fileOffset + flat[flat.count - 1].bytes) / elementBytes
            let pieces = distinct(catalog.pieces(of: source, offsets: [begin], shape: [end - begin]), near)
            covered = try split(flat, pieces, elementBytes, into: &runs, box.name, limit) / elementBytes
        }
        guard covered == elements else { throw .notCovered(name: box.name) }
        return BoxPlan(name: box.name, dtype: source.dtype.rawValue, shape: shape, bytes: elements * elementBytes, runs: runs)
    }

    private static func bounds(_ box: Box, _ whole: [Int]) throws(SliceError) -> (offsets: [Int], shape: [Int], isFlat: Bool) {
        func outOfRange(_ reason: String) -> SliceError { .boxOutOfRange(name: box.name, reason: reason) }
        guard let offsets = box.offsets else {
            guard box.shape == nil || box.shape == whole else { throw outOfRange("shape \(box.shape ?? []) without offsets, the whole is \(whole)") }
            return (Array(repeating: 0, count: whole.count), whole, false)
        }
        guard let shape = box.shape else { throw outOfRange("offsets without a shape") }
        let isFlat = offsets.count == 1 && shape.count == 1 && whole.count != 1
        guard isFlat || (offsets.count == whole.count && shape.count == whole.count) else {
            throw outOfRange("\(offsets.count) offsets and \(shape.count) extents for a shape of \(whole.count) dimensions")
        }
        let space = isFlat ? [whole.reduce(1, *)] : whole
        for dimension in space.indices {
            let (end, overflow) = offsets[dimension].addingReportingOverflow(shape[dimension])
            guard offsets[dimension] >= 0, shape[dimension] >= 0, !overflow, end <= space[dimension] else {
                throw outOfRange("offsets \(offsets) and shape \(shape) lie outside \(whole)\(isFlat ? ", flattened" : "")")
            }
        }
        return (offsets, shape, isFlat)
    }

    /// The boxes that a range of elements is made of, in its order; `destination` counts from its first element. Rows of ever outer
    /// dimensions, then of ever inner ones: at most 2n - 1 boxes of n dimensions.
    private static func boxes(from begin: Int, count: Int, of shape: [Int]) -> [(offsets: [Int], shape: [Int], destination: Int)] {
        guard !shape.isEmpty else { return [([], [], 0)] }
        let rows = strides(shape)
        var found: [(offsets: [Int], shape: [Int], destination: Int)] = []
        var position = begin
        while position < begin + count {
            let left = begin + count - position
            // A row of the last dimension is one element, so there is one.
            let outer = shape.indices.first { position.isMultiple(of: rows[$0]) && rows[$0] <= left } ?? shape.count - 1
            let at = shape.indices.map { position / rows[$0] % shape[$0] }
            let taken = min(left / rows[outer], shape[outer] - at[outer])
            found.append((at, shape.indices.map { $0 < outer ? 1 : $0 == outer ? taken : shape[$0] }, position - begin))
            position += taken * rows[outer]
        }
        return found
    }

    /// Cuts runs of the flattened tensor, in ascending order, with its stored ranges; returns how many bytes these hold of them.
    private static func split(_ flat: [SliceRun], _ pieces: [StepCatalog.Source.Piece], _ elementBytes: Int, into runs: inout [SliceRun],
                              _ name: String, _ limit: Int) throws(SliceError) -> Int {
        let pieces = pieces.filter { $0.shape[0] > 0 }.sorted { $0.offsets[0] < $1.offsets[0] }
        var next = 0, covered = 0
        for run in flat {
            let end = run.fileOffset + run.bytes
            var position = run.fileOffset
            while position < end {
                while next < pieces.count, (pieces[next].offsets[0] + pieces[next].shape[0]) * elementBytes <= position { next += 1 }
                guard next < pieces.count, pieces[next].offsets[0] * elementBytes <= position else { return covered }
                let begin = pieces[next].offsets[0] * elementBytes
                let bytes = min(end, begin + pieces[next].shape[0] * elementBytes) - position
                guard runs.count < limit else { throw .tooManyRuns(name: name, limit: StoreLimits.runs) }
                append(SliceRun(rank: pieces[next].rank, fileOffset: pieces[next].fileOffset + position - begin,
                                destination: run.destination + position - run.fileOffset, bytes: bytes), to: &runs)
                position += bytes
                covered += bytes
            }
        }
        return covered
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

    /// Appends the runs that a piece gives to a box, which is at `base` in the destination; returns how many elements they are.
    private static func cut(_ piece: StepCatalog.Source.Piece, _ offsets: [Int], _ shape: [Int], _ elementBytes: Int, at base: Int,
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
        let from = strides(piece.shape), to = strides(shape)
        var source = 0, destination = base
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

    /// Elements of one row of each dimension.
    private static func strides(_ shape: [Int]) -> [Int] {
        var strides = [Int](repeating: 1, count: shape.count)
        for dimension in shape.indices.reversed().dropFirst() { strides[dimension] = strides[dimension + 1] * shape[dimension + 1] }
        return strides
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
