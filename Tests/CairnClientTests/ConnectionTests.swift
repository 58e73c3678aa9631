@testable import CairnClient
import CairnIO
import CairnWire
import Testing

@Suite(.timeLimit(.minutes(1))) struct ConnectionTests {
    private func failure(_ body: () throws -> Void) -> ClientError? {
        do { try body() } catch { return error as? ClientError }
        return nil
    }

    @Test func absentDaemonIsSaidWithWhatToDo() {
        let error = failure { _ = try Connection.open(socket: "/tmp/no-such-cairn.sock") }
        guard case .noDaemon = error else { Issue.record("\(String(describing: error))"); return }
        #expect("\(ClientError.noDaemon(socket: "/x"))".contains("systemctl start cairnd") && "\(ClientError.noDaemon(socket: "/x"))".contains("'/x'"))
    }

    @Test func callGetsItsTypedReply() throws {
        let daemon = try OneConnection { message, _ in
            guard case .success(.operations(.path(let parameters))) = try? IncomingCall(message: message).request else { return nil }
            return (Outgoing.reply(Operations.Path.Reply(path: "/" + parameters.run, step: 1, sequence: 2)), [])
        }
        let connection = try Connection.open(socket: daemon.path)
        for run in ["a", "b"] { #expect(try connection.call(Operations.Path.self, .init(run: run)).path == "/" + run) }
    }

    @Test func typedErrorIsThrown() throws {
        let daemon = try OneConnection { _, _ in (Outgoing.error(.busy(step: 7)), []) }
        let connection = try Connection.open(socket: daemon.path)
        guard case .refused(.busy(step: 7)) = failure({ _ = try connection.call(Operations.Metrics.self, Nothing()) }) else {
            Issue.record("no typed error")
            return
        }
    }

    @Test func streamEndsWithItsLastReply() throws {
        let daemon = try OneConnection { _, _ in
            ((0..<3).flatMap { Outgoing.reply(Operations.Drain.Reply(saves: 2 - $0, bytes: 0, finished: $0 == 2), continues: $0 < 2) }, [])
        }
        let connection = try Connection.open(socket: daemon.path)
        var seen: [Int] = []
        try connection.stream(Operations.Drain.self, .init(), timeoutMilliseconds: 5000) { reply in
            seen.append(reply.saves)
            return true
        }
        #expect(seen == [2, 1, 0])
    }

    @Test func silenceEndsAtTheTimeout() throws {
        let daemon = try OneConnection { _, _ in (Array(#"{"parameters":"#.utf8), []) }
        let connection = try Connection.open(socket: daemon.path)
        guard case .timedOut(Operations.Metrics.name, 50) = failure({ _ = try connection.call(Operations.Metrics.self, Nothing(), timeoutMilliseconds: 50) }) else {
            Issue.record("no timeout")
            return
        }
    }

    @Test func hangingUpIsSaid() throws {
        let daemon = try OneConnection { _, _ in nil }
        let connection = try Connection.open(socket: daemon.path)
        guard case .closed = failure({ _ = try connection.call(Operations.Metrics.self, Nothing()) }) else {
            Issue.record("not closed")
            return
        }
    }

    @Test func whatIsNoReplyIsSaid() throws {
        let daemon = try OneConnection { _, _ in (Array("HTTP/1.1 400\0".utf8), []) }
        let connection = try Connection.open(socket: daemon.path)
        guard case .violation = failure({ _ = try connection.call(Operations.Metrics.self, Nothing()) }) else {
            Issue.record("no violation")
            return
        }
    }

    @Test func descriptorsTravelBothWays() throws {
        let daemon = try OneConnection { _, descriptors in (Outgoing.reply(Checkpoint.Lease.Reply(segment: descriptors.count, bytes: 8)), descriptors) }
        let connection = try Connection.open(socket: daemon.path)
        let (left, right) = try UnixSocket.pair()
        #expect(try connection.call(Checkpoint.Lease.self, .init(bytes: 8), descriptors: [left]).segment == 1)
        let back = try #require(connection.takeDescriptors().first)
        try UnixSocket.sendAll(back, [7], timeoutMilliseconds: 1000)
        #expect(try UnixSocket.receive(right, max: 8) == .bytes([7]))
        #expect(connection.takeDescriptors().isEmpty)
    }

    @Test func socketIsLookedForInOrder() {
        let environment = ["XDG_RUNTIME_DIR": "/run/user/5", "HOME": "/home/x"]
        #expect(DefaultSocket.candidates { environment[$0] } == ["/run/cairn/cairn.sock", "/run/user/5/cairn/cairn.sock", "/home/x/.local/state/cairn/cairn.sock"])
        #expect(DefaultSocket.candidates { $0 == "CAIRN_SOCKET" ? "/a" : environment[$0] } == ["/a"])
        #expect(DefaultSocket.candidates { _ in nil }.count == 2)
    }
}
