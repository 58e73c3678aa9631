// What stands on a disk of the simulation: one tier's names. A temporary file is its worker's own and dies with it.
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

/// A rank's file with its manifest.
struct PublishedFile {
    var chunks: [ChunkContent], fileBytes: Int, worldSize: Int, participants: [Int]?, count: Int?, previous: SaveID?, parent: CommitSequence?
    var upto: Level
    /// The launch that saved it.
    var token: String
    var members: [Int] { participants ?? Array(0..<worldSize) }
    /// Where it stands on a local tier, it was to go that far at least: promoted from memory.
    var foundUpto: Level { max(upto, .local) }
}

final class TemporaryFile {
    let key: RankSaveKey, fileBytes: Int
    var chunks: [SlotContent?], synced: Set<Int> = []
    init(key: RankSaveKey, fileBytes: Int) {
        self.key = key; self.fileBytes = fileBytes
        chunks = Array(repeating: nil, count: Sizes.chunks(ofFile: fileBytes))
    }
}

struct Decision: Equatable {
    var outcome: DecisionOutcome, parent: CommitSequence?, worldSize: Int, participants: [Int]?, token: String?
    var sequence: CommitSequence? { if case .committed(let sequence) = outcome { sequence } else { nil } }
    var members: [Int] { participants ?? Array(0..<worldSize) }
    static func void(_ reason: String) -> Decision {
        Decision(outcome: .void(reason: reason), parent: nil, worldSize: 0, participants: nil, token: nil)
    }
}

struct RestoreName: Hashable { var attempt: Int, restore: Int }
struct NodeName: Hashable { var attempt: Int, restore: Int, node: Int, part = 0 }
struct AttemptValue: Equatable { var token: String, worldSize: Int }

final class ModelDisk {
    let run: RunKey
    let files = Names<RankSaveKey, PublishedFile>()
    /// On a disk beside: copies of decisions.
    let decisions = Names<SaveID, Decision>()
    /// Those that nobody can read any more.
    var damaged: Set<SaveID> = []
    let attempts = Names<Int, AttemptValue>()
    let haves = Names<NodeName, HaveList>()
    let choices = Names<RestoreName, Candidate?>()
    let settled = Names<NodeName, [Int: Bool]>()
    let verdicts = Names<RestoreName, Bool>()
    /// `step-…` folders.
    let steps = Names<CommitSequence, SaveID>()
    var removed: Set<CommitSequence> = []
    /// Parts that retention took though no file decided on them: saves that were to go no further.
    var retired: Set<RankSaveKey> = []
    var freeSpace = true
    var hasChanged = false

    init(run: RunKey) { self.run = run }

    func key(_ save: SaveID, _ rank: Int) -> RankSaveKey { RankSaveKey(run: run, save: save, rank: rank) }
    /// Undecided saves that were to be committed and all of whose parts are published, and since when.
    var undecidedWhole: [(save: SaveID, since: Int, count: Int)] {
        let saves = Set(files.entries.keys.map(\.save)).filter { decisions[$0] == nil }
        return saves.sorted().compactMap { save in
            let parts = files.entries.filter { $0.key.save == save }
            guard let first = parts.first?.value.value, first.upto > .local, isWhole(save, members: first.members), let count = files[key(save, 0)]?.count,
                  let since = parts.map(\.value.at).max() else { return nil }
            return (save, since, count)
        }
    }
    /// Every part of it stands here, with bytes of one launch.
    func isWhole(_ save: SaveID, members: [Int]) -> Bool {
        let parts = members.compactMap { files[key(save, $0)] }
        return parts.count == members.count && Set(parts.map(\.token)).count == 1
    }

    /// What a node's crash takes of what it had not synced.
    func loseUnsynced(_ isLost: () -> Bool) -> Int {
        hasChanged = true
        defer { damaged = damaged.filter { decisions[$0] != nil } }
        return files.loseUnsynced(sorted: { ($0.save, $0.rank) < ($1.save, $1.rank) }, isLost)
            + decisions.loseUnsynced(sorted: <, isLost) + attempts.loseUnsynced(sorted: <, isLost)
            + haves.loseUnsynced(sorted: { ($0.attempt, $0.node) < ($1.attempt, $1.node) }, isLost)
            + choices.loseUnsynced(sorted: { ($0.attempt, $0.restore) < ($1.attempt, $1.restore) }, isLost)
            + settled.loseUnsynced(sorted: { ($0.attempt, $0.restore, $0.node) < ($1.attempt, $1.restore, $1.node) }, isLost)
            + verdicts.loseUnsynced(sorted: { ($0.attempt, $0.restore) < ($1.attempt, $1.restore) }, isLost)
            + steps.loseUnsynced(sorted: <, isLost)
    }
}
