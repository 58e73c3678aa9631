// Which steps may go from one tier: one pure function, which the daemon, `cairn gc --dry-run` and the simulation use, so that what is shown
// is what is done.
// (1) Never goes: the newest committed step (where none is committed the newest save), a pinned one, one that a restore names, one that is
//     read. On a local tier beside a global one: nor a committed step newer than all that the global tier is known to hold.
// (2) Else a step stays if any rule keeps it: `keep` counts committed steps and saves that were to stay on their node together; the rules
//     with a time, a period or a metric speak of committed steps of the line only (`keepWithin`: of such saves too).
// (3) Superseded steps go first: one counts for `keep` only when no other is left to count, and no other rule keeps it.
// (4) What is left after the rules is limited: too old goes, then the oldest while there is too much, then, while the filesystem is too
//     full, the oldest that the global tier holds too. Limits never touch what (1) names.
// (5) A step whose time cannot be read counts as new, and takes part in no rule that needs a time.

public struct RetentionStep: Hashable, Sendable {
    public enum Hold: Hashable, Sendable { case restoring, reading }
    /// `pinned` of it counts, `bytes` and `superseded` do not.
    public var summary: StepSummary
    /// Else it was to go no further than its node, and its sequence is made of its attempt and rank 0's count.
    public var isCommitted: Bool
    /// Rank 0's count is not known here: all of the run are then ordered by save.
    public var isOrdered: Bool
    public var savedAtSeconds: Int?
    public var bytes: Int
    public var metadata: [String: String]
    public var hold: Hold?
    public init(_ summary: StepSummary, isCommitted: Bool = true, isOrdered: Bool = true, savedAtSeconds: Int? = nil, bytes: Int? = nil,
                metadata: [String: String] = [:], hold: Hold? = nil) {
        self.summary = summary; self.isCommitted = isCommitted; self.isOrdered = isOrdered; self.savedAtSeconds = savedAtSeconds
        self.bytes = bytes ?? summary.bytes; self.metadata = metadata; self.hold = hold
    }
    fileprivate var sequence: CommitSequence { summary.sequence }
}

/// What else a decision depends on.
public struct RetentionSituation: Sendable {
    /// Wall clock, seconds since 1970.
    public var now: Int
    /// A local tier beside a global one.
    public var isBeside: Bool
    /// Beside: the newest sequence that the global tier is known to hold; nil: nothing is known of it.
    public var standing: CommitSequence?
    /// Beside: the steps that the global tier was just seen to hold whole.
    public var elsewhere: Set<CommitSequence>
    /// Bytes that should go because the filesystem is too full.
    public var evictBytes: Int
    public init(now: Int = 0, isBeside: Bool = false, standing: CommitSequence? = nil, elsewhere: Set<CommitSequence> = [], evictBytes: Int = 0) {
        self.now = now; self.isBeside = isBeside; self.standing = standing; self.elsewhere = elsewhere; self.evictBytes = evictBytes
    }
}

public enum Retention {
    /// A decision for each step, oldest first.
    public static func decide(_ steps: [RetentionStep], _ rules: RetentionRules, _ situation: RetentionSituation = RetentionSituation()) -> [RetentionDecision] {
        let isOrdered = steps.allSatisfy(\.isOrdered)
        let order = steps.sorted { isOrdered ? ($0.sequence, $0.summary.save) < ($1.sequence, $1.summary.save) : $0.summary.save < $1.summary.save }
        let superseded = Lineage.superseded(steps.filter(\.isCommitted).map(\.summary))
        func isOld(_ step: RetentionStep) -> Bool { step.isCommitted && superseded.contains(step.sequence) }
        let newest = (order.last(where: \.isCommitted) ?? order.last)?.summary.save
        let keeping = Keeping(order, isOld: isOld, rules)
        var decisions = order.map { step -> RetentionDecision in
            let (isKept, rule, reason) = verdict(step, newest, isOld(step), keeping, situation)
            return RetentionDecision(step: step.summary.step, sequence: step.sequence, save: step.summary.save, isCommitted: step.isCommitted, bytes: step.bytes,
                                     isKept: isKept, rule: rule, reason: reason)
        }
        limit(&decisions, order, isOld, rules, situation)
        return decisions
    }

    private static func verdict(_ step: RetentionStep, _ newest: SaveID?, _ isOld: Bool, _ keeping: Keeping, _ situation: RetentionSituation) -> (Bool, RetentionRule, String) {
        if step.summary.save == newest { return (true, .newest, step.isCommitted ? "the newest committed step" : "the newest save, and none is committed") }
        if step.summary.pinned { return (true, .pinned, "pinned") }
        switch step.hold {
        case .restoring: return (true, .restoring, "the running attempt restored it, or is about to")
        case .reading: return (true, .reading, "it is being read")
        case nil: break
        }
        if situation.isBeside, step.isCommitted, situation.standing.map({ step.sequence > $0 }) ?? true {
            return (true, .onlyCopy, "the global tier is not known to hold a step as new as this")
        }
        if let (rule, reason) = keeping.rule(for: step) { return (true, rule, reason) }
        return isOld ? (false, .superseded, "superseded: the job went back and left it behind") : (false, .noRule, "no rule keeps it")
    }

    private static func limit(_ decisions: inout [RetentionDecision], _ order: [RetentionStep], _ isOld: (RetentionStep) -> Bool, _ rules: RetentionRules,
                              _ situation: RetentionSituation) {
        let untouched: Set<RetentionRule> = [.newest, .pinned, .restoring, .reading, .onlyCopy]
        if let most = rules.maxAgeSeconds {
            for (place, step) in order.enumerated() where decisions[place].isKept && !untouched.contains(decisions[place].rule) {
                if let saved = step.savedAtSeconds, situation.now - saved > most { decisions[place].remove(.maxAge, "older than \(Quantity.durationText(most * 1000))") }
            }
        }
        // The order in which more goes: superseded, then oldest.
        let places = order.indices.filter { isOld(order[$0]) } + order.indices.filter { !isOld(order[$0]) }
        if let most = rules.maxBytes {
            var bytes = decisions.reduce(0) { $0 + ($1.isKept ? $1.bytes : 0) }
            for place in places where bytes > most && decisions[place].isKept && !untouched.contains(decisions[place].rule) {
                decisions[place].remove(.maxBytes, "the run's steps take more than \(Quantity.sizeText(most))")
                bytes -= decisions[place].bytes
            }
        }
        var freed = decisions.reduce(0) { $0 + ($1.isKept ? 0 : $1.bytes) }
        for place in places where freed < situation.evictBytes && decisions[place].isKept && !untouched.contains(decisions[place].rule) {
            guard order[place].isCommitted, situation.elsewhere.contains(order[place].sequence) else { continue }
            decisions[place].remove(.watermark, "the filesystem is above its high watermark, and the global tier holds it")
            freed += decisions[place].bytes
        }
    }

    /// Which steps each rule keeps.
    private struct Keeping {
        private let rules: RetentionRules
        private var newest: Set<SaveID> = [], within: Set<SaveID> = [], every: Set<SaveID> = [], best: [SaveID: Int] = [:], old: Set<SaveID> = []

        init(_ order: [RetentionStep], isOld: (RetentionStep) -> Bool, _ rules: RetentionRules) {
            self.rules = rules
            let line = order.filter { !isOld($0) }, committed = line.filter(\.isCommitted)
            old = Set(order.filter(isOld).map(\.summary.save))
            if let keep = rules.keep { newest = Set((line.reversed() + order.filter(isOld).reversed()).prefix(max(1, keep)).map(\.summary.save)) }
            if let seconds = rules.keepWithinSeconds, let last = line.compactMap(\.savedAtSeconds).max() {
                within = Set(line.filter { $0.savedAtSeconds.map { $0 >= last - seconds } ?? false }.map(\.summary.save))
            }
            if let seconds = rules.keepEverySeconds, seconds > 0 {
                var seen: Set<Int> = []
                for step in committed { if let saved = step.savedAtSeconds, seen.insert(saved / seconds).inserted { every.insert(step.summary.save) } }
            }
            if let wanted = rules.best {
                let values = committed.enumerated().compactMap { place, step in
                    step.metadata[wanted.metric].flatMap(Double.init).flatMap { $0.isFinite ? (value: wanted.order == .min ? $0 : -$0, place: place, step: step) : nil }
                }
                // Of equal ones the newer.
                for (rank, found) in values.sorted(by: { ($0.value, -$0.place) < ($1.value, -$1.place) }).prefix(max(0, wanted.count)).enumerated() {
                    best[found.step.summary.save] = rank + 1
                }
            }
        }

        func rule(for step: RetentionStep) -> (RetentionRule, String)? {
            let save = step.summary.save
            guard let keep = rules.keep else { return (.unlimited, "no count is set: everything stays") }
            if newest.contains(save) { return (.keep, "among the newest \(max(1, keep))") }
            if within.contains(save), let seconds = rules.keepWithinSeconds { return (.keepWithin, "saved within \(Quantity.durationText(seconds * 1000)) of the newest") }
            guard step.isCommitted, !old.contains(save) else { return nil }
            if let period = rules.keepPeriod, period > 0, step.summary.step.isMultiple(of: period) { return (.keepPeriod, "a multiple of \(period)") }
            if every.contains(save), let seconds = rules.keepEverySeconds { return (.keepEvery, "the first of its \(Quantity.durationText(seconds * 1000))") }
            if let rank = best[save], let wanted = rules.best {
                return (.best, "number \(rank) by \(wanted.metric), \(wanted.order == .min ? "least" : "most") first: \(step.metadata[wanted.metric] ?? "")")
            }
            return nil
        }
    }
}

extension RetentionDecision {
    fileprivate mutating func remove(_ rule: RetentionRule, _ reason: String) {
        isKept = false
        self.rule = rule
        self.reason = reason
    }
}
