// What stands on a disk of the simulation. Published names are durable; a temporary file is its worker's own.
import CairnMessages
import CairnModel

/// The bytes of one chunk: which save's, and of which call of `save()` (two calls never hold equal bytes).
struct ChunkContent: Hashable {
    var key: RankSaveKey, chunk: Int, nonce: Int
}

/// A pool slot or a buffer slot.
enum SlotContent: Hashable {
    case garbage
    case chunk(ChunkContent)
}

struct PublishedFile {
    var chunks: [ChunkContent], worldSize: Int, fileBytes: Int, count: Int?
}

final class TemporaryFile {
    let key: RankSaveKey, fileBytes: Int
    var chunks: [SlotContent?], synced: Set<Int> = []
    init(key: RankSaveKey, fileBytes: Int) {
        self.key = key; self.fileBytes = fileBytes
        chunks = Array(repeating: nil, count: Sizes.chunks(ofFile: fileBytes))
    }
}

/// Files that one tier holds, published by link.
class ModelDisk {
    var files: [RankSaveKey: PublishedFile] = [:]
    /// Copies of decisions beside, the decisions themselves on the committing tier.
    var decisions: [SaveID: DecisionOutcome] = [:]
    var committed: [CommitSequence: SaveID] = [:]
    var freeSpace = true

    func newest() -> CommitSequence? { committed.keys.max() }
}

struct RestoreName: Hashable { var attempt: Int, restore: Int }

/// The committing tier, shared by all daemons: every name is given once.
final class CommittingDisk: ModelDisk {
    var attempts: [String: Int] = [:]
    var choices: [RestoreName: Candidate?] = [:]
    var settled: [RestoreName: [Int: Bool]] = [:]
    var verdicts: [RestoreName: Bool] = [:]
    var parents: [CommitSequence: CommitSequence?] = [:]
    /// Committed once, and when removed by retention.
    var everCommitted: [CommitSequence: SaveID] = [:]

    func missingRanks(_ run: RunKey, _ save: SaveID, worldSize: Int) -> [Int] {
        (0..<worldSize).filter { files[RankSaveKey(run: run, save: save, rank: $0)] == nil }
    }
}
