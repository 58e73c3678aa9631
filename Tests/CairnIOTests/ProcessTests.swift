import CairnIO
import Testing

@Suite struct ProcessTests {
    @Test func childGetsOnlyItsDescriptorsAndEnvironment() throws {
        let (mine, its) = try UnixSocket.pair()
        let mustNotPass = try (0..<30).map { _ in try its.duplicate() }
        let child = try ChildProcess.spawn(
            executable: "/bin/sh", arguments: ["sh", "-c", "echo $HOME. >&7; ls /proc/$$/fd | tr '\\n' ' ' >&7"],
            inherit: [(its, as: 7)], without: ["HOME"])
        #expect(child.wait(timeoutMilliseconds: 10_000) == .code(0))
        guard case .bytes(let bytes) = try UnixSocket.receive(mine, max: 4096) else { throw Unexpected() }
        let text = String(decoding: bytes, as: UTF8.self)
        #expect(text.hasPrefix(".\n"))
        let fds = Set(text.dropFirst(2).split(separator: " ").compactMap { Int($0) })
        #expect(fds.isSubset(of: [0, 1, 2, 3, 4, 5, 7, 10, 255]))      // 3, 4, 5, 10, 255: a shell's own pipes and script
        #expect(fds.contains(7) && mustNotPass.contains { $0.raw > 10 })
    }

    @Test func targetsMayBeOtherSourcesNumbers() throws {
        let (mineA, itsA) = try UnixSocket.pair(), (mineB, itsB) = try UnixSocket.pair()
        let child = try ChildProcess.spawn(executable: "/bin/sh", arguments: ["sh", "-c", "echo a >&3; echo b >&4"],
                                           inherit: [(itsA, as: 3), (itsB, as: 4)])
        #expect(child.wait(timeoutMilliseconds: 10_000) == .code(0))
        #expect(try UnixSocket.receive(mineA, max: 100) == .bytes(Array("a\n".utf8)))
        #expect(try UnixSocket.receive(mineB, max: 100) == .bytes(Array("b\n".utf8)))
    }

    @Test func executableThatIsMissingIsAnError() {
        let failure = #expect(throws: IOFailure.self) { try ChildProcess.spawn(executable: "/no/such", arguments: ["x"]) }
        #expect(failure?.isMissing == true)
    }

    @Test func clockTextsRoundTrip() {
        #expect(Clock.iso8601(0) == "1970-01-01T00:00:00Z")
        #expect(Clock.iso8601(951_782_400) == "2000-02-29T00:00:00Z")
        #expect(Clock.iso8601(4_107_542_399) == "2100-02-28T23:59:59Z")
        for seconds in stride(from: 0, to: 5_000_000_000, by: 86_399 * 31) {
            #expect(Clock.utcSeconds(iso8601: Clock.iso8601(seconds)) == seconds)
        }
        #expect(Clock.utcSeconds(iso8601: "2026-06-31T00:00:00Z") == nil)
        #expect(Clock.utcSeconds(iso8601: "2026-06-30 00:00:00Z") == nil)
    }

    @Test func queueKeepsOrderAndItsBound() throws {
        let queue = WorkQueue<Int>(capacity: 2)
        let sum = Monitor(0)
        let thread = try Threads.spawn(name: "adder", niceness: 10, scheduling: .batch) {
            var last = -1
            while let item = queue.pop() {
                sum.withLock { $0 += item > last ? item : 1_000_000 }
                last = item
            }
        }
        for item in 0..<1000 { #expect(queue.push(item)) }
        queue.close()
        #expect(thread.join(timeoutMilliseconds: 10_000))
        #expect(sum.withLock { $0 } == 499_500)
        #expect(!queue.push(1))
        let full = WorkQueue<Int>(capacity: 1)
        #expect(full.tryPush(1) && !full.tryPush(2))
        #expect(full.pop(timeoutMilliseconds: 10) == 1)
        #expect(full.pop(timeoutMilliseconds: 10) == nil)
    }

    @Test func factsAreThere() {
        #expect(ProcessFacts.pid > 0 && !ProcessFacts.hostname().isEmpty && ProcessFacts.bootID().count == 36)
        #expect(ProcessFacts.residentBytes() > 1 << 20)
        #expect(ProcessFacts.uid(ofUser: "root") == 0 && ProcessFacts.gid(ofGroup: "root") == 0)
        #expect(ProcessFacts.uid(ofUser: "no-such-user") == nil)
        #expect(Entropy.bytes(32) != Entropy.bytes(32))
        if let soft = ProcessFacts.memoryLockLimit().soft { #expect(soft > 0) }
    }

    @Test func notifyWithoutAReceiverIsNoError() throws {
        ProcessFacts.setEnvironment("NOTIFY_SOCKET", "/no/such/socket")
        #expect(!SystemdNotify.send(state: "READY=1"))
        ProcessFacts.setEnvironment("NOTIFY_SOCKET", nil)
        #expect(!SystemdNotify.send(state: "READY=1"))
        #expect(SystemdNotify.listenDescriptors().isEmpty)
    }
}

struct Unexpected: Error {}
