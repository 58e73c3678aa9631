import CairnModel
import CairnStore
import Testing

private func shard(_ offsets: [Int], _ shape: [Int], of whole: [Int], name: String = "w", replica: Int? = nil, replicas: Int? = nil) -> Shard {
    Shard(name: name, dtype: "F32", shape: shape, globalShape: whole, offsets: offsets, replica: replica, replicas: replicas)
}

private func check(_ shards: [Shard]...) throws {
    try Tiling.check(tables: shards.enumerated().map { try table(rank: $0.offset, $0.element) })
}

@Test func boxesThatTileAreAccepted() throws {
    try check([shard([0, 0], [2, 3], of: [4, 3])], [shard([2, 0], [2, 3], of: [4, 3])])
    try check([shard([0, 0], [4, 1], of: [4, 3])], [shard([0, 1], [4, 2], of: [4, 3])])
    try check([Shard(name: "w", dtype: "F32", shape: [])], [])
    // Uneven sharding leaves some ranks without rows.
    try check([shard([0], [1], of: [1])], [shard([1], [0], of: [1])], [shard([1], [0], of: [1])])
    // Declared replicas, also of parts.
    try check([shard([0], [2], of: [4], replica: 0, replicas: 2)], [shard([0], [2], of: [4], replica: 1, replicas: 2)],
              [shard([2], [2], of: [4], replica: 0, replicas: 2)], [shard([2], [2], of: [4], replica: 1, replicas: 2)])
    // Private ones are each rank's own affair.
    try check([Shard(name: "w", dtype: "F32", shape: [2], isPrivate: true)], [Shard(name: "w", dtype: "F32", shape: [2], isPrivate: true)])
}

@Test func undeclaredEqualBoxesAreNamedWithTheirRanks() {
    #expect(throws: TilingError.undeclaredReplicas(name: "w", ranks: [0, 2])) {
        try check([shard([0], [2], of: [2])], [], [shard([0], [2], of: [2])])
    }
}

@Test func incompleteReplicasAreRefused() {
    #expect(throws: TilingError.replicasIncomplete(name: "w", ranks: [0], replicas: 2)) {
        try check([shard([0], [2], of: [2], replica: 0, replicas: 2)], [])
    }
    #expect(throws: TilingError.replicasIncomplete(name: "w", ranks: [0, 1], replicas: 2)) {
        try check([shard([0], [2], of: [2], replica: 1, replicas: 2)], [shard([0], [2], of: [2], replica: 1, replicas: 2)])
    }
}

@Test func rangesOfTheFlattenedTensorTileIt() throws {
    try check([shard([0], [5], of: [4, 3])], [shard([5], [0], of: [4, 3])], [shard([5], [7], of: [4, 3])])
    try check([shard([0], [1], of: [])])
    #expect(throws: TilingError.incomplete(name: "w", ranks: [0, 1], missingElements: 1)) { try check([shard([0], [5], of: [4, 3])], [shard([6], [6], of: [4, 3])]) }
    #expect(throws: TilingError.overlap(name: "w", ranks: [0, 1])) { try check([shard([0], [7], of: [4, 3])], [shard([6], [5], of: [4, 3])]) }
    #expect(throws: TilingError.shapesDiffer(name: "w", ranks: [0, 1], reason: "one is a box, the other a range of the flattened tensor")) {
        try check([shard([0], [6], of: [4, 3])], [shard([2, 0], [2, 3], of: [4, 3])])
    }
    #expect(throws: TilingError.self) { try check([shard([0], [6], of: [4, 3])], [shard([6], [6], of: [3, 4])]) }
}

@Test func gapsAndOverlapsAreRefused() {
    #expect(throws: TilingError.incomplete(name: "w", ranks: [0], missingElements: 2)) { try check([shard([0], [2], of: [4])]) }
    #expect(throws: TilingError.overlap(name: "w", ranks: [0, 1])) { try check([shard([0], [3], of: [4])], [shard([2], [2], of: [4])]) }
    // Gap and overlap of equal size: the volumes alone would not tell.
    #expect(throws: TilingError.overlap(name: "w", ranks: [0, 1])) {
        try check([shard([0, 0], [2, 2], of: [2, 4])], [shard([0, 1], [2, 2], of: [2, 4])])
    }
}

@Test func ranksThatDisagreeAreRefused() {
    #expect(throws: TilingError.self) { try check([shard([0], [2], of: [4])], [shard([2], [2], of: [5])]) }
    #expect(throws: TilingError.self) { try check([shard([0], [2], of: [4])], [Shard(name: "w", dtype: "I32", shape: [2], globalShape: [4], offsets: [2])]) }
    #expect(throws: TilingError.rankTwice(0)) {
        try Tiling.check(tables: [table(rank: 0, []), table(rank: 0, [])])
    }
}

/// Cuts a box at random, again and again: the parts tile it.
func randomTiling(_ whole: [Int], parts: Int, using generator: inout SeededGenerator) -> [(offsets: [Int], shape: [Int])] {
    var boxes = [(offsets: whole.map { _ in 0 }, shape: whole)]
    for _ in 1..<max(2, parts) {
        let index = Int.random(in: boxes.indices, using: &generator)
        let dimensions = whole.indices.filter { boxes[index].shape[$0] > 1 }
        guard let dimension = dimensions.randomElement(using: &generator) else { continue }
        let at = Int.random(in: 1..<boxes[index].shape[dimension], using: &generator)
        var second = boxes[index]
        second.offsets[dimension] += at
        second.shape[dimension] -= at
        boxes[index].shape[dimension] = at
        boxes.append(second)
    }
    return boxes.shuffled(using: &generator)
}

@Test(arguments: 0..<100 as Range<UInt64>) func randomTilingsAreAcceptedAndTheirDamageIsNot(seed: UInt64) throws {
    var generator = SeededGenerator(seed: seed)
    let dimensions = (0..<Int.random(in: 1...4, using: &generator)).map { _ in Int.random(in: 1...7, using: &generator) }
    // Of every second one the elements in a row.
    let whole = Bool.random(using: &generator) ? dimensions : [dimensions.reduce(1, *)]
    let boxes = randomTiling(whole, parts: Int.random(in: 1...12, using: &generator), using: &generator)
    func tables(_ boxes: [(offsets: [Int], shape: [Int])]) throws -> [RankTable] {
        try boxes.enumerated().map { try table(rank: $0.offset, [shard($0.element.offsets, $0.element.shape, of: dimensions)]) }
    }
    try Tiling.check(tables: tables(boxes))
    // Any box changed, moved or left out, and it is no tiling.
    var damaged = boxes
    let index = Int.random(in: boxes.indices, using: &generator)
    let dimension = Int.random(in: whole.indices, using: &generator)
    switch Int.random(in: 0..<3, using: &generator) {
    case 0 where boxes.count > 1: damaged.remove(at: index)
    case 1 where boxes[index].shape[dimension] > 1: damaged[index].shape[dimension] -= 1
    case 2 where boxes[index].offsets[dimension] > 0: damaged[index].offsets[dimension] -= 1
    default: damaged.append(boxes[index])
    }
    #expect(throws: TilingError.self) { try Tiling.check(tables: tables(damaged)) }
}

@Test func eightRanksOfTwentyThousandTensorsAreCheckedQuickly() throws {
    let tables = (0..<8).map { rank in
        RankTable(rank: rank, fileBytes: 1 << 30, shards: (0..<20_000).map { index in
            StoredShard(shard: shard([rank * 4, 0], [4, 4], of: [32, 4], name: "model.layers.\(index).weight"), fileOffset: 4096 + index * 64, bytes: 64)
        }, objects: [])
    }
    let elapsed = try ContinuousClock().measure { try Tiling.check(tables: tables) }
    #expect(elapsed < .seconds(60))
    print("tiling of 8 x 20,000 shards: \(elapsed)")
}
