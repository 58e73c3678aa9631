// The commit: what makes a step whole. It is part of the decision's record, which is also the step folder's `checkpoint.json`.
// It does not grow with the world: what it says of each rank is a row of the manifests' file, which it names by digest.
// A branch's first step, sequence 0-1, is a step of another run under a second name: its files are that run's, and say so.
import CairnModel

public struct Commit: Codable, Hashable, Sendable {
    public var sequence: CommitSequence
    /// The step that its attempt restored; nil: none.
    public var parent: CommitSequence?
    public var step: Int
    public var save: SaveID
    public var worldSize: Int
    /// The ranks that take part, ascending; nil: all.
    public var participants: [Int]?
    /// SHA-256 of the head of `manifests-DIGEST.bin` in the step's folder, which has a row for each of these ranks.
    public var manifestsDigest: String
    /// `layout-DIGEST.json` in the step's folder.
    public var layoutFile: String
    /// Of all ranks' files.
    public var bytes: Int
    public var metadata: [String: String]
    public var savedAt: String
    /// The step that a branch begins with; nil in every other commit.
    public var origin: StepOrigin?
    /// What the manifests and headers of a branch's first step call themselves: not its origin's name where that was a branch's too.
    public var writtenAs: WrittenAs?

    public struct WrittenAs: Codable, Hashable, Sendable {
        public var run: String, save: SaveID
        public init(run: String, save: SaveID) { self.run = run; self.save = save }
    }

    public init(sequence: CommitSequence, parent: CommitSequence?, step: Int, save: SaveID, worldSize: Int, rows: [ManifestRow], manifestsDigest: String,
                layoutFile: String, metadata: [String: String], savedAt: String) {
        self.sequence = sequence
        self.parent = parent
        self.step = step
        self.save = save
        self.worldSize = worldSize
        participants = rows.count == worldSize ? nil : rows.map(\.rank)
        self.manifestsDigest = manifestsDigest
        self.layoutFile = layoutFile
        bytes = rows.reduce(0) { $0 + $1.fileBytes }
        self.metadata = metadata
        self.savedAt = savedAt
    }

    public static let branchSequence = CommitSequence(attempt: 0, count: 1)

    /// This step, of `run`, as the first of a branch: before every attempt of the branch, without a parent.
    public func branched(from run: String) -> Commit {
        var first = self
        first.origin = StepOrigin(run: run, step: step, sequence: sequence, save: save)
        first.writtenAs = writtenAs ?? WrittenAs(run: run, save: save)
        first.sequence = Self.branchSequence
        first.parent = nil
        first.save = SaveID(attempt: 0, step: step, attemptTry: 1)
        return first
    }

    public var ranks: [Int] { participants ?? Array(0..<worldSize) }
    public var rankCount: Int { participants?.count ?? worldSize }

    /// The rank of a row of the manifests' file.
    func rank(at row: Int) -> Int { participants?[row] ?? row }

    /// The row of a rank; nil: it does not take part.
    public func row(of rank: Int) -> Int? {
        guard let participants else { return (0..<worldSize).contains(rank) ? rank : nil }
        var low = 0, high = participants.count
        while low < high {
            let middle = (low + high) / 2
            if participants[middle] < rank { low = middle + 1 } else { high = middle }
        }
        return low < participants.count && participants[low] == rank ? low : nil
    }

    public var manifestsFile: String { Names.manifests(digest: String(manifestsDigest.prefix(StoreLimits.nameDigestDigits))) }

    public var folder: String { Names.stepFolder(step: step, sequence: sequence) }

    public func summary(pinned: Bool, superseded: Bool = false) -> StepSummary {
        StepSummary(step: step, sequence: sequence, save: save, parent: parent, ranks: rankCount, worldSize: worldSize, bytes: bytes,
                    pinned: pinned, superseded: superseded, savedAt: savedAt, origin: origin)
    }

    func problem() -> String? {
        if save.step != step || save.attempt != sequence.attempt { return "save \(save) is not of step \(step) and sequence \(sequence)" }
        if (origin != nil) != (sequence.attempt == 0) || (origin != nil) != (writtenAs != nil) { return "sequence \(sequence) of a branch's first step says its origin, and no other" }
        if let origin {
            if sequence != Self.branchSequence || parent != nil || origin.step != step { return "a branch begins with sequence \(Self.branchSequence), not \(sequence)" }
            if !RunKey.isValidName(origin.run) { return "the origin's name '\(origin.run)' is not valid" }
        }
        if sequence.attempt < 0 || sequence.count < 1 { return "sequence \(sequence) counts from 1" }
        if let parent, parent >= sequence { return "parent \(parent) is not before \(sequence)" }
        if !(1...StoreLimits.worldSize).contains(worldSize) { return "world size \(worldSize)" }
        if let participants {
            if participants.first != 0 { return "rank 0 is not among the participants" }
            if zip(participants, participants.dropFirst()).contains(where: { $0 >= $1 }) { return "participants are not in order" }
            if (participants.last ?? 0) >= worldSize { return "a participant is outside the world of \(worldSize)" }
            if participants.count == worldSize { return "all ranks are named as participants" }
        }
        if !Digests.isFull(manifestsDigest) { return "'\(manifestsDigest)' is not the digest of the manifests' rows" }
        if bytes < 0 || bytes / rankCount > StoreLimits.fileBytes { return "\(bytes) bytes of \(rankCount) files" }
        if Names.layoutDigest(layoutFile) == nil { return "'\(layoutFile)' is not the name of a layout file" }
        return nil
    }
}
