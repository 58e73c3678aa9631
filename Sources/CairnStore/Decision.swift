// The one file that decides a save: `attempts/000017/17-1200-1.json`, published by `link`, never replaced.
//   {"commit": {…}, "format", "run", "save", "uid", "verdict": "commit", "digest"}
//   {"format", "reason": "…", "run", "save", "uid", "verdict": "void", "digest"}
// The first one stands: whoever links second reads back what was decided.
import CairnModel

public enum Decision: Hashable, Sendable {
    case commit(Commit)
    case void(reason: String)
}

public struct DecisionRecord: RecordValue, Hashable {
    public var format: String
    public var uid: UInt32
    public var run: String
    public var save: SaveID
    private var verdict: Verdict
    private var commit: Commit?
    private var reason: String?

    private enum Verdict: String, Codable { case commit, void }

    public init(run: RunKey, save: SaveID, _ decision: Decision) {
        format = FileHeader.format
        uid = run.uid
        self.run = run.name
        self.save = save
        switch decision {
        case .commit(let commit): (verdict, self.commit) = (.commit, commit)
        case .void(let reason): (verdict, self.reason) = (.void, reason)
        }
    }

    public var runKey: RunKey { RunKey(uid: uid, name: run) }

    public var decision: Decision {
        if let commit { return .commit(commit) }
        return .void(reason: reason ?? "")
    }

    public func problem() -> String? {
        if !RunKey.isValidName(run) { return "the run's name '\(run)' is not valid" }
        if (verdict == .commit) != (commit != nil) || (verdict == .void) != (reason != nil) { return "a decision is either a commit or void" }
        guard let commit else { return nil }
        if commit.save != save { return "the commit is of save \(commit.save), the decision of \(save)" }
        return commit.problem()
    }
}

/// What a node keeps of a decision, and all that is told of it between a tier's worker and main: of a commit's rows those of the node's own
/// ranks, by which its tier beside proves their files, whatever the size of the world.
public struct DecisionCopy: RecordValue, Hashable {
    public var format: String
    public var decision: DecisionRecord
    /// Ascending by rank. Those of ranks that were not asked for, or whose rows could not be read any more, are not here.
    public var rows: [ManifestRow]

    public init(_ decision: DecisionRecord, rows: [ManifestRow]) {
        format = FileHeader.format
        self.decision = decision
        self.rows = rows
    }

    public var commit: Commit? {
        guard case .commit(let commit) = decision.decision else { return nil }
        return commit
    }

    public func row(of rank: Int) -> ManifestRow? { rows.first { $0.rank == rank } }

    public func problem() -> String? {
        if let problem = decision.problem() { return problem }
        if zip(rows, rows.dropFirst()).contains(where: { $0.rank >= $1.rank }) { return "rows are not in order" }
        for row in rows {
            if let problem = row.problem() { return problem }
            guard commit?.row(of: row.rank) != nil else { return "a row of rank \(row.rank), which no commit names" }
        }
        return nil
    }
}
