// Tensors that each rank stores for itself though they are the same on all: bytes written as often as there are ranks. Pointed out once,
// in the log, when a save is committed.
// Only two ranks' checksums are compared, and only of blocks that lie wholly inside the tensor in both files: no data is read, nothing grows
// with the world, and a few equal bytes are not worth a word.
import CairnIO
import CairnMessages
import CairnModel
import CairnStore

struct EqualCopies {
    let folders: TierFolders
    /// The save's or step's folder, below the root.
    let folder: String

    /// What to say; nil: nothing.
    func note(_ tables: [RankTable]) throws -> String? {
        guard let one = tables.first, let other = tables.dropFirst().first else { return nil }
        let (left, right) = (try crcs(one), try crcs(other))
        let own = Dictionary(one.shards.filter(\.shard.isPrivate).map { ($0.shard.name, $0) }) { first, _ in first }
        var names: [String] = [], bytes = 0
        for stored in other.shards where stored.shard.isPrivate {
            guard let twin = own[stored.shard.name], twin.shard == stored.shard, twin.fileOffset == stored.fileOffset else { continue }
            // Rounded inwards: only blocks that hold nothing else.
            let begin = (twin.fileOffset + Sizes.blockBytes - 1) / Sizes.blockBytes
            let blocks = begin..<max(begin, (twin.fileOffset + twin.bytes) / Sizes.blockBytes)
            guard !blocks.isEmpty, blocks.upperBound <= min(left.count, right.count), left[blocks] == right[blocks] else { continue }
            names.append(stored.shard.name)
            bytes += twin.bytes
        }
        guard let first = names.first else { return nil }
        let others = names.count > 1 ? " and \(names.count - 1) more tensors" : ""
        return "'\(first)'\(others) (\((bytes + (1 << 20) - 1) >> 20) MiB) are equal on ranks \(one.rank) and \(other.rank), and each rank stores its own: "
            + "declare them replicas (`replicated=`), and they are written once"
    }

    private func crcs(_ table: RankTable) throws -> [UInt32] {
        let limit = BlockChecksums.fileBytes(blocks: Sizes.blocks(ofFile: table.fileBytes))
        return try BlockChecksums.decode(try Files.readAll(folders.first.folder, "\(folder)/\(Names.checksums(rank: table.rank))", limit: limit), fileBytes: table.fileBytes)
    }
}
