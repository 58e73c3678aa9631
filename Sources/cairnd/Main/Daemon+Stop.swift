// An orderly end, within a bound: no new calls, what is staged is flushed, workers end, sockets are removed. A second signal
// skips the flushing. What does not end is left behind, named in the log: a worker stuck in the kernel cannot be killed.
import CairnEngine
import CairnIO
import CairnMessages
import CairnModel

extension Daemon {
    func watchSignals() throws {
        for number in [Signals.terminate, Signals.interrupt] {
            _ = try loop.signal(number) { [unowned self] in stop(drain: !stopping) }
        }
        _ = try loop.signal(Signals.hangUp) { [unowned self] in reload() }
    }

    func stop(drain: Bool) {
        let again = stopping
        stopping = true
        if !again {
            SystemdNotify.send(state: "STOPPING=1\nSTATUS=flushing what is staged")
            stopListening()
            deliver(.drain(true))
        }
        guard drain, engine.drainableCount > 0 else { return endWorkers() }
        log.write(.notice, "stopping: \(engine.drainableCount) saves are staged and still being flushed")
        let end = loop.nowNanoseconds + DaemonLimits.drainMilliseconds * 1_000_000
        var written = -1, moved = loop.nowNanoseconds
        var timer: LoopTimer?
        timer = loop.timer(afterMilliseconds: 50, repeatMilliseconds: 50) { [unowned self] in
            let now = engine.tierReports.reduce(0) { $0 + $1.writtenBytes }
            if now != written { (written, moved) = (now, loop.nowNanoseconds) }
            // Where the memory outlives this process, a restart need not wait for a filesystem that hangs: the next one goes on.
            let isLeft = kept != nil && loop.nowNanoseconds > moved + DaemonLimits.drainStillMilliseconds * 1_000_000
            guard engine.drainableCount == 0 || isLeft || loop.nowNanoseconds > end else { return }
            timer?.stop()
            if engine.drainableCount > 0 {
                log.write(.warning, "stopped with \(engine.drainableCount) saves not flushed: " + (isLeft ? "nothing was written for "
                    + "\(DaemonLimits.drainStillMilliseconds / 1000) s; after a restart the next process goes on with them, after a stop they are lost" : "the time was up"))
            }
            endWorkers()
        }
    }

    private func endWorkers() {
        let links = [stager] + tierLinks.values + (keeping.link.map { [$0] } ?? [])
        guard links.contains(where: { !$0.stopping }) else { return }
        for connection in Array(connections.values) { connection.close("the daemon stops") }
        for link in links { link.stopping = true }
        stager.send(StagerRequest.stop)
        for link in tierLinks.values { link.send(TierRequest.stop) }
        keeping.link?.send(KeeperRequest.stop)
        let end = loop.nowNanoseconds + DaemonLimits.workerEndMilliseconds * 1_000_000
        var killed = false
        var timer: LoopTimer?
        timer = loop.timer(afterMilliseconds: 0, repeatMilliseconds: 10) { [unowned self] in
            if links.allSatisfy({ $0.child == nil }) { timer?.stop(); return loop.stop() }
            guard loop.nowNanoseconds > end else { return }
            if !killed {
                killed = true
                for link in links { link.kill() }
                return
            }
            guard loop.nowNanoseconds > end + DaemonLimits.workerEndMilliseconds * 1_000_000 else { return }
            for link in links where link.child != nil {
                log.write(.error, "the \(link.role) worker (process \(link.child?.pid ?? 0)) does not end: it is stuck in the kernel, and ends when its filesystem answers")
            }
            timer?.stop()
            loop.stop()
        }
    }

    /// After the loop: what is left on this side.
    func removeSockets() {
        guard socketsAreOurs else { return }
        for path in [configuration.socket, configuration.memorySocket] {
            let parts = path.split(separator: "/")
            guard let name = parts.last, let folder = try? Files.openRoot("/" + parts.dropLast().joined(separator: "/")) else { continue }
            try? Files.unlink(folder, String(name))
        }
    }
}
