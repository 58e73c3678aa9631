import CairnModel
import Testing
@testable import CairnStore

/// Every rank's table of a world in which `shards` gives what each holds.
private func tables(_ ranks: [Int], worldSize: Int, objects: (Int) -> [ObjectInfo] = { _ in [] }, _ shards: (Int) -> [Shard]) throws -> [RankTable] {
    try ranks.map { rank in
        let layout = try Layout.make(shards: shards(rank), rank: rank, worldSize: worldSize)
        return try FileHeader.make(layout: layout, objects: objects(rank), run: testRun, save: save(), rank: rank, worldSize: worldSize).table
    }
}

/// As FSDP cuts: rows in equal chunks, the last ranks a part or nothing.
private func rows(_ name: String, _ rows: Int, rank: Int, of world: Int) -> Shard {
    let chunk = (rows + world - 1) / world, begin = min(rows, rank * chunk)
    return Shard(name: name, dtype: "F32", shape: [min(rows, begin + chunk) - begin, 4], globalShape: [rows, 4], offsets: [begin, 0])
}

private func sharded(_ world: Int) throws -> [RankTable] {
    try tables(Array(0..<world), worldSize: world, objects: { [ObjectInfo(name: "tree", scope: .rank, bytes: 100 + $0 % 7), ObjectInfo(name: "epoch", scope: .shared, bytes: 1)] }) { rank in
        (0..<20).map { rows("layer.\($0)", [world, world + world / 2, world / 2 + 3][$0 % 3], rank: rank, of: world) }
    }
}

private func roundTrip(_ tables: [RankTable], worldSize: Int) throws -> StoredLayout {
    let layout = StoredLayout(worldSize: worldSize, tables: tables)
    #expect(layout.problem() == nil)
    #expect(layout.tables == tables, "the runs say what the tables said")
    #expect(try LayoutFile.decode(LayoutFile.encode(layout)) == layout)
    return layout
}

@Test func ranksThatShardAlikeAreOneRun() throws {
    let layout = try roundTrip(try sharded(64), worldSize: 64)
    #expect(layout.runs.count == 3, "whole, without the tensor of fewer rows, and without that of more: \(layout.runs.map(\.count))")
    // What is written of a rank is a row of a few numbers, however many tensors it shards.
    let small = LayoutFile.encode(worldSize: 64, tables: try sharded(64)).count, large = LayoutFile.encode(worldSize: 512, tables: try sharded(512)).count
    #expect(large - small < (512 - 64) * 32, "\(small) and \(large) bytes")
}

@Test func tablesOfSomeNamesOrOfEachNameOnce() throws {
    let layout = StoredLayout(worldSize: 64, tables: try sharded(64))
    let some = layout.tables(["layer.3", "tree"])
    #expect(some.count == 64 && some.allSatisfy { $0.shards.map(\.shard.name) == ["layer.3"] && $0.objects.map(\.object.name) == ["tree"] })
    let once = layout.tables(nil, once: true).flatMap(\.shards).map(\.shard)
    #expect(once.map(\.name).sorted() == (0..<20).map { "layer.\($0)" }.sorted() && once.allSatisfy { $0.globalShape != nil })
}

@Test(arguments: [1, 2, 4, 8]) func meshOfTwoDimensionsIsOneRunForEachColumn(_ columns: Int) throws {
    let world = 16 * columns
    let mesh = try tables(Array(0..<world), worldSize: world) { rank in
        [Shard(name: "w", dtype: "BF16", shape: [3, 5], globalShape: [48, 5 * columns], offsets: [rank / columns * 3, rank % columns * 5]),
         Shard(name: "n", dtype: "F32", shape: [2], globalShape: [32], offsets: [rank / columns * 2], replica: rank % columns, replicas: columns)]
    }
    // Without a second column each rank is alike; else a column's ranks are those with its replica.
    #expect(try roundTrip(mesh, worldSize: world).runs.count == columns)
}

@Test func equalRangesOfFlattenedTensorsAreOneRun() throws {
    // A flat buffer of one tensor, cut into equal parts: its ranges move on evenly.
    let ranges = try tables(Array(0..<16), worldSize: 16) { rank in
        [Shard(name: "w", dtype: "F32", shape: [15], globalShape: [24, 10], offsets: [15 * rank])]
    }
    let layout = try roundTrip(ranges, worldSize: 16)
    #expect(layout.runs.count == 1)
    try Tiling.check(layout)
}

@Test func whatHasNoPatternIsRunsOfSingleRanks() throws {
    var generator = SeededGenerator(seed: 5)
    for _ in 0..<50 {
        let world = Int.random(in: 1...24, using: &generator)
        let ranks = (0..<world).filter { _ in Bool.random(using: &generator) }
        let found = try tables(ranks.isEmpty ? [0] : ranks, worldSize: world, objects: { rank in
            rank.isMultiple(of: 3) ? [] : [ObjectInfo(name: "loader", scope: .keyed, key: "k\(rank)", bytes: rank)]
        }) { rank in
            (0..<Int.random(in: 0...4, using: &generator)).map { index in
                let begin = Int.random(in: 0...5, using: &generator)
                return Shard(name: "t\(index)", dtype: ["F32", "U8", "C128"].randomElement(using: &generator) ?? "U8", shape: [Int.random(in: 0...3, using: &generator)],
                             globalShape: [8], offsets: [begin])
            } + [Shard(name: "own", dtype: "I64", shape: [], isPrivate: true)]
        }
        _ = try roundTrip(found, worldSize: world)
    }
}

@Test(arguments: 0..<40) func boxesComeFromWhereEachElementIs(_ seed: UInt64) throws {
    var generator = SeededGenerator(seed: seed)
    let rows = Int.random(in: 1...40, using: &generator), columns = Int.random(in: 1...9, using: &generator)
    // A grid of boxes, its cells in the order of the ranks or against it.
    let down = Int.random(in: 1...min(8, rows), using: &generator), across = Int.random(in: 1...min(3, columns), using: &generator)
    let height = (rows + down - 1) / down, width = (columns + across - 1) / across, world = down * across
    let isBackwards = Bool.random(using: &generator)
    let stored = try tables(Array(0..<world), worldSize: world) { rank in
        let cell = isBackwards ? world - 1 - rank : rank
        let top = min(rows, cell / across * height), left = min(columns, cell % across * width)
        return [Shard(name: "pad", dtype: "U8", shape: [rank % 3], isPrivate: true),
                Shard(name: "w", dtype: "U8", shape: [min(rows, top + height) - top, min(columns, left + width) - left], globalShape: [rows, columns], offsets: [top, left])]
    }
    let layout = try roundTrip(stored, worldSize: world)
    let catalog = StepCatalog(step: 1200, sequence: CommitSequence(attempt: 17, count: 1), save: save(), metadata: [:], layout: layout)
    for _ in 0..<20 {
        let top = Int.random(in: 0...rows, using: &generator), left = Int.random(in: 0...columns, using: &generator)
        let shape = [Int.random(in: 0...rows - top, using: &generator), Int.random(in: 0...columns - left, using: &generator)]
        let plan = try SlicePlan.make(catalog: catalog, boxes: [Box(name: "w", offsets: [top, left], shape: shape)])[0]
        var found = [String](repeating: "", count: shape[0] * shape[1])
        for run in plan.runs { for byte in 0..<run.bytes { found[run.destination + byte] += "\(run.rank)@\(run.fileOffset + byte)" } }
        for row in 0..<shape[0] {
            for column in 0..<shape[1] {
                let holder = try #require(stored.compactMap { table -> String? in
                    guard let shard = table.shards.first(where: { $0.shard.name == "w" }), let offsets = shard.shard.offsets else { return nil }
                    let down = top + row - offsets[0], right = left + column - offsets[1]
                    guard (0..<shard.shard.shape[0]).contains(down), (0..<shard.shard.shape[1]).contains(right) else { return nil }
                    return "\(table.rank)@\(shard.fileOffset + down * shard.shard.shape[1] + right)"
                }.first)
                #expect(found[row * shape[1] + column] == holder)
            }
        }
    }
}

@Test func layoutFileRefusesLies() throws {
    let record = LayoutFile.encode(worldSize: 64, tables: try sharded(64))
    let json = String(decoding: try Record.open(record), as: UTF8.self)
    let run = "\"first\":0,\"stride\":1,\"count\":35"
    for (text, replacement) in [
        (run, "\"first\":0,\"stride\":1,\"count\":36"), (run, "\"first\":0,\"stride\":1,\"count\":34"), (run, "\"first\":0,\"stride\":2,\"count\":35"),
        (run, "\"first\":1,\"stride\":1,\"count\":35"), (run, "\"first\":0,\"stride\":0,\"count\":35"), (run, "\"first\":-1,\"stride\":1,\"count\":35"),
        (run, "\"first\":0,\"stride\":1,\"count\":1048576"), (run, "\"first\":9223372036854775807,\"stride\":1,\"count\":35"),
        (run, "\"first\":0,\"stride\":9223372036854775807,\"count\":35"),
        // The last rank's box would lie outside the tensor, or nowhere.
        ("false,[1,0]]", "false,[2,0]]"), ("false,[1,0]]", "false,[9223372036854775807,0]]"), ("false,[1,0]]", "false,[1]]"), ("false,[1,0]]", "false,[-1,0]]"),
        ("\"files\":[[0,4096,0,", "\"files\":[[0,4096,1,"), ("\"files\":[[0,4096,0,", "\"files\":[[0,4097,0,"), ("\"files\":[[0,4096,0,", "\"files\":[[1,4096,0,"),
        ("\"files\":[[0,4096,0,[100,1]]", "\"files\":[[0,4096,0,[100]]"), ("\"files\":[[0,4096,0,[100,1]]", "\"files\":[[0,4096,0,[-100,1]]"),
        ("\"files\":[[0,4096,0,[100,1]],", "\"files\":["), ("\"F32\"", "\"F33\""), ("\"shared\"", "\"sharing\""), ("\"runs\":", "\"ranks\":"),
        ("\"worldSize\":64", "\"worldSize\":63"), ("cairn-1", "cairn-2"),
    ] {
        try #require(json.contains(text), "\(text)")
        #expect(throws: RecordError.self, "\(text) as \(replacement)") {
            try LayoutFile.decode(Record.seal(Array(json.replacing(text, with: replacement, maxReplacements: 1).utf8)))
        }
    }
}

@Test func tilingOfRunsAgreesWithTilingOfRanks() throws {
    var generator = SeededGenerator(seed: 11)
    var sound = 0
    for _ in 0..<300 {
        // A grid with a random fault: a box moved, a box of another size, a rank too few, or none.
        let down = Int.random(in: 1...5, using: &generator), across = Int.random(in: 1...3, using: &generator), world = down * across
        let fault = Int.random(in: 0...4, using: &generator), victim = Int.random(in: 0..<world, using: &generator)
        let ranks = (0..<world).filter { fault != 1 || $0 != victim }
        guard !ranks.isEmpty else { continue }
        let stored = try tables(ranks, worldSize: world) { rank in
            var offsets = [rank / across * 2, rank % across * 3], shape = [2, 3]
            if rank == victim && fault == 2 { offsets = [offsets[0] == 0 ? (down - 1) * 2 : 0, offsets[1]] }
            if rank == victim && fault == 3 { shape[1] = 2 }
            return [Shard(name: "w", dtype: "U8", shape: shape, globalShape: [down * 2, across * 3], offsets: offsets)]
        }
        var cells = [Int](repeating: 0, count: down * across * 6)
        for table in stored {
            let shard = table.shards[0].shard, offsets = try #require(shard.offsets)
            for row in 0..<shard.shape[0] { for column in 0..<shard.shape[1] { cells[(offsets[0] + row) * across * 3 + offsets[1] + column] += 1 } }
        }
        let isWhole = cells.allSatisfy { $0 == 1 }
        if isWhole { sound += 1 }
        #expect(((try? Tiling.check(tables: stored)) != nil) == isWhole)
    }
    #expect((50..<250).contains(sound), "both answers were asked for: \(sound)")
}

/// A few bytes can say a run of a million ranks: what is refused is refused before it is counted out.
@Test(.timeLimit(.minutes(1))) func runsOfMoreRanksThanThereAreFilesAreRefusedAtOnce() {
    let run = #"{"first":0,"stride":1,"count":1048576,"shards":[]}"#
    let body = #"{"format":"cairn-1","worldSize":1048576,"runs":["# + Array(repeating: run, count: 2000).joined(separator: ",")
        + #"],"objects":[[]],"files":[[0,4096,0,[]]]}"#
    #expect(throws: RecordError.inconsistent(reason: "the runs hold more than 1 files")) { try LayoutFile.decode(Record.seal(Array(body.utf8))) }
}
