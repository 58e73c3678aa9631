// How the ranks of an attempt agree on one step. `restore-K.json` is the choice, the same answer for every rank;
// `settled-K-NODE.json` says how one daemon's ranks fared with it; `settle-K.json` ends it: done, or again with K+1.
import CairnModel

public struct RestoreChoice: RecordValue, Hashable {
    public var format: String
    public var attempt: Int
    public var restore: Int
    /// All nil: there is nothing to restore.
    public var step: Int?
    public var sequence: CommitSequence?
    public var save: SaveID?
    /// Committed, or how far a save has come that every rank holds.
    public var level: Level?

    public init(attempt: Int, restore: Int, step: Int?, sequence: CommitSequence?, save: SaveID?, level: Level?) {
        format = FileHeader.format
        self.attempt = attempt
        self.restore = restore
        self.step = step
        self.sequence = sequence
        self.save = save
        self.level = level
    }

    public func problem() -> String? {
        if attempt < 1 || restore < 0 { return "restore \(restore) of attempt \(attempt)" }
        let parts = [step != nil, sequence != nil, save != nil, level != nil]
        if Set(parts).count != 1 { return "a choice names a step, its sequence, save and level, or none of them" }
        if let step, let save, save.step != step { return "save \(save) is not of step \(step)" }
        return nil
    }
}

public struct SettleRecord: RecordValue, Hashable {
    public var format: String
    public var node: String
    public var attempt: Int
    public var restore: Int
    public var ranks: [Int]
    public var ok: Bool
    public var reason: String?

    public init(node: String, attempt: Int, restore: Int, ranks: [Int], ok: Bool, reason: String?) {
        format = FileHeader.format
        self.node = node
        self.attempt = attempt
        self.restore = restore
        self.ranks = ranks
        self.ok = ok
        self.reason = reason
    }

    public func problem() -> String? {
        if attempt < 1 || restore < 0 { return "restore \(restore) of attempt \(attempt)" }
        if ranks.isEmpty && ok { return "no rank settled" }
        if ranks.contains(where: { $0 < 0 || $0 >= StoreLimits.worldSize }) { return "ranks \(ranks)" }
        return nil
    }
}

public struct SettleVerdict: RecordValue, Hashable {
    public var format: String
    public var attempt: Int
    public var restore: Int
    public var ok: Bool
    public var reason: String?

    public init(attempt: Int, restore: Int, ok: Bool, reason: String?) {
        format = FileHeader.format
        self.attempt = attempt
        self.restore = restore
        self.ok = ok
        self.reason = reason
    }

    public func problem() -> String? {
        attempt < 1 || restore < 0 ? "restore \(restore) of attempt \(attempt)" : nil
    }
}
