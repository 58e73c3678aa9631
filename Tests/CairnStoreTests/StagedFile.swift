// Rank files as tests put them on a tier.
import CairnIO
import CairnMessages
import CairnModel
import CairnStore

/// A rank's file in whole, as the stager would have put it into the pool.
struct StagedFile {
    let key: RankSaveKey, plan: FilePlan, layout: Layout, bytes: [UInt8], worldSize: Int

    /// `content`: of the tensors, instead of random bytes.
    init(_ shards: [Shard], objects: [(ObjectInfo, [UInt8])] = [], run: RunKey = testRun, save: SaveID, rank: Int = 0, worldSize: Int = 1, seed: UInt64 = 1,
         content: [UInt8]? = nil) throws {
        key = RankSaveKey(run: run, save: save, rank: rank)
        layout = try Layout.make(shards: shards, rank: rank, worldSize: worldSize)
        plan = try FileHeader.make(layout: layout, objects: objects.map(\.0), run: run, save: save, rank: rank, worldSize: worldSize)
        var generator = SeededGenerator(seed: seed &+ UInt64(rank) &* 1000)
        var bytes = plan.headerBytes
        bytes.reserveCapacity(plan.fileBytes + 8)
        if let content { bytes += content }
        while bytes.count < plan.dataStart + layout.dataBytes {
            let word = generator.next()
            for shift in stride(from: UInt64(0), to: 64, by: 8) { bytes.append(UInt8(truncatingIfNeeded: word >> shift)) }
        }
        bytes.removeLast(bytes.count - plan.dataStart - layout.dataBytes)
        for object in objects { bytes += object.1 }
        self.bytes = bytes
        self.worldSize = worldSize
    }

    var crcs: [UInt32] {
        stride(from: 0, to: bytes.count, by: Sizes.blockBytes).map { Checksum.crc32c(seed: 0, bytes[$0..<min($0 + Sizes.blockBytes, bytes.count)]) }
    }

    /// Said in its manifest.
    var previous: SaveID?, participants: [Int]?, upto = Level.committed

    func manifest(count: Int = 1) -> (name: String, record: [UInt8]) {
        let record = Record.encode(Manifest(run: key.run, save: key.save, rank: key.rank, worldSize: worldSize, layoutDigest: layout.digest, fileBytes: plan.fileBytes,
                                            dataStart: plan.dataStart, crcs: crcs, count: key.rank == 0 ? count : nil, previous: previous, participants: participants,
                                            upto: upto, savedAt: "2026-01-02T03:04:05Z", node: "n"))
        return (Names.manifest(rank: key.rank, digest: Record.nameDigest(record)), record)
    }

    func bytes(of name: String) -> [UInt8]? {
        if let stored = plan.table.shards.first(where: { $0.shard.name == name }) { return Array(bytes[stored.fileOffset..<stored.fileOffset + stored.bytes]) }
        guard let stored = plan.table.objects.first(where: { $0.object.name == name }) else { return nil }
        return Array(bytes[stored.fileOffset..<stored.fileOffset + stored.object.bytes])
    }
}

/// Several chunks, several dtypes, objects, an odd end.
func largeFile(_ id: SaveID, rank: Int = 0, worldSize: Int = 1) throws -> StagedFile {
    try StagedFile([
        Shard(name: "big", dtype: "F32", shape: [3000, 1000], globalShape: [3000 * worldSize, 1000], offsets: [3000 * rank, 0]),
        Shard(name: "odd", dtype: "U8", shape: [1_234_567], isPrivate: true), Shard(name: "empty", dtype: "F16", shape: [0], isPrivate: true),
        Shard(name: "scalar", dtype: "I64", shape: [], isPrivate: true),
    ], objects: [(ObjectInfo(name: "rng", scope: .rank, bytes: 777), [UInt8](repeating: UInt8(rank), count: 777)),
                 (ObjectInfo(name: "epoch", scope: .shared, bytes: 1), [7])], save: id, rank: rank, worldSize: worldSize, seed: 7)
}

/// A rank's part with one small private tensor, so that any set of ranks makes a whole save.
func smallPart(_ id: SaveID, rank: Int = 0, worldSize: Int = 1, run: RunKey = testRun, previous: SaveID? = nil, participants: [Int]? = nil,
               upto: Level = .committed) throws -> StagedFile {
    var file = try StagedFile([Shard(name: "w", dtype: "U8", shape: [100], isPrivate: true)], run: run, save: id, rank: rank, worldSize: worldSize)
    (file.previous, file.participants, file.upto) = (previous, participants, upto)
    return file
}

/// Rank files and manifests of a save that lie on a tier beside.
func besideSteps(_ drive: TierFolder) throws -> [Int] {
    Set(try drive.names("1000/llama").compactMap { Names.besideFile($0)?.save.step }).sorted()
}
