// Where everything of one rank's file of one save will be, known before a byte is staged. The shards are the layout's own array: a
// save of many tensors costs no copy of them, and saves of one layout share it.
import CairnModel

public struct FilePlan: Sendable {
    /// The file's first `dataStart` bytes, until they are taken.
    public private(set) var headerBytes: [UInt8]
    public let dataStart: Int
    public let fileBytes: Int
    public let objects: [StoredObject]
    private let rank: Int
    private let entries: [Layout.Entry]

    init(headerBytes: [UInt8], dataStart: Int, fileBytes: Int, objects: [StoredObject], layout: Layout) {
        self.headerBytes = headerBytes
        self.dataStart = dataStart
        self.fileBytes = fileBytes
        self.objects = objects
        rank = layout.rank
        entries = layout.entries
    }

    /// Gives the header away: a large one is not kept for as long as the save is known.
    public mutating func takeHeader() -> [UInt8] {
        let bytes = headerBytes
        headerBytes = []
        return bytes
    }

    /// The shard that holds a byte of the file.
    public func shardName(at fileOffset: Int) -> String? {
        entries.first { (0..<$0.bytes).contains(fileOffset - dataStart - $0.dataOffset) }?.shard.name
    }

    /// Shards in the order of the layout's entries, then objects in the order given. Made anew at each call.
    public var table: RankTable {
        let shards = entries.map { entry in
            var shard = entry.shard
            shard.eager = true                       // how it was staged is not part of what is stored
            return StoredShard(shard: shard, fileOffset: dataStart + entry.dataOffset, bytes: entry.bytes)
        }
        return RankTable(rank: rank, fileBytes: fileBytes, shards: shards, objects: objects)
    }
}
