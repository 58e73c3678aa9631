// One rank's registered shards, checked and put into the order of the file: the plan that every save of this layout follows.
//
// Order: stored element size descending (so that each tensor is aligned to its elements and readers view it in place), within
// it eager before lazy (what must be staged first lies together), then as registered; back to back from data offset 0.
// (1) Every value of a Layout is valid: nothing that a rank sends is used before `make` has checked it.
// (2) The digest covers names, types, shapes, placement and order: equal digests mean equal bytes ranges for equal tensors.
import CairnModel

public struct Layout: Sendable {
    public struct Entry: Hashable, Sendable {
        /// Canonical: `offsets` stands exactly where `globalShape` does, and a private shard has neither.
        public let shard: Shard
        /// Its key in the file: the name, or `rank-00003/NAME` of a private one.
        public let storedName: String
        public let dtype: DType
        /// Counted from the file's first byte of data.
        public let dataOffset: Int
        public let bytes: Int
        /// Position among the registered shards: the sources have that order.
        public let index: Int
    }

    public let rank: Int
    public let worldSize: Int
    /// In file order.
    public let entries: [Entry]
    public let dataBytes: Int
    public let digest: String
    /// Parts of the header that are the same for every save.
    let rendered: RenderedLayout
    /// The shards' names: an object may not share one.
    let names: Set<String>

    public static func make(shards: [Shard], rank: Int, worldSize: Int) throws(LayoutError) -> Layout {
        try make(shards: shards, rank: rank, worldSize: worldSize, renders: true)
    }

    /// `renders` false: for whoever reads a header and makes none.
    static func make(shards: [Shard], rank: Int, worldSize: Int, renders: Bool) throws(LayoutError) -> Layout {
        guard (1...StoreLimits.worldSize).contains(worldSize) else {
            throw .invalidWorld(reason: "world size \(worldSize) is not in 1...\(StoreLimits.worldSize)")
        }
        guard (0..<worldSize).contains(rank) else {
            throw .invalidWorld(reason: "rank \(rank) is not in a world of \(worldSize)")
        }
        guard shards.count <= StoreLimits.shards else {
            throw .tooMany(what: "shards in one rank", count: shards.count, limit: StoreLimits.shards)
        }
        var checked: [CheckedShard] = []
        checked.reserveCapacity(shards.count)
        var names: Set<String> = []
        names.reserveCapacity(shards.count)
        for shard in shards {
            let value = try CheckedShard(shard)
            // One name, one box: also a private and a global tensor of one rank may not share a name.
            guard names.insert(shard.name).inserted else {
                throw .invalidShard(name: shard.name, reason: "is registered twice by rank \(rank); one rank holds one box of a tensor")
            }
            checked.append(value)
        }

        var entries: [Entry] = []
        entries.reserveCapacity(shards.count)
        var offset = 0
        let prefix = Names.privatePrefix(rank: rank)
        for elementBytes in [8, 4, 2, 1] {
            for eager in [true, false] {
                for (index, value) in checked.enumerated()
                where value.dtype.stored.bytes == elementBytes && value.shard.eager == eager {
                    let name = value.shard.isPrivate ? prefix + value.shard.name : value.shard.name
                    entries.append(Entry(shard: value.shard, storedName: name, dtype: value.dtype, dataOffset: offset,
                                         bytes: value.bytes, index: index))
                    let (end, overflow) = offset.addingReportingOverflow(value.bytes)
                    guard !overflow, end <= StoreLimits.fileBytes else {
                        throw .tooLarge(what: "the shards of rank \(rank)", bytes: overflow ? Int.max : end, limit: StoreLimits.fileBytes)
                    }
                    offset = end
                }
            }
        }
        precondition(entries.count == shards.count, "every dtype's stored element size is 8, 4, 2 or 1")
        let rendered = RenderedLayout(renders ? entries : [])
        let headerBytes = rendered.tensors.count + rendered.sharding.count + rendered.table.count
        guard headerBytes <= StoreLimits.headerBytes else {
            throw .tooLarge(what: "the header of rank \(rank)'s file", bytes: headerBytes, limit: StoreLimits.headerBytes)
        }
        return Layout(rank: rank, worldSize: worldSize, entries: entries, dataBytes: offset, digest: digest(of: entries), rendered: rendered, names: names)
    }

    /// Hex of 128 bits of SHA-256 over one line per entry. Names have no control characters, so the text is unambiguous.
    private static func digest(of entries: [Entry]) -> String {
        var text: [UInt8] = []
        text.reserveCapacity(entries.count * 96)
        func append(_ numbers: [Int]) {
            for number in numbers { text.append(UInt8(ascii: " ")); text.append(contentsOf: String(number).utf8) }
        }
        for entry in entries {
            let shard = entry.shard
            text.append(contentsOf: entry.storedName.utf8)
            text.append(9)
            text.append(contentsOf: shard.dtype.utf8)
            append(shard.shape)
            text.append(9)
            if let globalShape = shard.globalShape { append(globalShape); text.append(9); append(shard.offsets ?? []) }
            text.append(9)
            if let replica = shard.replica, let replicas = shard.replicas { append([replica, replicas]) }
            if shard.isPrivate { text.append(contentsOf: " private".utf8) }
            text.append(10)
        }
        return Digests.short(text)
    }
}
