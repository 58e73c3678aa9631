// A step's index by name: made once per step and kept, so that each load looks up its boxes only.
import CairnModel

public struct StepCatalog: Sendable {
    /// Where a stored shard is: position of its rank's table and in that table.
    struct Place: Sendable { let table: Int, shard: Int }

    public let index: StepIndex
    let tensors: [String: [Place]]
    /// Position of each rank's table.
    let tables: [Int: Int]
    /// Shared and keyed objects by name.
    let objects: [String: [Place]]

    public init(_ index: StepIndex) {
        var tensors: [String: [Place]] = [:], objects: [String: [Place]] = [:], tables: [Int: Int] = [:]
        tensors.reserveCapacity(index.ranks.first?.shards.count ?? 0)
        for (position, table) in index.ranks.enumerated() {
            tables[table.rank] = position
            for (shard, stored) in table.shards.enumerated() where !stored.shard.isPrivate {
                tensors[stored.shard.name, default: []].append(Place(table: position, shard: shard))
            }
            for (object, stored) in table.objects.enumerated() where stored.object.scope != .rank {
                objects[stored.object.name, default: []].append(Place(table: position, shard: object))
            }
        }
        self.index = index
        self.tensors = tensors
        self.tables = tables
        self.objects = objects
    }

    /// What a box may be cut from: stored pieces of one tensor, or one object as a row of bytes.
    struct Source {
        struct Piece { let rank: Int, offsets: [Int], shape: [Int], fileOffset: Int }
        var dtype: DType
        var shape: [Int]
        var pieces: [Piece]
    }

    func source(of box: Box, near: Set<Int>) throws(SliceError) -> Source {
        if let rank = box.rank {
            guard let position = tables[rank] else {
                // A rank of the world whose file is not at hand, or no rank of it.
                throw rank >= 0 && rank < index.worldSize ? .notCovered(name: box.name) : .noSuchTensor(name: box.name, rank: rank)
            }
            let table = index.ranks[position]
            if let stored = table.shards.first(where: { $0.shard.isPrivate && $0.shard.name == box.name }) {
                return Self.tensor([(rank, stored)])
            }
            if let stored = table.objects.first(where: { $0.object.name == box.name }) { return Self.object(rank, stored) }
            throw .noSuchTensor(name: box.name, rank: rank)
        }
        if let places = tensors[box.name] {
            return Self.tensor(places.map { (index.ranks[$0.table].rank, index.ranks[$0.table].shards[$0.shard]) })
        }
        if let places = objects[box.name], let place = places.first(where: { near.contains(index.ranks[$0.table].rank) }) ?? places.first {
            return Self.object(index.ranks[place.table].rank, index.ranks[place.table].objects[place.shard])
        }
        throw .noSuchTensor(name: box.name, rank: nil)
    }

    private static func tensor(_ stored: [(rank: Int, shard: StoredShard)]) -> Source {
        let first = stored[0].shard.shard
        // The layout's rules were checked when this step was read: a type that is unknown here cannot be in it.
        guard let dtype = DType(rawValue: first.dtype) else { preconditionFailure("unchecked dtype '\(first.dtype)'") }
        let pieces = stored.map { rank, shard in
            Source.Piece(rank: rank, offsets: shard.shard.offsets ?? Array(repeating: 0, count: shard.shard.shape.count),
                         shape: shard.shard.shape, fileOffset: shard.fileOffset)
        }
        return Source(dtype: dtype, shape: first.globalShape ?? first.shape, pieces: pieces)
    }

    private static func object(_ rank: Int, _ stored: StoredObject) -> Source {
        Source(dtype: .u8, shape: [stored.object.bytes],
               pieces: [Source.Piece(rank: rank, offsets: [0], shape: [stored.object.bytes], fileOffset: stored.fileOffset)])
    }
}
