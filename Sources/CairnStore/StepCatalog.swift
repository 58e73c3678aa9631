// A step's index by name: made once per step and kept, so that each load looks up its boxes only. What it costs to make, and to look a
// box up in, goes with the step's runs of ranks, not with all boxes of all ranks.
import CairnModel

public struct StepCatalog: Sendable {
    public let step: Int, sequence: CommitSequence, save: SaveID, metadata: [String: String]
    public let layout: StoredLayout
    /// What it was made from, if that was a whole index.
    private let given: StepIndex?
    /// Where a tensor's shards are: run of ranks, and position in its table.
    struct Place: Sendable { let run: Int, shard: Int }
    let tensors: [String: [Place]]
    /// File, run and place in the run of each rank.
    struct Member: Sendable { let file: Int, run: Int, member: Int }
    let members: [Int: Member]
    /// Shared and keyed objects by name: file, and position in it.
    let objects: [String: [(file: Int, object: Int)]]

    public init(_ index: StepIndex) {
        self.init(step: index.step, sequence: index.sequence, save: index.save, metadata: index.metadata,
                  layout: StoredLayout(worldSize: index.worldSize, tables: index.ranks), given: index)
    }

    public init(step: Int, sequence: CommitSequence, save: SaveID, metadata: [String: String], layout: StoredLayout) {
        self.init(step: step, sequence: sequence, save: save, metadata: metadata, layout: layout, given: nil)
    }

    private init(step: Int, sequence: CommitSequence, save: SaveID, metadata: [String: String], layout: StoredLayout, given: StepIndex?) {
        var tensors: [String: [Place]] = [:], objects: [String: [(file: Int, object: Int)]] = [:], members: [Int: Member] = [:]
        for (position, run) in layout.runs.enumerated() {
            for (shard, stored) in run.shards.enumerated() where !stored.shard.isPrivate {
                tensors[stored.shard.name, default: []].append(Place(run: position, shard: shard))
            }
        }
        members.reserveCapacity(layout.files.count)
        let places = layout.members
        for (position, file) in layout.files.enumerated() {
            if let (run, member) = places[file.rank] { members[file.rank] = Member(file: position, run: run, member: member) }
            for (object, stored) in file.objects.enumerated() where stored.object.scope != .rank {
                objects[stored.object.name, default: []].append((position, object))
            }
        }
        self.step = step
        self.sequence = sequence
        self.save = save
        self.metadata = metadata
        self.layout = layout
        self.given = given
        self.tensors = tensors
        self.members = members
        self.objects = objects
    }

    /// All boxes of all ranks: made anew where this catalog is of a layout file.
    public var index: StepIndex {
        given ?? StepIndex(step: step, sequence: sequence, save: save, worldSize: layout.worldSize, metadata: metadata, ranks: layout.tables)
    }

    /// What a box may be cut from: one tensor, or one object as a row of bytes.
    struct Source {
        struct Piece { let rank: Int, offsets: [Int], shape: [Int], fileOffset: Int }
        enum Stored { case places([Place]), piece(Piece) }
        var dtype: DType
        var shape: [Int]
        /// Its pieces are ranges of the flattened tensor, with one offset and one extent.
        var isFlat = false
        var stored: Stored
    }

    func source(of box: Box, near: Set<Int>) throws(SliceError) -> Source {
        if let rank = box.rank {
            guard let member = members[rank] else {
                // A rank of the world whose file is not at hand, or no rank of it.
                throw rank >= 0 && rank < layout.worldSize ? .notCovered(name: box.name) : .noSuchTensor(name: box.name, rank: rank)
            }
            let run = layout.runs[member.run]
            if let index = run.shards.firstIndex(where: { $0.shard.isPrivate && $0.shard.name == box.name }) {
                return Source(run.shards[index].shard, .piece(piece(run, index, member.member)))
            }
            if let stored = layout.files[member.file].objects.first(where: { $0.object.name == box.name }) { return Self.object(rank, stored) }
            throw .noSuchTensor(name: box.name, rank: rank)
        }
        if let places = tensors[box.name] { return Source(layout.runs[places[0].run].shards[places[0].shard].shard, .places(places)) }
        if let places = objects[box.name], let place = places.first(where: { near.contains(layout.files[$0.file].rank) }) ?? places.first {
            return Self.object(layout.files[place.file].rank, layout.files[place.file].objects[place.object])
        }
        throw .noSuchTensor(name: box.name, rank: nil)
    }

    private static func object(_ rank: Int, _ stored: StoredObject) -> Source {
        Source(dtype: .u8, shape: [stored.object.bytes],
               stored: .piece(Source.Piece(rank: rank, offsets: [0], shape: [stored.object.bytes], fileOffset: stored.fileOffset)))
    }

    private func piece(_ run: RankRun, _ index: Int, _ member: Int) -> Source.Piece {
        let stored = run.shards[index], rank = run.rank(member)
        let dataStart = members[rank].map { layout.files[$0.file].dataStart } ?? 0
        return Source.Piece(rank: rank, offsets: run.offsets(ofShard: index, member) ?? Array(repeating: 0, count: stored.shard.shape.count),
                            shape: stored.shard.shape, fileOffset: dataStart + stored.fileOffset)
    }

    /// The stored pieces that have a part in a box (where they are flat: in a range): of each run its members from the first to the last that
    /// reach into it.
    func pieces(of source: Source, offsets: [Int], shape: [Int]) -> [Source.Piece] {
        switch source.stored {
        case .piece(let piece): return [piece]
        case .places(let places):
            return places.flatMap { place in
                let run = layout.runs[place.run]
                return Self.members(run, place.shard, offsets, shape).map { piece(run, place.shard, $0) }
            }
        }
    }

    private static func members(_ run: RankRun, _ index: Int, _ offsets: [Int], _ shape: [Int]) -> Range<Int> {
        let stored = run.shards[index].shard, move = run.moves[index]
        // What a damaged layout says is of other dimensions is no part of the box: without it the box is not covered.
        guard stored.shape.count == offsets.count else { return 0..<0 }
        var first = 0, last = run.count - 1
        for dimension in stored.shape.indices {
            // A member's box is in this dimension from begin + member * way, and must end after the wanted begin and begin before its end.
            let begin = stored.offsets?[dimension] ?? 0, way = move.isEmpty ? 0 : move[dimension]
            let least = offsets[dimension] - begin - stored.shape[dimension] + 1, most = offsets[dimension] + shape[dimension] - begin - 1
            if way == 0 {
                if least > 0 || most < 0 { return 0..<0 }
            } else if way > 0 {
                first = max(first, ceiling(least, way))
                last = min(last, floor(most, way))
            } else {
                first = max(first, ceiling(-most, -way))
                last = min(last, floor(-least, -way))
            }
        }
        return first <= last ? first..<last + 1 : 0..<0
    }

    private static func floor(_ value: Int, _ divisor: Int) -> Int { value >= 0 ? value / divisor : -((-value + divisor - 1) / divisor) }
    private static func ceiling(_ value: Int, _ divisor: Int) -> Int { -floor(-value, divisor) }
}

extension StepCatalog.Source {
    init(_ shard: Shard, _ stored: Stored) {
        // The layout's rules were checked when this step was read: a type that is unknown here cannot be in it.
        guard let dtype = DType(rawValue: shard.dtype) else { preconditionFailure("unchecked dtype '\(shard.dtype)'") }
        self.init(dtype: dtype, shape: shard.globalShape ?? shard.shape, isFlat: shard.isFlat, stored: stored)
    }
}
