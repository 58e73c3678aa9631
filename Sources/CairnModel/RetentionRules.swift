// What retention is asked to keep on one tier, as the configuration says it, and what is decided about each step. Values: they go to the
// tier's worker and back.

public struct RetentionRules: Hashable, Codable, Sendable {
    /// The newest so many steps stay. Nil: everything stays.
    public var keep: Int?
    /// Steps that this number divides stay.
    public var keepPeriod: Int?
    /// Of each period of so long, counted from 1970, the first step stays.
    public var keepEverySeconds: Int?
    /// Steps saved so long before the newest, or later, stay.
    public var keepWithinSeconds: Int?
    public var best: Best?
    /// Older steps go, whatever keeps them.
    public var maxAgeSeconds: Int?
    /// The oldest go while the run's steps take more.
    public var maxBytes: Int?

    /// The `count` steps stay whose metadata says the least, or most, number under `metric`.
    public struct Best: Hashable, Codable, Sendable {
        public enum Order: String, Codable, CaseIterable, Sendable { case min, max }
        public var metric: String, order: Order, count: Int
        public init(metric: String, order: Order = .min, count: Int = 1) { self.metric = metric; self.order = order; self.count = count }
    }

    public init(keep: Int?, keepPeriod: Int? = nil, keepEverySeconds: Int? = nil, keepWithinSeconds: Int? = nil, best: Best? = nil,
                maxAgeSeconds: Int? = nil, maxBytes: Int? = nil) {
        self.keep = keep; self.keepPeriod = keepPeriod; self.keepEverySeconds = keepEverySeconds; self.keepWithinSeconds = keepWithinSeconds
        self.best = best; self.maxAgeSeconds = maxAgeSeconds; self.maxBytes = maxBytes
    }
}

/// Why a step stays or goes.
public enum RetentionRule: String, Codable, CaseIterable, Sendable {
    // Stays, whatever the rules say.
    case newest, pinned, restoring, reading, onlyCopy
    // Stays by a rule of the configuration; `unlimited`: there is none.
    case unlimited, keep, keepWithin, keepPeriod, keepEvery, best
    // Goes.
    case noRule, superseded, maxAge, maxBytes, watermark
}

public struct RetentionDecision: Hashable, Codable, Sendable {
    public var step: Int
    /// Of a save that was never to be committed: what it would have been, its count 0 where that is not known.
    public var sequence: CommitSequence
    public var save: SaveID
    public var isCommitted: Bool
    /// On this tier; on a local one what this node holds of it.
    public var bytes: Int
    public var isKept: Bool, rule: RetentionRule
    /// One sentence for people.
    public var reason: String
    public init(step: Int, sequence: CommitSequence, save: SaveID, isCommitted: Bool, bytes: Int, isKept: Bool, rule: RetentionRule, reason: String) {
        self.step = step; self.sequence = sequence; self.save = save; self.isCommitted = isCommitted; self.bytes = bytes
        self.isKept = isKept; self.rule = rule; self.reason = reason
    }
}
