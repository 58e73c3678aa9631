import CairnModel
import CairnStore
import Testing

private func index(_ tables: [RankTable], worldSize: Int? = nil) -> StepIndex {
    StepIndex(step: 1200, sequence: CommitSequence(attempt: 17, count: 41), save: save(), worldSize: worldSize ?? tables.count, metadata: [:], ranks: tables)
}

/// Files whose bytes are random, so that a byte from a wrong place is noticed; replicas have equal bytes.
private func randomFiles(_ tables: [RankTable], whole: [UInt8], shape: [Int], elementBytes: Int, using generator: inout SeededGenerator) -> [Int: [UInt8]] {
    var files: [Int: [UInt8]] = [:]
    for table in tables {
        var file = (0..<table.fileBytes).map { _ in UInt8.random(in: .min ... .max, using: &generator) }
        for stored in table.shards where stored.shard.name == "w" {
            let part = slice(whole, stored.shard.space, stored.shard.offsets ?? shape.map { _ in 0 }, stored.shard.shape, elementBytes)
            file.replaceSubrange(stored.fileOffset..<stored.fileOffset + stored.bytes, with: part)
        }
        files[table.rank] = file
    }
    return files
}

/// The reference: one element after the other, like numpy's slicing.
private func slice(_ bytes: [UInt8], _ whole: [Int], _ offsets: [Int], _ shape: [Int], _ elementBytes: Int) -> [UInt8] {
    var result: [UInt8] = []
    func visit(_ dimension: Int, _ element: Int) {
        guard dimension < whole.count else {
            result += bytes[element * elementBytes..<(element + 1) * elementBytes]
            return
        }
        for position in 0..<shape[dimension] { visit(dimension + 1, element * whole[dimension] + offsets[dimension] + position) }
    }
    visit(0, 0)
    return result
}

@Test(arguments: 0..<400 as Range<UInt64>) func boxesOfAnyShardingHaveTheBytesOfTheWhole(seed: UInt64) throws {
    var generator = SeededGenerator(seed: seed)
    let dtype = try #require([DType.u8, .bf16, .f32, .c128].randomElement(using: &generator))
    let shape = (0..<Int.random(in: 0...4, using: &generator)).map { _ in Int.random(in: 1...6, using: &generator) }
    let whole = (0..<shape.reduce(dtype.bytes, *)).map { _ in UInt8.random(in: .min ... .max, using: &generator) }
    let replicas = Bool.random(using: &generator) ? 2 : 1
    let flat = [shape.reduce(1, *)]                     // the tensor's elements in a row, which ranges are cut of
    let space = Bool.random(using: &generator) ? flat : shape
    let parts = randomTiling(space, parts: space.isEmpty ? 1 : Int.random(in: 1...10, using: &generator), using: &generator)
    var tables: [RankTable] = []
    for replica in 0..<replicas {
        for part in parts {
            let shard = Shard(name: "w", dtype: dtype.rawValue, shape: part.shape, globalShape: shape, offsets: part.offsets,
                              replica: replicas > 1 ? replica : nil, replicas: replicas > 1 ? replicas : nil)
            tables.append(try table(rank: tables.count, [Shard(name: "before", dtype: "F64", shape: [Int.random(in: 0...9, using: &generator)], isPrivate: true), shard]))
        }
    }
    try Tiling.check(tables: tables)
    let files = randomFiles(tables, whole: whole, shape: shape, elementBytes: dtype.bytes, using: &generator)
    let near = Set((0..<tables.count).filter { _ in Bool.random(using: &generator) })

    var boxes = [Box(name: "w")], expected = [whole]
    for _ in 0..<3 {
        let offsets = shape.map { Int.random(in: 0...$0, using: &generator) }
        let extent = zip(shape, offsets).map { Int.random(in: 0...($0 - $1), using: &generator) }
        boxes.append(Box(name: "w", offsets: offsets, shape: extent))
        expected.append(slice(whole, shape, offsets, extent, dtype.bytes))
        let begin = Int.random(in: 0...flat[0], using: &generator), count = Int.random(in: 0...(flat[0] - begin), using: &generator)
        boxes.append(Box(name: "w", offsets: [begin], shape: [count]))
        expected.append(slice(whole, flat, [begin], [count], dtype.bytes))
    }
    let step = index(tables)
    let plans = try SlicePlan.make(index: step, boxes: boxes, near: near)
    for (plan, bytes) in zip(plans, expected) {
        #expect(plan.bytes == bytes.count)
        var read = [UInt8](repeating: 0, count: plan.bytes), times = [Int](repeating: 0, count: plan.bytes)
        for run in plan.runs {
            let file = try #require(files[run.rank])
            for byte in 0..<run.bytes { read[run.destination + byte] = file[run.fileOffset + byte]; times[run.destination + byte] += 1 }
        }
        #expect(read == bytes)
        #expect(times.allSatisfy { $0 == 1 })
    }

    // The same through a load's segments.
    let need = expected.reduce(0) { $0 + $1.count + 64 }
    var segments: [LeaseSegment] = []
    while segments.reduce(0, { $0 + $1.bytes }) < need * 2 + 64 {
        segments.append(LeaseSegment(segment: 7 + segments.count, bytes: Int.random(in: 1...300, using: &generator)))
        if segments.count > 400 { segments.append(LeaseSegment(segment: 1000, bytes: need * 3)) }
    }
    guard let load = try? LoadPlan.make(index: step, boxes: boxes, segments: segments, near: near) else {
        // Alignment wastes the tails of small segments: they may be too small, and then that is said.
        #expect(throws: SliceError.self) { try LoadPlan.make(index: step, boxes: boxes, segments: segments, near: near) }
        return
    }
    var memory = Dictionary(uniqueKeysWithValues: segments.map { ($0.segment, [UInt8](repeating: 0, count: $0.bytes)) })
    for run in load.runs {
        let file = try #require(files[run.rank])
        memory[run.segment]?.replaceSubrange(run.offset..<run.offset + run.bytes, with: file[run.fileOffset..<run.fileOffset + run.bytes])
    }
    var position = 0
    for bytes in expected {
        var read: [UInt8] = []
        repeat {
            let piece = load.placed[position]
            if piece.begin == 0 && piece.bytes > 0 { #expect(piece.offset.isMultiple(of: 64)) }
            #expect(piece.begin == read.count)
            read += (memory[piece.segment] ?? [])[piece.offset..<piece.offset + piece.bytes]
            position += 1
        } while read.count < bytes.count
        #expect(read == bytes)
    }
    #expect(position == load.placed.count)
}

@Test func wholeTensorOfOneFileIsOneRun() throws {
    let tables = [try table(rank: 0, [Shard(name: "w", dtype: "F32", shape: [100, 100])])]
    let plan = try SlicePlan.make(index: index(tables), boxes: [Box(name: "w")])[0]
    #expect(plan.runs == [SliceRun(rank: 0, fileOffset: tables[0].shards[0].fileOffset, destination: 0, bytes: 40_000)])
    #expect(plan.dtype == "F32" && plan.shape == [100, 100])
}

@Test func rowsOfARowShardingAreOneRunEach() throws {
    let tables = try (0..<4).map { try table(rank: $0, [Shard(name: "w", dtype: "F32", shape: [25, 8], globalShape: [100, 8], offsets: [25 * $0, 0])]) }
    let plan = try SlicePlan.make(index: index(tables), boxes: [Box(name: "w", offsets: [20, 0], shape: [60, 8])])[0]
    #expect(plan.runs.map(\.rank) == [0, 1, 2, 3])
    #expect(plan.runs.map(\.bytes) == [5 * 32, 25 * 32, 25 * 32, 5 * 32])
}

@Test func rangesOfTheFlattenedTensorAreReadAsRowsAndColumns() throws {
    // As ZeRO cuts: 4 equal parts of 10 x 6 elements, none of which ends with a row.
    let tables = try (0..<4).map { try table(rank: $0, [Shard(name: "w", dtype: "F32", shape: [15], globalShape: [10, 6], offsets: [15 * $0])]) }
    try Tiling.check(tables: tables)
    let start = tables.map { $0.shards[0].fileOffset }
    let rows = try SlicePlan.make(index: index(tables), boxes: [Box(name: "w", offsets: [2, 0], shape: [4, 6])])[0]
    #expect(rows.runs == [SliceRun(rank: 0, fileOffset: start[0] + 48, destination: 0, bytes: 12), SliceRun(rank: 1, fileOffset: start[1], destination: 12, bytes: 60),
                          SliceRun(rank: 2, fileOffset: start[2], destination: 72, bytes: 24)])
    let column = try SlicePlan.make(index: index(tables), boxes: [Box(name: "w", offsets: [0, 2], shape: [10, 1])])[0]
    #expect(column.runs.map(\.rank) == [0, 0, 0, 1, 1, 2, 2, 2, 3, 3])
    #expect(column.runs.allSatisfy { $0.bytes == 4 })
    #expect(try SlicePlan.make(index: index(tables), boxes: [Box(name: "w")])[0].runs.map(\.bytes) == [60, 60, 60, 60])
}

@Test func aWantedRangeIsAtMostTwiceTheDimensionsOfBoxes() throws {
    let tables = [try table(rank: 0, [Shard(name: "w", dtype: "U8", shape: [4, 5, 6], globalShape: [8, 5, 6], offsets: [0, 0, 0])]),
                  try table(rank: 1, [Shard(name: "w", dtype: "U8", shape: [4, 5, 6], globalShape: [8, 5, 6], offsets: [4, 0, 0])])]
    let plan = try SlicePlan.make(index: index(tables), boxes: [Box(name: "w", offsets: [7], shape: [200])])[0]
    #expect(plan.runs.map(\.bytes) == [113, 87], "what goes on in the file is one run")
    #expect(plan.shape == [200] && plan.bytes == 200)
}

@Test func nearReplicasAreRead() throws {
    let tables = try (0..<3).map { try table(rank: $0, [Shard(name: "w", dtype: "U8", shape: [8], replica: $0, replicas: 3)]) }
    #expect(try SlicePlan.make(index: index(tables), boxes: [Box(name: "w")], near: [2])[0].runs.map(\.rank) == [2])
    #expect(try SlicePlan.make(index: index(tables), boxes: [Box(name: "w")])[0].runs.map(\.rank) == [0])
}

@Test func objectsAndPrivateTensorsAreFoundByRank() throws {
    let tables = try (0..<2).map { try fixturePlan(rank: $0).table }
    let step = index(tables)
    func rank(_ box: Box) throws -> Int? { try SlicePlan.make(index: step, boxes: [box], near: [1])[0].runs.first?.rank }
    #expect(try rank(Box(name: "rng/state", rank: 1)) == 1)
    #expect(try rank(Box(name: "rng/state", rank: 0)) == 0)
    #expect(try rank(Box(name: "epoch")) == 1, "a shared object comes from a near rank")
    #expect(try rank(Box(name: "epoch", rank: 0)) == 0)
    #expect(try rank(Box(name: "model.bias", rank: 1)) == 1)
    #expect(try SlicePlan.make(index: step, boxes: [Box(name: "empty", rank: 0)])[0].shape == [0, 5])
    #expect(try SlicePlan.make(index: step, boxes: [Box(name: "scalar", rank: 0)])[0].bytes == 8)
    #expect(try SlicePlan.make(index: step, boxes: [Box(name: "loader")])[0].bytes == 0)
    for box in [Box(name: "rng/state"), Box(name: "model.bias"), Box(name: "nothing"), Box(name: "nothing", rank: 0), Box(name: "epoch", rank: 2), Box(name: "epoch", rank: -1)] {
        #expect(throws: SliceError.noSuchTensor(name: box.name, rank: box.rank)) { try SlicePlan.make(index: step, boxes: [box]) }
    }
}

@Test func boxesThatCannotBeGivenAreRefused() throws {
    let tables = try (0..<2).map { try table(rank: $0, [Shard(name: "w", dtype: "F32", shape: [2, 3], globalShape: [4, 3], offsets: [2 * $0, 0])], worldSize: 2) }
    for box in [Box(name: "w", offsets: [0, 0]), Box(name: "w", shape: [1, 3]), Box(name: "w", offsets: [0, 0, 0], shape: [1, 1, 1]), Box(name: "w", offsets: [0], shape: [1, 1]),
                Box(name: "w", offsets: [12], shape: [1]), Box(name: "w", offsets: [.max], shape: [.max]), Box(name: "w", offsets: [-1], shape: [1]), Box(name: "w", offsets: [0, 1], shape: [4, 3]),
                Box(name: "w", offsets: [-1, 0], shape: [1, 3]), Box(name: "w", offsets: [0, 0], shape: [-1, 3]), Box(name: "w", offsets: [.max, 0], shape: [.max, 3])] {
        do throws(SliceError) {
            _ = try SlicePlan.make(index: index(tables), boxes: [box])
            Issue.record("was accepted")
        } catch { if case .boxOutOfRange("w", _) = error {} else { Issue.record("\(error)") } }
    }
    #expect(throws: SliceError.notCovered(name: "w")) { try SlicePlan.make(index: index([tables[0]], worldSize: 2), boxes: [Box(name: "w")]) }
    #expect(throws: SliceError.notCovered(name: "x")) { try SlicePlan.make(index: index([tables[0]], worldSize: 2), boxes: [Box(name: "x", rank: 1)]) }
    #expect(throws: SliceError.tooLarge(bytes: 48, available: 47)) {
        try LoadPlan.make(index: index(tables), boxes: [Box(name: "w")], segments: [LeaseSegment(segment: 0, bytes: 47)])
    }
    #expect(try LoadPlan.make(index: index(tables), boxes: [Box(name: "w", offsets: [0, 0], shape: [0, 0])], segments: []).placed.map(\.bytes) == [0])
}

/// A commit takes no such shards, but a damaged layout may say so.
@Test func partsOfOtherDimensionsCoverNothing() throws {
    let half = Shard(name: "w", dtype: "F32", shape: [2, 3], globalShape: [4, 3], offsets: [0, 0])
    for other in [Shard(name: "w", dtype: "F32", shape: []), Shard(name: "w", dtype: "F32", shape: [6], globalShape: [4, 3], offsets: [6])] {
        let shards = [half, other]
        for first in 0..<2 {
            let tables = try (0..<2).map { try table(rank: $0, [shards[($0 + first) % 2]], worldSize: 2) }
            for box in [Box(name: "w"), Box(name: "w", offsets: [0, 0], shape: [4, 3]), Box(name: "w", offsets: [0], shape: [12])] {
                // Of a scalar that comes first, each of these but the whole is out of range.
                do { _ = try SlicePlan.make(index: index(tables), boxes: [box]); #expect(first == 1 && other.shape.isEmpty && box.offsets == nil) } catch {
                    if case .notCovered("w")? = error as? SliceError {} else { #expect(first == 1 && other.shape.isEmpty, "\(error)") }
                }
            }
        }
    }
}

@Test func tooManyRunsAreRefused() throws {
    let tables = [try table(rank: 0, [Shard(name: "w", dtype: "U8", shape: [1 << 24, 2])])]
    #expect(throws: SliceError.tooManyRuns(name: "w", limit: StoreLimits.runs)) {
        try SlicePlan.make(index: index(tables), boxes: [Box(name: "w", offsets: [0, 0], shape: [1 << 24, 1])])
    }
}
