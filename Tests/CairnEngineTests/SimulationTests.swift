// Many seeded histories of daemons, ranks and faults; each invariant is checked after every event. `make simulate SEEDS=…` runs more.
import CairnSimulation
import Glibc
import Testing

@Suite struct SimulationTests {
    static let seeds: ClosedRange<UInt64> = 1...48

    /// What so few seeds come to only by luck; `make simulate` shows what more of them reach.
    static let rare: Set<Situation> = [.endedByDeadLaunch, .renumbered, .claimLost, .commitMetVoid, .voidMetCommit, .settledBeside, .linkLostByNodeCrash, .slotsRested,
                                       .retryCommitted, .twoLiveAttemptsSave, .promotedCommitted, .voidedByPrevious, .leftoverVoided]

    /// `make sanitize` gives them more: they take five times as long with a sanitizer.
    static let minutes = getenv("CAIRN_SIMULATION_MINUTES").flatMap { Int(String(cString: $0)) } ?? 5

    @Test(.timeLimit(.minutes(minutes))) func everyInvariantHoldsInEveryHistory() {
        var coverage = Coverage(), events = 0, commits = 0, failures = 0, failed: [String] = []
        for seed in Self.seeds {
            let world = World(HistoryOptions(seed: seed))
            if let violation = world.run() { failed.append("seed \(seed): \(violation)") }
            coverage.merge(world.coverage)
            events += world.events
            commits += world.commits
            failures += world.failures
        }
        print("simulation: \(Self.seeds.count) seeds, \(commits) commits, \(failures) rank saves failed, \(events) events, \(coverage.states.count) distinct states")
        #expect(failed.isEmpty, "replay with `cairn-simulate --seed N --verbose`: \(failed.prefix(20).joined(separator: "\n"))")
        #expect(coverage.missing.filter { !Self.rare.contains($0) }.isEmpty, "these situations are to be reached and were not")
        #expect(coverage.states.count > 800, "the histories meet too few states to prove much")
    }

    /// One seed, one history: what fails can be looked at again.
    @Test func aSeedReplays() {
        func history(_ seed: UInt64) -> [String] {
            var options = HistoryOptions(seed: seed)
            options.recordsHistory = true
            options.faultMs = 3_000
            let world = World(options)
            _ = world.run()
            return world.history
        }
        #expect(history(7) == history(7))
        #expect(history(7) != history(8))
    }

    /// The smallest history that fails is found by leaving out kinds of faults: here one that fails for as long as ranks may die.
    @Test func aFailingHistoryIsMadeSmaller() throws {
        let shrunk = try #require(Shrink.smallest(HistoryOptions(seed: 3)) { $0.without.contains(.rankDeath) || $0.faultMs < 2_000 ? nil : "fails" })
        #expect(shrunk.options.without == Set(FaultKind.allCases).subtracting([.rankDeath]))
        #expect(shrunk.options.faultMs < 2_500)
        #expect(Shrink.replay(shrunk.options).hasPrefix("cairn-simulate --seed 3 --fault-ms"))
        #expect(Shrink.smallest(HistoryOptions(seed: 3)) { _ in nil } == nil)
    }
}
