import CairnIO
import Testing

@Suite struct EventLoopTests {
    @Test func socketsTimersWakeupsAndSignalsReachTheirHandlers() throws {
        let loop = try EventLoop()
        let (a, b) = try UnixSocket.pair()
        var seen: [String] = []
        let counter = try EventCounter()
        var ticks = 0
        var watch: Watch?
        watch = try loop.watch(b, events: [.readable, .disconnect]) { events in
            if case .bytes(let bytes)? = try? UnixSocket.receive(b, max: 10) {
                seen.append("bytes \(bytes)")
                counter.signal()
            }
            if events.contains(.disconnect) {
                seen.append("end")
                watch?.stop()
                if ticks == 3 { loop.stop() }
            }
        }
        loop.timer(afterMilliseconds: 5) {
            seen.append("timer")
            _ = try? UnixSocket.send(a, [7])
        }
        var ticker: LoopTimer?
        ticker = loop.timer(afterMilliseconds: 1, repeatMilliseconds: 1) {
            ticks += 1
            guard ticks == 3 else { return }
            ticker?.stop()
            if seen.last == "end" { loop.stop() }
        }
        let wakeup = try loop.wakeup {
            seen.append("wakeup")
            ProcessFacts.raise(Signals.user1)
        }
        try loop.signal(Signals.user1) {
            seen.append("signal")
            UnixSocket.shutdownWriting(a)
        }
        let waker = try Threads.spawn(name: "waker") {
            _ = counter.wait(timeoutMilliseconds: 10_000)
            wakeup.send()
        }
        loop.timer(afterMilliseconds: 20_000) { loop.stop() }
        loop.run()
        #expect(waker.join(timeoutMilliseconds: 1000))
        #expect(seen == ["timer", "bytes [7]", "wakeup", "signal", "end"])
        #expect(ticks == 3)
        wakeup.stop()
        wakeup.send()
        loop.preconditionOnLoop()
    }

    @Test func writableIsSaidOnlyWhileAskedFor() throws {
        let loop = try EventLoop()
        let (a, b) = try UnixSocket.pair()
        var count = 0
        let watch = try loop.watch(a, events: [.readable]) { events in
            if events.contains(.writable) { count += 1 }
        }
        loop.runOnce()
        #expect(count == 0)
        watch.update([.readable, .writable])
        loop.runOnce()
        #expect(count == 1)
        watch.update([])
        loop.runOnce()
        #expect(count == 1)
        watch.stop()
        watch.stop()
        _ = b
    }

    @Test func callFromAnotherThreadTraps() async {
        await #expect(processExitsWith: .failure) {
            struct Box: @unchecked Sendable { let loop: EventLoop }     // the very mistake that is to trap
            let box = Box(loop: try EventLoop())
            try Threads.spawn(name: "stranger") { box.loop.preconditionOnLoop() }.join(timeoutMilliseconds: 10_000)
        }
    }
}
