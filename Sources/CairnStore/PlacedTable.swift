// Ranks' tables while a commit gathers them. In a large job thousands of ranks hold the same tensors in the same shapes and differ only in
// where their boxes begin: what they share is kept once, and each rank is some numbers. A world of 8,192 ranks of 400 tensors takes 52 MiB
// so, where tables in full take more than a GiB.
import CairnIO
import CairnModel

/// A rank's shards without where their boxes begin: offsets are zeros, and `fileOffset` counts from the first byte of data.
final class ShardKind: Sendable {
    let shards: [StoredShard]
    init(_ shards: [StoredShard]) { self.shards = shards }
}

/// One rank's table: what its kind says, and these numbers.
public struct PlacedTable: Sendable {
    public let rank: Int, dataStart: Int, fileBytes: Int
    public let objects: [StoredObject]
    let kind: ShardKind
    /// Where each box begins, one behind the other, of the shards that have offsets.
    let offsets: [Int]

    var shards: [StoredShard] {
        var at = 0
        return kind.shards.map { shard in
            var stored = shard
            if let dimensions = shard.shard.offsets?.count {
                stored.shard.offsets = Array(offsets[at..<at + dimensions])
                at += dimensions
            }
            stored.fileOffset += dataStart
            return stored
        }
    }

    /// In full.
    public var table: RankTable { RankTable(rank: rank, fileBytes: fileBytes, shards: shards, objects: objects) }

    /// What it takes of memory, about.
    public var memoryBytes: Int { 256 + offsets.count * 8 + objects.count * 128 }
}

/// The kinds of one save's ranks. Tables are compared with each other only if the same `ShardKinds` placed them.
public final class ShardKinds: Sendable {
    private let kinds = Monitor<[Int: [ShardKind]]>([:])

    public init() {}

    public func place(_ table: RankTable) -> PlacedTable {
        let dataStart = table.shards.first?.fileOffset ?? table.objects.first?.fileOffset ?? table.fileBytes
        var shards = table.shards, offsets: [Int] = [], hasher = Hasher()
        for index in shards.indices {
            shards[index].fileOffset -= dataStart
            if let begin = shards[index].shard.offsets {
                offsets += begin
                shards[index].shard.offsets = Array(repeating: 0, count: begin.count)
            }
            hasher.combine(shards[index].shard.name)
            hasher.combine(shards[index].shard.shape)
        }
        return PlacedTable(rank: table.rank, dataStart: dataStart, fileBytes: table.fileBytes, objects: table.objects,
                           kind: kind(shards, hash: hasher.finalize()), offsets: offsets)
    }

    private func kind(_ shards: [StoredShard], hash: Int) -> ShardKind {
        // Compared outside the lock, on which other threads wait, but for what was added meanwhile.
        let known = kinds.withLock { $0[hash] ?? [] }
        if let kind = known.first(where: { $0.shards == shards }) { return kind }
        return kinds.withLock { kinds in
            if let kind = (kinds[hash] ?? []).dropFirst(known.count).first(where: { $0.shards == shards }) { return kind }
            let kind = ShardKind(shards)
            kinds[hash, default: []].append(kind)
            return kind
        }
    }
}
