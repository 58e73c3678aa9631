// Advise of dev.cairn.Operations: how often a run had best save (`cairn advise`, and `every="auto"` of the ranks).
import CairnModel

extension Operations {
    /// A minute to thirty years.
    public static let mtbfSeconds = 60...1_000_000_000

    /// What one change would allow at best.
    public struct Lever: WireFields {
        /// pool, globalTier, compression or memory.
        public var change: String
        public var intervalMs: Int
        public var usefulPpm: Int

        public init(change: String, intervalMs: Int, usefulPpm: Int) {
            self.change = change; self.intervalMs = intervalMs; self.usefulPpm = usefulPpm
        }
        public enum CodingKeys: String, CodingKey, CaseIterable { case change, intervalMs, usefulPpm }
    }

    /// The interval between saves that wastes least, by what was measured of the run's last saves, for a mean time
    /// between failures. Measured: medians; blocked is what a rank was held up, by save() and at the fence. Shares are of time, in millionths.
    /// NoSuchRun where nothing was measured.
    public enum Advise: WireMethod {
        public static let name = Operations.interface + ".Advise"
        public struct Parameters: WireFields {
            public var uid: UInt32?
            public var run: String
            public var mtbfSeconds: Int

            public init(uid: UInt32? = nil, run: String, mtbfSeconds: Int) {
                self.uid = uid; self.run = run; self.mtbfSeconds = mtbfSeconds
            }
            public enum CodingKeys: String, CodingKey, CaseIterable { case uid, run, mtbfSeconds }
        }
        public struct Reply: WireFields {
            public var saves: Int
            public var bytes: Int
            public var intervalMs: Int?
            public var blockedUs: Int
            public var stagedMs: Int?
            public var localMs: Int?
            public var committedMs: Int?
            public var restoreMs: Int?
            public var youngMs: Int
            public var dalyMs: Int
            public var bestMs: Int
            public var usefulNowPpm: Int?
            public var usefulBestPpm: Int
            public var levers: [Lever]

            public init(_ times: RunTimes, _ advice: SaveInterval) {
                func ms(_ seconds: Double) -> Int { Int((seconds * 1000).rounded()) }
                func ppm(_ share: Double) -> Int { Int((share * 1_000_000).rounded()) }
                saves = times.saves; bytes = times.bytes; intervalMs = times.intervalSeconds.map(ms)
                blockedUs = Int((times.blockedSeconds * 1_000_000).rounded())
                stagedMs = times.stagedSeconds.map(ms); localMs = times.localSeconds.map(ms); committedMs = times.committedSeconds.map(ms)
                restoreMs = times.restoreSeconds.map(ms)
                youngMs = ms(advice.youngSeconds); dalyMs = ms(advice.dalySeconds); bestMs = ms(advice.bestSeconds)
                usefulNowPpm = advice.usefulNow.map(ppm); usefulBestPpm = ppm(advice.usefulBest)
                levers = advice.levers.map { Lever(change: $0.change.rawValue, intervalMs: ms($0.intervalSeconds), usefulPpm: ppm($0.usefulShare)) }
            }
            public enum CodingKeys: String, CodingKey, CaseIterable { case saves, bytes, intervalMs, blockedUs, stagedMs, localMs, committedMs,
                restoreMs, youngMs, dalyMs, bestMs, usefulNowPpm, usefulBestPpm, levers }
        }
    }
}
