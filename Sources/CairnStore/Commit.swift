// The commit: what makes a step whole. It is part of the decision's record, which is also the step folder's `checkpoint.json`.
// A branch's first step, sequence 0-1, is a step of another run under a second name: its files are that run's, and say so.
import CairnModel

/// One rank's manifest as a commit names it.
public struct ManifestRef: Codable, Hashable, Sendable {
    public var rank: Int
    /// File name in the save's folder.
    public var name: String
    /// The record's whole digest.
    public var digest: String
    public var fileBytes: Int
    public var contentDigest: String
    public init(rank: Int, name: String, digest: String, fileBytes: Int, contentDigest: String) {
        self.rank = rank; self.name = name; self.digest = digest; self.fileBytes = fileBytes; self.contentDigest = contentDigest
    }
}

public struct Commit: Codable, Hashable, Sendable {
    public var sequence: CommitSequence
    /// The step that its attempt restored; nil: none.
    public var parent: CommitSequence?
    public var step: Int
    public var save: SaveID
    public var worldSize: Int
    public var participants: [Int]
    /// One for each participant, in their order.
    public var manifests: [ManifestRef]
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

    public init(sequence: CommitSequence, parent: CommitSequence?, step: Int, save: SaveID, worldSize: Int, manifests: [ManifestRef],
                layoutFile: String, metadata: [String: String], savedAt: String) {
        self.sequence = sequence
        self.parent = parent
        self.step = step
        self.save = save
        self.worldSize = worldSize
        participants = manifests.map(\.rank)
        self.manifests = manifests
        self.layoutFile = layoutFile
        bytes = manifests.reduce(0) { $0 + $1.fileBytes }
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

    public var folder: String { Names.stepFolder(step: step, sequence: sequence) }

    public func summary(pinned: Bool, superseded: Bool = false) -> StepSummary {
        StepSummary(step: step, sequence: sequence, save: save, parent: parent, ranks: participants.count, worldSize: worldSize, bytes: bytes,
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
        if participants != manifests.map(\.rank) || participants.isEmpty { return "participants and manifests differ" }
        if zip(participants, participants.dropFirst()).contains(where: { $0 >= $1 }) { return "participants are not in order" }
        if participants.contains(where: { !(0..<worldSize).contains($0) }) { return "a participant is outside the world of \(worldSize)" }
        for manifest in manifests {
            guard case .manifest(manifest.rank, let digest)? = Names.rankFile(manifest.name), manifest.digest.hasPrefix(digest),
                  Digests.isFull(manifest.digest), Digests.isFull(manifest.contentDigest) else {
                return "'\(manifest.name)' is not the name of rank \(manifest.rank)'s manifest"
            }
            if !(0...StoreLimits.fileBytes).contains(manifest.fileBytes) { return "'\(manifest.name)': \(manifest.fileBytes) bytes" }
        }
        if bytes != manifests.reduce(0, { $0 + $1.fileBytes }) { return "\(bytes) bytes are not the sum of the ranks' files" }
        if Names.layoutDigest(layoutFile) == nil { return "'\(layoutFile)' is not the name of a layout file" }
        return nil
    }
}
