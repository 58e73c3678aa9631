// How far the streamed shards of one save have come. Their bytes come once, in the file's order, each piece where the one before it ended:
// so one number says what is missing, whatever connections pieces come by, and a pool far smaller than the state is enough.
import CairnModel

public struct StreamCursor: Sendable {
    private let entries: [Layout.Entry]
    private let dataStart: Int
    /// The shard that the next byte belongs to, and how many of its bytes came.
    private var number = 0, done = 0

    /// Nil: there is nothing to stream. `entries`: the streamed shards in file order.
    public init?(_ entries: [Layout.Entry], dataStart: Int) {
        self.entries = entries.filter { $0.bytes > 0 }
        self.dataStart = dataStart
        if self.entries.isEmpty { return nil }
    }

    /// Where the next byte lies in the file; nil: all have come.
    public var fileOffset: Int? { number < entries.count ? dataStart + entries[number].dataOffset + done : nil }

    /// The file offset of a piece that goes on here, which is behind it from now on.
    public mutating func take(_ name: String, begin: Int, bytes: Int) throws(LayoutError) -> Int {
        guard let fileOffset else { throw .invalidShard(name: name, reason: "all streamed bytes of this save have been put") }
        let entry = entries[number]
        guard name == entry.shard.name, begin == done else {
            throw .invalidShard(name: name, reason: "a piece of it begins at byte \(begin), but the next one to be put is byte \(done) of "
                + "'\(entry.shard.name)': streamed bytes come once, in the file's order")
        }
        guard bytes > 0, bytes <= entry.bytes - done else {
            throw .invalidShard(name: name, reason: "a piece of \(bytes) bytes at byte \(done): it has \(entry.bytes)")
        }
        done += bytes
        if done == entry.bytes { number += 1; done = 0 }
        return fileOffset
    }
}
