import CairnModel
import CairnStore
import Testing

@Test func largestElementsComeFirstThenEagerThenAsRegistered() throws {
    let layout = try Layout.make(shards: [
        Shard(name: "a", dtype: "U8", shape: [3]),
        Shard(name: "b", dtype: "F32", shape: [3], eager: false),
        Shard(name: "c", dtype: "F32", shape: [2]),
        Shard(name: "d", dtype: "C128", shape: [1]),
        Shard(name: "e", dtype: "I64", shape: []),
        Shard(name: "f", dtype: "F32", shape: [1]),
    ], rank: 0, worldSize: 1)
    #expect(layout.entries.map(\.shard.name) == ["d", "e", "c", "f", "b", "a"])
    #expect(layout.entries.map(\.dataOffset) == [0, 16, 24, 32, 36, 48])
    #expect(layout.entries.map(\.index) == [3, 4, 2, 5, 1, 0])
    #expect(layout.dataBytes == 51)
    #expect(layout.entries.allSatisfy { $0.dataOffset.isMultiple(of: $0.dtype.stored.bytes) })
}

@Test func privateShardsAreStoredUnderTheirRank() throws {
    let layout = try Layout.make(shards: [Shard(name: "rng", dtype: "U8", shape: [3], isPrivate: true)], rank: 12, worldSize: 16)
    #expect(layout.entries[0].storedName == "rank-00012/rng")
}

@Test func digestCoversNamesTypesPlacementAndOrder() throws {
    func digest(_ shards: [Shard]) throws -> String { try Layout.make(shards: shards, rank: 0, worldSize: 2).digest }
    let base = Shard(name: "w", dtype: "F32", shape: [2, 3], globalShape: [4, 3], offsets: [2, 0])
    var variants = [[base]]
    for change: (inout Shard) -> Void in [
        { $0.name = "v" }, { $0.dtype = "I32" }, { $0.globalShape = [5, 3] }, { $0.offsets = [1, 0] }, { $0.shape = [1, 3] }, { $0.shape = [6]; $0.offsets = [2] },
        { $0.replica = 0; $0.replicas = 2 }, { $0.globalShape = nil; $0.offsets = nil; $0.isPrivate = true },
    ] {
        var changed = base
        change(&changed)
        variants.append([changed])
    }
    let other = Shard(name: "x", dtype: "F32", shape: [1])
    variants += [[base, other], [other, base]]
    #expect(Set(try variants.map(digest)).count == variants.count)
    var lazy = base
    lazy.eager = false
    #expect(try digest([lazy]) == digest([base]), "how a shard is staged changes no byte of a file that holds only it")
}

@Test func emptyLayoutAndZeroSizesAreValid() throws {
    #expect(try Layout.make(shards: [], rank: 0, worldSize: 1).dataBytes == 0)
    let layout = try Layout.make(shards: [Shard(name: "z", dtype: "F32", shape: [0, 7]), Shard(name: "s", dtype: "F32", shape: [])],
                                 rank: 0, worldSize: 1)
    #expect(layout.dataBytes == 4)
}

struct BadShard: CustomTestStringConvertible, Sendable {
    let testDescription: String
    let shards: [Shard]
    init(_ description: String, _ shards: Shard...) { testDescription = description; self.shards = shards }

    static let all: [BadShard] = [
        BadShard("unknown dtype", Shard(name: "w", dtype: "F31", shape: [1])),
        BadShard("negative extent", Shard(name: "w", dtype: "F32", shape: [-1])),
        BadShard("two negative extents", Shard(name: "w", dtype: "F32", shape: [-2, -2])),
        BadShard("overflow", Shard(name: "w", dtype: "F32", shape: [1 << 40, 1 << 40])),
        BadShard("overflow by the element", Shard(name: "w", dtype: "C128", shape: [1 << 60])),
        BadShard("overflow hidden by zero", Shard(name: "w", dtype: "F32", shape: [1 << 40, 1 << 40, 0])),
        BadShard("overflowing global shape", Shard(name: "w", dtype: "F32", shape: [1, 1], globalShape: [1 << 40, 1 << 40])),
        BadShard("outside", Shard(name: "w", dtype: "F32", shape: [2], globalShape: [4], offsets: [3])),
        BadShard("negative offset", Shard(name: "w", dtype: "F32", shape: [2], globalShape: [4], offsets: [-1])),
        BadShard("overflowing offset", Shard(name: "w", dtype: "F32", shape: [2], globalShape: [4], offsets: [.max])),
        BadShard("dimensions differ", Shard(name: "w", dtype: "F32", shape: [2, 1], globalShape: [4])),
        BadShard("range outside", Shard(name: "w", dtype: "F32", shape: [2], globalShape: [2, 2], offsets: [3])),
        BadShard("range with a box's offsets", Shard(name: "w", dtype: "F32", shape: [2], globalShape: [2, 2], offsets: [1, 0])),
        BadShard("private range", Shard(name: "w", dtype: "F32", shape: [4], globalShape: [2, 2], isPrivate: true)),
        BadShard("range of an overflowing shape", Shard(name: "w", dtype: "U8", shape: [1], globalShape: [1 << 40, 1 << 40])),
        BadShard("offsets of other dimensions", Shard(name: "w", dtype: "F32", shape: [2], globalShape: [4], offsets: [0, 0])),
        BadShard("offsets without a whole", Shard(name: "w", dtype: "F32", shape: [2], offsets: [1])),
        BadShard("too many dimensions", Shard(name: "w", dtype: "U8", shape: Array(repeating: 1, count: 65))),
        BadShard("empty name", Shard(name: "", dtype: "U8", shape: [])),
        BadShard("NUL", Shard(name: "a\0b", dtype: "U8", shape: [])),
        BadShard("newline", Shard(name: "a\nb", dtype: "U8", shape: [])),
        BadShard("C1 control", Shard(name: "a\u{85}b", dtype: "U8", shape: [])),
        BadShard("long name", Shard(name: String(repeating: "n", count: 4097), dtype: "U8", shape: [])),
        BadShard("metadata", Shard(name: "__metadata__", dtype: "U8", shape: [])),
        BadShard("an object's key", Shard(name: "cairn.object.00000.x", dtype: "U8", shape: [])),
        BadShard("a private key", Shard(name: "rank-00001/x", dtype: "U8", shape: [])),
        BadShard("registered twice", Shard(name: "w", dtype: "U8", shape: []), Shard(name: "w", dtype: "U8", shape: [])),
        BadShard("private and global", Shard(name: "w", dtype: "U8", shape: []), Shard(name: "w", dtype: "U8", shape: [], isPrivate: true)),
        BadShard("two boxes of one name", Shard(name: "w", dtype: "U8", shape: [1], globalShape: [2], offsets: [0]),
                 Shard(name: "w", dtype: "U8", shape: [1], globalShape: [2], offsets: [1])),
        BadShard("replica alone", Shard(name: "w", dtype: "U8", shape: [], replica: 0)),
        BadShard("replica beyond", Shard(name: "w", dtype: "U8", shape: [], replica: 2, replicas: 2)),
        BadShard("private replica", Shard(name: "w", dtype: "U8", shape: [], replica: 0, replicas: 2, isPrivate: true)),
        BadShard("private part", Shard(name: "w", dtype: "U8", shape: [1], globalShape: [2], isPrivate: true)),
    ]
}

@Test(arguments: BadShard.all) func refusesShard(_ bad: BadShard) throws {
    do throws(LayoutError) {
        _ = try Layout.make(shards: bad.shards, rank: 0, worldSize: 2)
        Issue.record("was accepted")
    } catch {
        guard case .invalidShard(bad.shards[0].name, let reason) = error else { Issue.record("\(error)"); return }
        #expect(!reason.isEmpty)
    }
}

@Test func refusesRanksOutsideTheWorld() {
    for (rank, worldSize) in [(2, 2), (-1, 2), (0, 0), (0, 1 << 21)] {
        #expect(throws: LayoutError.self) { try Layout.make(shards: [], rank: rank, worldSize: worldSize) }
    }
}

@Test func refusesMoreThanAFileHolds() {
    let shards = (0..<3).map { Shard(name: "w\($0)", dtype: "U8", shape: [1 << 43]) }
    #expect(throws: LayoutError.tooLarge(what: "the shards of rank 0", bytes: 3 << 43, limit: 1 << 44)) {
        try Layout.make(shards: shards, rank: 0, worldSize: 1)
    }
}

@Test func aHundredThousandShardsAreLaidOutQuickly() throws {
    let shards = (0..<100_000).map { Shard(name: "model.layers.\($0).weight", dtype: "F32", shape: [4, 4], globalShape: [8, 4], offsets: [4, 0]) }
    let clock = ContinuousClock()
    var plan: FilePlan?
    let elapsed = try clock.measure {
        let layout = try Layout.make(shards: shards, rank: 0, worldSize: 2)
        plan = try FileHeader.make(layout: layout, objects: [], run: testRun, save: save(), rank: 0, worldSize: 2)
    }
    #expect(plan?.table.shards.count == 100_000)
    // Far above what a release build needs (see the commit), for a debug build on a loaded machine.
    #expect(elapsed < .seconds(60))
    print("layout and header of 100,000 shards: \(elapsed)")
}
