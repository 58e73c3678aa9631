// What a run's past saves say together: where each one's time went, and which rank or tier is out of the ordinary. `cairn timeline` draws it.
//   accepted ──staging──► staged ──local──► durable on the local tier
//                                └──global──► durable on the global tier ──commit──► committed
//            (fence: how long before `staged` the rank stood still; pool: how long staging waited for room)
import CairnModel

/// A stage of a rank's save that takes time. Of `local` and `global`, which go on side by side, both begin at staged.
public enum TimelineStage: String, CaseIterable, Sendable {
    case staging, fence, pool, local, global, commit

    /// Microseconds; nil where that was not seen.
    public func time(_ save: Operations.PastSave) -> Int? {
        switch self {
        case .staging: save.stagedUs
        case .fence: save.fenceUs
        case .pool: save.poolWaitUs
        case .local: save.localUs.flatMap { local in save.stagedUs.map { max(0, local - $0) } }
        case .global: save.globalUs.flatMap { global in save.stagedUs.map { max(0, global - $0) } }
        case .commit: save.committedUs.flatMap { committed in (save.globalUs ?? save.localUs).map { max(0, committed - $0) } }
        }
    }

    public var title: String {
        switch self {
        case .staging: "staging"
        case .fence: "fence wait"
        case .pool: "wait for the pool"
        case .local: "local tier"
        case .global: "global tier"
        case .commit: "commit"
        }
    }
}

public struct Timeline: Sendable {
    public struct Save: Sendable {
        public let id: String, step: Int, acceptedMs: Int
        public let ranks: [Operations.PastSave]

        public var failure: String? { ranks.first { $0.level == .failed }.map { $0.reason ?? "no reason given" } }
        /// The rank whose stage took longest.
        public func slowest(_ stage: TimelineStage) -> (rank: Int, us: Int)? {
            ranks.compactMap { rank in stage.time(rank).map { (rank.rank, $0) } }.max { $0.1 < $1.1 }
        }
        /// The rank whose part was durable, or staged, last; of equal ones the lowest.
        public var last: Int? {
            ranks.compactMap { rank in (rank.globalUs ?? rank.localUs ?? rank.stagedUs).map { (rank.rank, $0 + lateUs(rank)) } }.max { ($0.1, $1.0) < ($1.1, $0.0) }?.0
        }
        public func median(_ stage: TimelineStage) -> Int? { Timeline.median(ranks.compactMap(stage.time)) }
        /// How much later than the first rank this one called `save()`, in microseconds. By clocks, where ranks are of several nodes.
        public func lateUs(_ rank: Operations.PastSave) -> Int { (rank.acceptedMs - acceptedMs) * 1000 }
        /// Since the first rank's `save()`, when all ranks had come so far.
        public func reachedUs(_ time: (Operations.PastSave) -> Int?) -> Int? { ranks.compactMap { rank in time(rank).map { $0 + lateUs(rank) } }.max() }
        /// Until the last thing that was seen of it.
        public var endUs: Int {
            reachedUs { [$0.stagedUs, $0.localUs, $0.globalUs, $0.committedUs, $0.failedUs].compactMap { $0 }.max() } ?? 0
        }
    }

    public let run: String
    /// Oldest first.
    public let saves: [Save]
    /// Ascending.
    public let ranks: [Int]

    /// `records`: as History gives them, of one node or of several.
    public init(run: String, _ records: [Operations.PastSave]) {
        self.run = run
        var order: [String] = [], byID: [String: [Operations.PastSave]] = [:]
        for record in records {
            if byID[record.save] == nil { order.append(record.save) }
            byID[record.save, default: []].append(record)
        }
        saves = order.compactMap { id in
            guard let ranks = byID[id]?.sorted(by: { $0.rank < $1.rank }), let first = ranks.first else { return nil }
            return Save(id: id, step: first.step, acceptedMs: ranks.map(\.acceptedMs).min() ?? 0, ranks: ranks)
        }.sorted { $0.acceptedMs < $1.acceptedMs }
        ranks = Set(records.map(\.rank)).sorted()
    }

    static func median(_ values: [Int]) -> Int? { values.isEmpty ? nil : values.sorted()[values.count / 2] }

    /// The longest time of each stage that any rank took.
    public func longest(_ stage: TimelineStage) -> Int { saves.compactMap { $0.slowest(stage)?.us }.max() ?? 0 }
    public func isSeen(_ stage: TimelineStage) -> Bool { saves.contains { $0.ranks.contains { stage.time($0) != nil } } }

    // MARK: what stands out

    /// A rank counts as slow in a save from this many times the median of the ranks and so much longer.
    private static let slowRatio = 1.5, slowUs = 20_000

    /// Sentences, the most important first.
    public var findings: [String] {
        guard !saves.isEmpty else { return ["no save of this run has ended on this node as far as the history goes back"] }
        return (failures + late.prefix(3) + stragglers + [last, share, blocked, backPressure].compactMap { $0 })
    }

    private var failures: [String] {
        let failed = saves.compactMap { save in save.failure.map { (save.step, $0) } }
        guard let last = failed.last else { return [] }
        return ["\(failed.count) of \(saves.count) saves failed; the last one, step \(last.0): \(last.1)"]
    }

    /// Ranks that are slower than the others in at least half of the saves.
    private var stragglers: [String] {
        [TimelineStage.staging, .local, .global].flatMap { stage in
            ranks.compactMap { rank -> (Double, String)? in
                var ratios: [Double] = [], own: [Int] = [], others: [Int] = [], seen = 0
                for save in saves where save.ranks.count >= 3 {
                    guard let record = save.ranks.first(where: { $0.rank == rank }), let time = stage.time(record), let median = save.median(stage) else { continue }
                    seen += 1
                    guard Double(time) >= Self.slowRatio * Double(median), time - median >= Self.slowUs else { continue }
                    ratios.append(Double(time) / Double(max(1, median)))
                    own.append(time)
                    others.append(median)
                }
                guard seen > 0, 2 * ratios.count >= seen, let time = Self.median(own), let median = Self.median(others) else { return nil }
                let ratio = ratios.sorted()[ratios.count / 2]
                return (ratio, "rank \(rank) is slow in \(stage.title): \(HumanDuration.short(microseconds: time)), the others \(HumanDuration.short(microseconds: median)) "
                    + "(\(HumanDuration.decimal(ratio, 1)) times), in \(ratios.count) of \(seen) saves")
            }.sorted { $0.0 > $1.0 }.prefix(3).map(\.1)
        }
    }

    /// Ranks that call `save()` when the others have long done so: they are slow in training.
    private var late: [String] {
        ranks.compactMap { rank in
            let waits = saves.filter { $0.ranks.count >= 3 }.compactMap { save -> Int? in
                guard let record = save.ranks.first(where: { $0.rank == rank }), let median = Self.median(save.ranks.map(save.lateUs)) else { return nil }
                return save.lateUs(record) - median
            }
            let long = waits.filter { $0 >= Self.lateUs }
            guard !long.isEmpty, 2 * long.count >= waits.count, let wait = Self.median(long) else { return nil }
            return "rank \(rank) saves \(HumanDuration.short(microseconds: wait)) after the others, in \(long.count) of \(waits.count) saves: it is slow before it saves"
        }
    }
    /// Ranks are seldom closer, and clocks of nodes neither.
    private static let lateUs = 100_000

    /// The rank that all others wait for: the last one whose part is durable, in most saves.
    private var last: String? {
        var times: [Int: [Int]] = [:], seen = 0
        for save in saves where save.ranks.count >= 3 && save.failure == nil {
            let durable = save.ranks.compactMap { rank in (rank.globalUs ?? rank.localUs).map { (rank: rank.rank, us: $0 + save.lateUs(rank)) } }
            guard let last = durable.max(by: { $0.us < $1.us }), let median = Self.median(durable.map(\.us)) else { continue }
            seen += 1
            if last.us - median >= Self.slowUs { times[last.rank, default: []].append(last.us - median) }
        }
        guard let (rank, waits) = times.max(by: { $0.value.count < $1.value.count }), 2 * waits.count > seen, let wait = Self.median(waits) else { return nil }
        return "rank \(rank) is the last to be durable in \(waits.count) of \(seen) saves: the others wait \(HumanDuration.short(microseconds: wait)) for it"
    }

    /// Of the time until committed, the stage that takes most, each at its slowest rank.
    private var share: String? {
        let whole = saves.filter { $0.failure == nil && $0.slowest(.commit) != nil }
        guard let total = Self.median(whole.map(\.endUs)), total > 0 else { return nil }
        let parts = [TimelineStage.staging, .local, .global, .commit].compactMap { stage in
            // In commit a rank waits for slower ones, too: what the commit itself takes is the shortest.
            Self.median(whole.compactMap { save in stage == .commit ? save.ranks.compactMap(stage.time).min() : save.slowest(stage)?.us }).map { (stage, $0) }
        }
        guard let most = parts.max(by: { $0.1 < $1.1 }) else { return nil }
        let all = parts.map { "\($0.0.title) \(HumanDuration.short(microseconds: $0.1))" }.joined(separator: ", ")
        return "a step is committed after \(HumanDuration.short(microseconds: total)) (median); most of it is \(most.0.title): \(all)"
    }

    private var blocked: String? {
        let blocked = saves.flatMap(\.ranks).map { (rank: $0.rank, us: ($0.callUs ?? 0) + ($0.fenceUs ?? 0)) }
        guard let median = Self.median(blocked.map(\.us)), let most = blocked.max(by: { $0.us < $1.us }) else { return nil }
        return "training stood still for \(HumanDuration.short(microseconds: median)) a save (median of ranks), at most \(HumanDuration.short(microseconds: most.us)) (rank \(most.rank))"
    }

    private var backPressure: String? {
        let waited = saves.filter { ($0.slowest(.pool)?.us ?? 0) >= 1000 }
        guard !waited.isEmpty else { return nil }
        return "staging waited for room in the pool in \(waited.count) of \(saves.count) saves, up to \(HumanDuration.short(microseconds: longest(.pool))): "
            + "a larger pool or a faster tier would help"
    }
}
