// What one seed's world is like: small limits, so that every edge is near.
import CairnEngine
import CairnModel

struct Settings {
    let run = RunKey(uid: 1000, name: "model")
    var daemons: Int, worldSize: Int, tiers: [Tier], largestChunks: Int, stepMs: Int, errorOdds: Int, retention: [Tier: RetentionRules]
    var hasDelayedViews: Bool
    /// Ranks know how many of them their node has (torchrun says so; not every launcher does).
    var saysLocalWorldSize: Bool
    var limits: EngineLimits
    var committing: Tier { tiers.contains(.global) ? .global : .local }
    var hasBeside: Bool { tiers.count == 2 }
    static let largestWorld = 4

    init(_ random: inout SeededRandom) {
        daemons = random.pick([1, 2, 2, 3])
        worldSize = random.int((daemons == 1 ? 1 : 2)...Self.largestWorld - 1)
        tiers = random.once(in: 3) ? [daemons == 1 ? random.pick([.local, .global]) : .global] : [.local, .global]
        largestChunks = random.pick([3, 6, 12, 22])
        stepMs = random.pick([30, 120, 400])
        errorOdds = random.pick([15, 60, 400, 1_000_000])
        hasDelayedViews = daemons > 1 && random.once(in: 2)
        saysLocalWorldSize = !random.once(in: 4)
        retention = [:]
        for tier in tiers where !random.once(in: 3) { retention[tier] = RetentionRules(keep: random.int(1...3), keepPeriod: nil) }
        limits = EngineLimits()
        limits.slots = 16
        limits.assignedPerRank = random.int(1...6)
        limits.writesPerTier = random.int(2...8)
        limits.fenceMs = 3_000
        limits.commitTimeoutMs = random.pick([8_000, 20_000])
        limits.attemptTimeoutMs = 6_000
        limits.leftoverMs = 2_000
        limits.standInMs = 3_000
        limits.choiceStandInMs = 1_500
        limits.stallMs = 500
        limits.quarantineMs = 4_000
        limits.retryMs = 50
        limits.pollLongestMs = 400
        limits.settleMs = 8_000
        limits.decisionTries = 3
        limits.endedPerRun = random.int(2...16)
        limits.unfinishedPerRun = 16
        limits.leftoverFinishMs = 6_000
        limits.haveMs = 200
        limits.numberBesideMs = 600
        limits.listsMs = 1_000
        limits.newestMs = 700
        limits.globalQueue = random.pick([2, 4, 8])
    }

    func finalLevel(_ upto: Level) -> Level {
        switch upto {
        case .accepted, .staged: .staged
        case .local: hasBeside ? .local : .committed
        default: .committed
        }
    }
}
