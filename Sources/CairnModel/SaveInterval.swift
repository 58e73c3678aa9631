// How often to save: what an interval wastes, and the one that wastes least. Pure.
//
// With a mean time between failures M, a save every τ seconds that holds training up for δ, a lag L from save() until the save is committed,
// and R to restore and start again:
//   Young, first order      τ = √(2 δ M)                                   J. W. Young, CACM 17(9), 1974
//   Daly, exact             τ = M (1 + W₀(−e^(−1 − δ/M)))                  J. T. Daly, Future Generation Computer Systems 22(3), 2006, the minimum of his
//                                                                          equation for the total time, by Lambert's W
//   useful share of time    τ / (M e^((R + L)/M) (e^((τ + δ)/M) − 1))      the same equation; L is lost with each failure as R is, for what was
//                                                                          saved but is not committed is done again
// With y = τ/M Daly's is the root of ln(1 − y) + y + δ/M = 0, which falls from δ/M at 0 to −∞ at 1: found by halving.
import Glibc

/// What was measured of a run's saves; seconds, medians of the last ones. Another source of it may take the daemon's place.
public struct RunTimes: Hashable, Codable, Sendable {
    public var saves: Int
    public var bytes: Int
    /// Between the last saves; nil: there was one.
    public var intervalSeconds: Double?
    /// That a rank was held up: by save() itself, and at the fence.
    public var blockedSeconds: Double
    /// From save() until the level; nil: no save came that far.
    public var stagedSeconds: Double?, localSeconds: Double?, committedSeconds: Double?
    /// From the question for a step until all ranks had it.
    public var restoreSeconds: Double?
    public init(saves: Int = 0, bytes: Int = 0, intervalSeconds: Double? = nil, blockedSeconds: Double = 0, stagedSeconds: Double? = nil, localSeconds: Double? = nil,
                committedSeconds: Double? = nil, restoreSeconds: Double? = nil) {
        self.saves = saves; self.bytes = bytes; self.intervalSeconds = intervalSeconds; self.blockedSeconds = blockedSeconds
        self.stagedSeconds = stagedSeconds; self.localSeconds = localSeconds; self.committedSeconds = committedSeconds; self.restoreSeconds = restoreSeconds
    }
}

public struct SaveInterval: Hashable, Codable, Sendable {
    /// One change, and the best that it would allow.
    public struct Lever: Hashable, Codable, Sendable {
        public enum Change: String, Codable, CaseIterable, Sendable { case pool, globalTier, compression, memory }
        public var change: Change, intervalSeconds: Double, usefulShare: Double
    }
    public var youngSeconds: Double, dalySeconds: Double
    /// Daly's, but not below what the tiers need for one save: shorter ones would only queue.
    public var bestSeconds: Double
    /// Now: by the interval between the last saves.
    public var usefulNow: Double?, usefulBest: Double
    /// What helps most first; those that help nothing are left out.
    public var levers: [Lever]

    /// A save in less than this is held up by nothing that a change could take away.
    static let leastBlockedSeconds = 0.001

    public init(_ times: RunTimes, mtbfSeconds: Double) {
        let now = Cost(times)
        youngSeconds = Self.young(blocked: now.blocked, mtbf: mtbfSeconds)
        dalySeconds = Self.daly(blocked: now.blocked, mtbf: mtbfSeconds)
        let best = now.best(mtbf: mtbfSeconds)
        (bestSeconds, usefulBest) = best
        usefulNow = times.intervalSeconds.map { now.useful(interval: $0, mtbf: mtbfSeconds) }
        levers = Lever.Change.allCases.compactMap { change in
            let (interval, share) = now.with(change, times).best(mtbf: mtbfSeconds)
            return share > best.share + 1e-6 ? Lever(change: change, intervalSeconds: interval, usefulShare: share) : nil
        }.sorted { $0.usefulShare > $1.usefulShare }
    }

    public static func young(blocked: Double, mtbf: Double) -> Double { (2 * blocked * mtbf).squareRoot() }

    public static func daly(blocked: Double, mtbf: Double) -> Double {
        var low = 0.0, high = 1.0
        for _ in 0..<200 where high - low > 1e-15 {
            let middle = (low + high) / 2
            if log1p(-middle) + middle + blocked / mtbf > 0 { low = middle } else { high = middle }
        }
        return mtbf * (low + high) / 2
    }

    public static func useful(interval: Double, blocked: Double, lost: Double, mtbf: Double) -> Double {
        interval / (mtbf * exp(lost / mtbf) * expm1((interval + blocked) / mtbf))
    }

    private struct Cost {
        var blocked: Double, lag: Double, restore: Double
        /// What one save keeps the slowest part busy for.
        var busy: Double

        init(_ times: RunTimes) {
            blocked = max(times.blockedSeconds, SaveInterval.leastBlockedSeconds)
            lag = times.committedSeconds ?? times.localSeconds ?? times.stagedSeconds ?? 0
            restore = times.restoreSeconds ?? 0
            busy = lag
        }

        func useful(interval: Double, mtbf: Double) -> Double { SaveInterval.useful(interval: interval, blocked: blocked, lost: restore + lag, mtbf: mtbf) }
        func best(mtbf: Double) -> (interval: Double, share: Double) {
            let interval = max(SaveInterval.daly(blocked: blocked, mtbf: mtbf), busy)
            return (interval, useful(interval: interval, mtbf: mtbf))
        }

        func with(_ change: Lever.Change, _ times: RunTimes) -> Cost {
            var cost = self
            let staged = times.stagedSeconds ?? 0, local = times.localSeconds ?? staged
            switch change {
            // The pool holds the state: nobody waits for a drive.
            case .pool: cost.blocked = SaveInterval.leastBlockedSeconds
            // What comes after the local level takes half.
            case .globalTier:
                cost.lag = local + (lag - min(local, lag)) / 2
                cost.busy = cost.lag
            // A fifth less to write, which trained states give at best.
            case .compression:
                cost.lag = local + (lag - min(local, lag)) * 0.8
                cost.busy = cost.lag
            // A second copy in another node's memory: it stands when it is staged, and a restore reads memory.
            case .memory: (cost.lag, cost.busy, cost.restore) = (min(staged, lag), min(staged, lag), min(staged, restore))
            }
            return cost
        }
    }
}
