// The job that is simulated: how many ranks on how many nodes, and what each rank saves. Every rank holds a part of every tensor, cut as
// FSDP cuts it (rows in equal chunks, later ranks a part or nothing), tiny, so that thousands of whole rank files fit on one disk.
import CairnIO
import CairnMessages
import CairnModel
import CairnStore

struct World: Sendable {
    var ranks: Int
    var perNode: Int
    var tensors: Int
    var run = RunKey(uid: 1000, name: "scale")

    var nodes: Int { (ranks + perNode - 1) / perNode }
    func ranks(ofNode node: Int) -> Range<Int> { node * perNode..<min(ranks, (node + 1) * perNode) }

    /// Elements of a row, in BF16: a row is 64 bytes.
    static let columns = 32

    /// Names as long as those of a large model. Of eight tensors six have a row for each rank, one has more rows than ranks, so that the
    /// chunks of the last ranks are empty, and one has fewer.
    func tensor(_ index: Int) -> (name: String, rows: Int) {
        let parts = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj", "input_layernorm"]
        let rows: Int = switch index % 8 {
        case 5: max(1, ranks + ranks / 2)
        case 7: max(1, ranks / 2 + ranks / 8)
        default: ranks
        }
        return ("model.layers.\(index / 8).\(parts[index % 8]).weight", rows)
    }

    /// What a rank of a world of `ranks` holds of a tensor of `rows`: torch.chunk's cut.
    static func cut(rows: Int, rank: Int, of ranks: Int) -> (begin: Int, count: Int) {
        let chunk = (rows + ranks - 1) / ranks, begin = min(rows, rank * chunk)
        return (begin, min(rows, begin + chunk) - begin)
    }

    func shards(rank: Int) -> [Shard] {
        (0..<tensors).map { index in
            let (name, rows) = tensor(index), (begin, count) = Self.cut(rows: rows, rank: rank, of: ranks)
            return Shard(name: name, dtype: "BF16", shape: [count, Self.columns], globalShape: [rows, Self.columns], offsets: [begin, 0])
        }
    }

    /// What the Python client adds: each rank's tree, values and pickle.
    func objects() -> [ObjectInfo] { ["cairn.tree", "cairn.values", "cairn.pickle"].map { ObjectInfo(name: $0, scope: .rank, bytes: 64) } }

    /// The boxes that a rank of a world of another size asks for.
    func boxes(rank: Int, of ranks: Int) -> [Box] {
        (0..<tensors).compactMap { index in
            let (name, rows) = tensor(index), (begin, count) = Self.cut(rows: rows, rank: rank, of: ranks)
            return count == 0 ? nil : Box(name: name, offsets: [begin, 0], shape: [count, Self.columns])
        }
    }
}

/// A rank's file with its records, as the daemon would hand them to the tier worker.
struct RankPart {
    let key: RankSaveKey
    let bytes: [UInt8], checksums: [UInt8], manifestName: String, manifest: [UInt8]

    init(_ world: World, save: SaveID, rank: Int, count: Int) throws {
        key = RankSaveKey(run: world.run, save: save, rank: rank)
        let layout = try Layout.make(shards: world.shards(rank: rank), rank: rank, worldSize: world.ranks)
        let plan = try FileHeader.make(layout: layout, objects: world.objects(), run: world.run, save: save, rank: rank, worldSize: world.ranks)
        var bytes = plan.headerBytes
        bytes.reserveCapacity(plan.fileBytes)
        // Every byte tells its place, so that a restore which mixes files up is seen.
        for index in plan.dataStart..<plan.fileBytes { bytes.append(Self.byte(rank: rank, at: index - plan.dataStart)) }
        self.bytes = bytes
        let crcs = stride(from: 0, to: bytes.count, by: Sizes.blockBytes).map { Checksum.crc32c(seed: 0, bytes[$0..<min($0 + Sizes.blockBytes, bytes.count)]) }
        checksums = BlockChecksums.encode(crcs)
        manifest = Record.encode(Manifest(run: world.run, save: save, rank: rank, worldSize: world.ranks, layoutDigest: layout.digest, fileBytes: plan.fileBytes,
                                          dataStart: plan.dataStart, crcs: crcs, count: rank == 0 ? count : nil, savedAt: Clock.iso8601(Clock.utcSeconds()),
                                          node: "node-\(rank / world.perNode)"))
        manifestName = Names.manifest(rank: rank, digest: Record.nameDigest(manifest))
    }

    static func byte(rank: Int, at offset: Int) -> UInt8 { UInt8(truncatingIfNeeded: rank &* 31 &+ offset &* 7 &+ offset / 64) }
}
