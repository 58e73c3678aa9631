// What a configuration comes to, as `cairnd --check --json` prints it: `cairn` reads no YAML.

public struct SetupFacts: Hashable, Codable, Sendable {
    public struct TierSetup: Hashable, Codable, Sendable {
        public var tier: Tier, paths: [String], reserveBytes: Int
        /// As in the configuration: auto, io_uring, threads; auto, on, off.
        public var io: String, direct: String
        public var retention: RetentionRules
        public init(tier: Tier, paths: [String], reserveBytes: Int, io: String, direct: String, retention: RetentionRules) {
            self.tier = tier; self.paths = paths; self.reserveBytes = reserveBytes; self.io = io; self.direct = direct; self.retention = retention
        }
    }
    public var socket: String, poolBytes: Int
    /// true, false or auto.
    public var lock: String
    public var tiers: [TierSetup]
    public init(socket: String, poolBytes: Int, lock: String, tiers: [TierSetup]) {
        self.socket = socket; self.poolBytes = poolBytes; self.lock = lock; self.tiers = tiers
    }
}
