// Many seeded histories of daemons, ranks and faults; each invariant is checked after every event.
// CAIRN_SEED=n replays one seed and prints its history; CAIRN_SEEDS=n runs n seeds (each is named before it runs, so that a
// crash of the engine is known by its seed too).
import Foundation
import Testing

@Suite struct SimulationTests {
    static let environment = ProcessInfo.processInfo.environment

    @Test func everyInvariantHoldsInEveryHistory() throws {
        if let seed = Self.environment["CAIRN_SEED"].flatMap(UInt64.init) {
            let world = World(seed: seed, verbose: Self.environment["CAIRN_VERBOSE"] != nil)
            let violation = world.run()
            print(world.history.joined(separator: "\n"))
            print("seed \(seed): \(world.commits) commits, \(world.failures) failures, \(world.events) events")
            #expect(violation == nil, "seed \(seed)")
            return
        }
        let more = Self.environment["CAIRN_SEEDS"].flatMap(UInt64.init)
        var commits = 0, failures = 0, events = 0, failed: [String] = []
        for seed in 1...(more ?? 40) {
            if more != nil { FileHandle.standardError.write(Data("seed \(seed)\n".utf8)) }
            let world = World(seed: seed)
            if let violation = world.run() { failed.append("seed \(seed): \(violation)") }
            commits += world.commits
            failures += world.failures
            events += world.events
        }
        print("simulation: \(more ?? 40) seeds, \(commits) commits, \(failures) rank saves failed, \(events) events")
        #expect(failed.isEmpty, "replay alone with CAIRN_SEED=n: \(failed.prefix(20).joined(separator: "\n"))")
        #expect(commits > 0 && failures > 0, "the histories reach commits and failures")
    }
}
