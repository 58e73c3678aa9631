import CairnConfiguration
import CairnIO
import Testing
@testable import CairnBench

struct CleanupTests {
    private func noting(_ cleanup: Cleanup, _ name: String, _ seen: Monitor<[String]>) throws -> Int {
        try cleanup.made(name) { name } remove: { name in seen.update { $0.append(name) } }.id
    }

    @Test func theLastMadeIsPutAwayFirstAndEachOnce() throws {
        let cleanup = Cleanup(), seen = Monitor<[String]>([])
        _ = try noting(cleanup, "folder", seen)
        let daemon = try noting(cleanup, "daemon", seen)
        _ = try noting(cleanup, "file", seen)
        cleanup.remove(daemon)
        cleanup.remove(daemon)
        #expect(cleanup.removeAll() == [])
        #expect(seen.read { $0 } == ["daemon", "file", "folder"])
        #expect(cleanup.removeAll() == [])
    }

    @Test func whatCannotBePutAwayIsNamedAndDoesNotKeepTheRest() throws {
        let cleanup = Cleanup(), seen = Monitor<[String]>([])
        _ = try noting(cleanup, "folder", seen)
        _ = try cleanup.made("daemon") { 1 } remove: { _ in throw BenchError.daemonEnded(reason: "it does not end") }
        #expect(cleanup.removeAll() == ["daemon: \(BenchError.daemonEnded(reason: "it does not end"))"])
        #expect(seen.read { $0 } == ["folder"])
    }

    @Test func nothingIsMadeAfterASignal() throws {
        let cleanup = Cleanup()
        try cleanup.goOn()
        cleanup.end()
        #expect(throws: BenchError.ending) { try cleanup.goOn() }
        #expect(throws: BenchError.ending) { _ = try cleanup.made("folder") { Issue.record("made"); return 1 } remove: { _ in } }
    }

    @Test func whatFailsToBeMadeIsNotPutAway() throws {
        let cleanup = Cleanup()
        #expect(throws: BenchError.noTier(reason: "x")) {
            _ = try cleanup.made("folder") { () throws -> Int in throw BenchError.noTier(reason: "x") } remove: { _ in Issue.record("put away") }
        }
        #expect(cleanup.removeAll() == [])
    }
}

struct ErrorTests {
    @Test func spaceIsNeverSaidToBeEnoughWhereItIsNot() {
        let text = BenchError.noSpace(path: "/x", needed: (5 << 20) + 1, available: (6 << 20) - 1).description
        #expect(text == "no space on '/x': 5MiB are free, 6MiB are needed. Free some, or give a smaller --size")
    }

    @Test func itsDaemonTakesItsConfiguration() throws {
        let text = PrivateDaemon.configuration(socket: "/tmp/a b/s", tier: "/x/\"y\\z", poolBytes: 128 << 20)
        let read = try Configuration.load(text: text, file: "cairnd.yaml")
        #expect(read.socket == "/tmp/a b/s")
        #expect(read.tiers.local?.paths == ["/x/\"y\\z"])
        #expect(read.tiers.local?.reserveBytes == 0)
        #expect(read.pool.sizeBytes == 128 << 20)
        #expect(read.retention.local.keep == BenchLimits.rounds)
    }

    @Test func itsLeastPoolIsWhatADaemonTakes() { #expect(BenchLimits.leastPoolBytes == Configuration.Pool.leastBytes) }
}
