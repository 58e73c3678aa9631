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
