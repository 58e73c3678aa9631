// Retain of dev.cairn.Operations: what retention does with each step, and why (`cairn gc`).

extension Operations {
    /// One step, or one save that was to stay on its node, on one tier.
    public struct RetainedStep: WireFields {
        public var step: Int
        public var sequence: Int
        public var save: String
        public var committed: Bool
        /// On this tier; on a local one beside a global one what this node holds of it.
        public var bytes: Int
        public var kept: Bool
        /// newest, pinned, restoring, reading, onlyCopy; unlimited, keep, keepWithin, keepPeriod, keepEvery, best; noRule, superseded, maxAge, maxBytes, watermark.
        public var rule: String
        public var reason: String

        public init(step: Int, sequence: Int, save: String, committed: Bool, bytes: Int, kept: Bool, rule: String, reason: String) {
            self.step = step; self.sequence = sequence; self.save = save; self.committed = committed; self.bytes = bytes
            self.kept = kept; self.rule = rule; self.reason = reason
        }
        public enum CodingKeys: String, CodingKey, CaseIterable { case step, sequence, save, committed, bytes, kept, rule, reason }
    }

    public struct RetainedTier: WireFields {
        public var tier: String
        /// Why nothing could be decided here.
        public var problem: String?
        /// Newest first.
        public var steps: [RetainedStep]

        public init(tier: String, problem: String? = nil, steps: [RetainedStep]) {
            self.tier = tier; self.problem = problem; self.steps = steps
        }
        public enum CodingKeys: String, CodingKey, CaseIterable { case tier, problem, steps }
    }

    public struct RetainedRun: WireFields {
        public var uid: UInt32
        public var run: String
        public var tiers: [RetainedTier]

        public init(uid: UInt32, run: String, tiers: [RetainedTier]) {
            self.uid = uid; self.run = run; self.tiers = tiers
        }
        public enum CodingKeys: String, CodingKey, CaseIterable { case uid, run, tiers }
    }

    /// Applies retention to a run, or to all that the caller sees, and says of each step what was decided. With dryRun nothing is removed.
    /// evictBytes: how much the local tier is above its low watermark, once it is above its high one.
    public enum Retain: WireMethod {
        public static let name = Operations.interface + ".Retain"
        public struct Parameters: WireFields {
            public var uid: UInt32?
            public var run: String?
            public var dryRun: Bool

            public init(uid: UInt32? = nil, run: String? = nil, dryRun: Bool) {
                self.uid = uid; self.run = run; self.dryRun = dryRun
            }
            public enum CodingKeys: String, CodingKey, CaseIterable { case uid, run, dryRun }
        }
        public struct Reply: WireFields {
            public var runs: [RetainedRun]
            public var evictBytes: Int

            public init(runs: [RetainedRun], evictBytes: Int) {
                self.runs = runs; self.evictBytes = evictBytes
            }
            public enum CodingKeys: String, CodingKey, CaseIterable { case runs, evictBytes }
        }
    }
}
