// The times of saves that have not ended, taken from what the engine tells and from ranks' own calls; when one ends, its record.
//   Save ──► reply (call) · accepted ──► staged ──► local ──► global ──► committed      all on this daemon's monotonic clock
//                           fence: from the rank's Wait for staged until staged
// Nothing here depends on it: what cannot be timed (the daemon was started meanwhile) is left out.
import CairnMessages
import CairnModel
import CairnWire

public struct SaveTimes: Sendable {
    /// A stage that one rank's part has gone through, for the histograms. Nanoseconds.
    public enum Stage: Hashable, Sendable { case call(Int), fence(Int), staging(Int), poolWait(Int), flush(Tier, Int), commit(Int), save(Int) }

    /// What became known.
    public struct News: Sendable {
        public var stages: [Stage] = []
        /// It ended, at its level or failed.
        public var ended: Operations.PastSave?
        public init() {}
    }

    /// What the engine told.
    public struct Step: Sendable {
        public var key: RankSaveKey, level: Level, bytes: Int, at: Int, poolWaitNs: Int, reason: String?
        public init(key: RankSaveKey, level: Level, bytes: Int, at: Int, poolWaitNs: Int = 0, reason: String? = nil) {
            self.key = key; self.level = level; self.bytes = bytes; self.at = at; self.poolWaitNs = poolWaitNs; self.reason = reason
        }
    }

    private struct Open {
        let number: Int
        var worldSize = 0, acceptedMs = 0, poolWaitNs = 0
        var acceptedAt: Int?, callNs: Int?, fenceAt: Int?, fenceNs: Int?
        var reached: [Level: Int] = [:]
        /// Level at which it ends; `failed`: not known, only a commit or a failure ends it.
        var last = Level.failed
        init(number: Int) { self.number = number }
    }
    private var open: [RankSaveKey: Open] = [:]
    private var next = 0
    /// Of saves whose reply comes before the engine tells that they are accepted.
    private var answered: [RankSaveKey: Int] = [:]

    public init() {}
    public var count: Int { open.count }

    /// `Save` came at `at` (`utcMs`, for people). A held save (try 0) is timed up to staged, and leaves no record.
    public mutating func accepted(_ key: RankSaveKey, worldSize: Int, last: Level, at: Int, utcMs: Int) {
        guard open[key]?.acceptedAt == nil else { return }
        let call = answered.removeValue(forKey: key)
        change(key) { $0.worldSize = worldSize; $0.last = last; $0.acceptedAt = at; $0.acceptedMs = utcMs; $0.callNs = call }
    }

    /// A save that an earlier life of the daemon staged: what is seen of it begins now.
    public mutating func found(_ key: RankSaveKey, worldSize: Int, at: Int, utcMs: Int) {
        guard open[key] == nil else { return }
        change(key) { $0.worldSize = worldSize; $0.acceptedMs = utcMs; $0.acceptedAt = at }
    }

    /// `Save` was answered after so long.
    public mutating func called(_ key: RankSaveKey, nanoseconds: Int) -> Stage {
        if open[key] != nil { open[key]?.callNs = nanoseconds } else {
            // A repeated call of a save that has ended stays here; there are few.
            if answered.count >= KeeperLimits.queued { answered.removeAll() }
            answered[key] = nanoseconds
        }
        return .call(nanoseconds)
    }

    /// The rank waits for staged from now on.
    public mutating func fenceBegan(_ key: RankSaveKey, at: Int) {
        guard let known = open[key], known.fenceAt == nil, known.reached[.staged] == nil else { return }
        open[key]?.fenceAt = at
    }

    /// How long it has stood at its fence.
    public func fenceNs(_ key: RankSaveKey, at: Int) -> Int? {
        guard let known = open[key], known.reached[.staged] == nil else { return nil }
        return known.fenceAt.map { at - $0 }
    }

    public mutating func reached(_ step: Step) -> News {
        var news = News()
        guard var known = open[step.key], known.reached[step.level] == nil, step.level != .accepted else { return news }
        let begin = known.acceptedAt
        known.reached[step.level] = step.at
        known.poolWaitNs = max(known.poolWaitNs, step.poolWaitNs)
        switch step.level {
        case .staged:
            // A rank that did not wait has waited for nothing: it counts, else the blocked time would look worse than it is.
            known.fenceNs = known.fenceAt.map { step.at - $0 } ?? 0
            news.stages.append(.fence(known.fenceNs ?? 0))
            news.stages.append(.poolWait(known.poolWaitNs))
            if let begin { news.stages.append(.staging(step.at - begin)) }
        case .local, .global:
            if let staged = known.reached[.staged] { news.stages.append(.flush(step.level == .local ? .local : .global, step.at - staged)) }
        case .committed:
            // What a commit takes begins when this rank's part stands on the tier that commits.
            if let durable = known.reached[.global] ?? known.reached[.local] { news.stages.append(.commit(step.at - durable)) }
            if let begin, known.reached[.staged] != nil { news.stages.append(.save(step.at - begin)) }
        case .accepted, .failed: break
        }
        open[step.key] = known
        let isHeld = step.key.save.attemptTry == 0
        guard step.level == .failed || step.level == .committed || step.level >= known.last || (isHeld && step.level == .staged) else { return news }
        open[step.key] = nil
        if !isHeld { news.ended = record(step, known) }
        return news
    }

    private func record(_ step: Step, _ known: Open) -> Operations.PastSave {
        func since(_ level: Level) -> Int? {
            guard let begin = known.acceptedAt, let at = known.reached[level] else { return nil }
            return (at - begin) / 1000
        }
        let run = step.key.run
        return Operations.PastSave(
            uid: run.uid, run: run.name, save: step.key.save.description, step: step.key.save.step, rank: step.key.rank, worldSize: known.worldSize,
            acceptedMs: known.acceptedMs, level: step.level, bytes: step.bytes, callUs: known.callNs.map { $0 / 1000 }, fenceUs: known.fenceNs.map { $0 / 1000 },
            poolWaitUs: known.poolWaitNs / 1000, stagedUs: since(.staged), localUs: since(.local), globalUs: since(.global),
            committedUs: since(.committed), failedUs: since(.failed), reason: step.reason)
    }

    private mutating func change(_ key: RankSaveKey, _ body: (inout Open) -> Void) {
        var one = open[key] ?? Open(number: next)
        if open[key] == nil {
            next += 1
            if open.count >= KeeperLimits.openRecords, let oldest = open.min(by: { $0.value.number < $1.value.number })?.key { open[oldest] = nil }
        }
        body(&one)
        open[key] = one
    }
}
