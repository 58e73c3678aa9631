// One maker per thing, with defaults for what a test does not care about, and a seeded generator.
import CairnIO
import CairnMessages
import CairnModel
import CairnStore

/// SplitMix64: the same numbers for the same seed on every machine.
struct SeededGenerator: RandomNumberGenerator {
    private var state: UInt64
    init(seed: UInt64) { state = seed }
    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var value = state
        value = (value ^ (value >> 30)) &* 0xBF58_476D_1CE4_E5B9
        value = (value ^ (value >> 27)) &* 0x94D0_49BB_1331_11EB
        return value ^ (value >> 31)
    }
}

let testRun = RunKey(uid: 1000, name: "llama")
let nothingGiven = RetentionGiven(protectedSaves: [], protectedSequences: [])

func save(_ step: Int = 1200, attempt: Int = 17, attemptTry: Int = 1) -> SaveID {
    SaveID(attempt: attempt, step: step, attemptTry: attemptTry)
}

/// The shards and objects of the committed fixture: something of each kind.
func fixtureShards(rank: Int) -> [Shard] {
    [
        Shard(name: "model.bias", dtype: "BF16", shape: [3], isPrivate: true),
        Shard(name: "model.weight", dtype: "F32", shape: [2, 3], globalShape: [4, 3], offsets: [2 * rank, 0], eager: false),
        Shard(name: "model.norm \"quoted\\\" é", dtype: "F64", shape: [2], replica: rank, replicas: 2),
        Shard(name: "rotary", dtype: "C128", shape: [2], globalShape: [4], offsets: [2 * rank]),
        Shard(name: "scalar", dtype: "I64", shape: [], isPrivate: true),
        Shard(name: "empty", dtype: "F16", shape: [0, 5], isPrivate: true),
        Shard(name: "scale", dtype: "F8_E8M0", shape: [5], isPrivate: true),
        Shard(name: "mask", dtype: "BOOL", shape: [1, 4], globalShape: [2, 4], offsets: [rank, 0]),
    ]
}

func fixtureObjects(rank: Int) -> [ObjectInfo] {
    [ObjectInfo(name: "epoch", scope: .shared, bytes: 1), ObjectInfo(name: "rng/state", scope: .rank, bytes: 7),
     ObjectInfo(name: "loader", scope: .keyed, key: "shard-\(rank)", bytes: 0)]
}

func fixturePlan(rank: Int) throws -> FilePlan {
    try FileHeader.make(layout: Layout.make(shards: fixtureShards(rank: rank), rank: rank, worldSize: 2),
                        objects: fixtureObjects(rank: rank), run: testRun, save: save(), rank: rank, worldSize: 2)
}

/// Data bytes count up, so that each value is known from its place in the file.
func fixtureFile(rank: Int) throws -> [UInt8] {
    let plan = try fixturePlan(rank: rank)
    var bytes = plan.headerBytes + (0..<plan.fileBytes - plan.dataStart).map { UInt8(truncatingIfNeeded: $0 + 100 * rank) }
    // A BOOL is 0 or 1.
    for stored in plan.table.shards where stored.shard.dtype == "BOOL" {
        for index in stored.fileOffset..<stored.fileOffset + stored.bytes { bytes[index] &= 1 }
    }
    return bytes
}

func table(rank: Int, _ shards: [Shard], worldSize: Int = 64) throws -> RankTable {
    let layout = try Layout.make(shards: shards, rank: rank, worldSize: worldSize)
    return try FileHeader.make(layout: layout, objects: [], run: testRun, save: save(), rank: rank, worldSize: worldSize).table
}

func manifest(rank: Int = 0, worldSize: Int = 2, count: Int? = nil) -> Manifest {
    Manifest(run: testRun, save: save(), rank: rank, worldSize: worldSize, layoutDigest: String(repeating: "a", count: 32),
             fileBytes: 300_000, dataStart: 4096, crcs: [1, 2], count: rank == 0 ? count ?? 41 : nil,
             metadata: rank == 0 ? ["note": "a/b \"c\""] : nil, savedAt: "2026-01-02T03:04:05Z", node: "node-1")
}

func manifestRow(rank: Int, worldSize: Int = 2) -> ManifestRow {
    let manifest = manifest(rank: rank, worldSize: worldSize)
    return ManifestRow(rank: rank, fileBytes: 300_000, digest: Record.digest(Record.encode(manifest)) ?? "", contentDigest: manifest.contentDigest)
}

func commit(sequence: CommitSequence = CommitSequence(attempt: 17, count: 41), worldSize: Int = 2, ranks: [Int]? = nil) -> Commit {
    let rows = (ranks ?? Array(0..<worldSize)).map { manifestRow(rank: $0, worldSize: worldSize) }
    return Commit(sequence: sequence, parent: CommitSequence(attempt: 16, count: 9), step: 1200, save: save(), worldSize: worldSize,
                  rows: rows, manifestsDigest: ManifestRows.encode(rows).digest, layoutFile: Names.layout(digest: String(repeating: "b", count: 32)),
                  metadata: [:], savedAt: "2026-01-02T03:04:05Z")
}
