// Where everything of one rank's file of one save will be, known before a byte is staged.
import CairnModel

public struct FilePlan: Sendable {
    /// The file's first `dataStart` bytes.
    public let headerBytes: [UInt8]
    public let dataStart: Int
    public let fileBytes: Int
    /// Shards in the order of the layout's entries, then objects in the order given.
    public let table: RankTable
}
