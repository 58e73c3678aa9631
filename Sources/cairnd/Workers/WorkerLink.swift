// The main process's end of one worker: starts it, sends frames, gets frames, sees it end, starts it again with backoff.
// A worker that does not end (it is stuck in the kernel) is not replaced: two of them would write the same folders.
import CairnIO
import CairnMessages
import CairnModel

final class WorkerLink {
    enum State { case down, starting, up }
    let role: String
    private let loop: EventLoop
    private let executable: String
    private(set) var state = State.down
    private var startedAt = 0
    private(set) var child: ChildProcess?
    private var queue: FrameQueue?
    private var socketWatch: Watch?
    private var processWatch: Watch?
    private(set) var restarts = -1
    private var backoff = DaemonLimits.restartFirstMilliseconds
    private(set) var instance = ""
    /// Leases whose memory this instance was given.
    var lent: Set<Int> = []
    /// Said once by the worker when it started: what the kernel refused.
    var notes: [String] = []
    var io: String?, direct: Bool?
    var lastFailure: String?
    var stopping = false

    /// Sends the worker's first message.
    var onStart: (WorkerLink) -> Void = { _ in }
    var onFrame: (Frame) -> Void = { _ in }
    var onLost: (String) -> Void = { _ in }
    var onFailedStart: (String) -> Void = { _ in }

    init(role: String, loop: EventLoop) {
        self.role = role
        self.loop = loop
        executable = ChildProcess.ownExecutable
    }

    func start() {
        guard child == nil, !stopping else { return }
        instance = Entropy.hex(bytes: 6)
        lent = []
        restarts += 1
        do {
            let (mine, theirs) = try UnixSocket.pair()
            let child = try ChildProcess.spawn(executable: executable, arguments: ["cairnd", "worker"] + (Tier(rawValue: role) == nil ? [role] : ["tier", role]),
                                               inherit: [(theirs, as: 3)],
                                               without: ["NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "WATCHDOG_USEC"])
            let queue = try FrameQueue(mine)
            self.child = child
            self.queue = queue
            state = .starting
            startedAt = loop.nowNanoseconds
            socketWatch = try loop.watch(mine, events: .readable) { [weak self] events in self?.socketReady(events) }
            processWatch = try loop.watch(child.pidfd, events: .readable) { [weak self] _ in self?.processEnded() }
            onStart(self)
        } catch {
            lost("it could not be started: \(error)")
        }
    }

    /// Requests are worth sending: it is up, or about to be and reads them then.
    var takesRequests: Bool {
        state == .up || state == .starting && loop.nowNanoseconds - startedAt < DaemonLimits.workerStartMilliseconds * 1_000_000
    }

    /// What it has not taken yet.
    var queuedBytes: Int { queue?.queuedBytes ?? 0 }

    func isUp() { state = .up; backoff = DaemonLimits.restartFirstMilliseconds }

    func send(_ message: some Encodable, payload: [UInt8] = [], descriptors: [Descriptor] = []) {
        guard let queue else { return }
        do {
            try queue.enqueue(Frame(json: MessageCoding.encode(message), payload: payload, descriptors: descriptors))
            flush()
        } catch {
            lastFailure = "its queue broke: \(error)"
            child?.kill(Signals.kill)
        }
    }

    private func flush() {
        guard let queue else { return }
        do {
            let drained = try queue.flush()
            socketWatch?.update(drained ? .readable : [.readable, .writable])
        } catch {
            // Its end is seen on the pidfd; what it still said is read before.
            socketWatch?.update(.readable)
        }
    }

    private func socketReady(_ events: LoopEvents) {
        if events.contains(.writable) { flush() }
        guard events.contains(.readable) || events.contains(.failed) || events.contains(.disconnect) else { return }
        drainFrames()
    }

    private func drainFrames() {
        guard let queue else { return }
        do {
            for frame in try queue.readable() { onFrame(frame) }
            if queue.isClosed { socketWatch?.stop(); socketWatch = nil }
        } catch {
            lastFailure = "its messages broke: \(error)"
            socketWatch?.stop()
            socketWatch = nil
            child?.kill(Signals.kill)
        }
    }

    private func processEnded() {
        guard let child, let exit = child.reap() else { return }
        // What it said before it ended still counts.
        if socketWatch != nil { drainFrames() }
        lost(lastFailure ?? "it ended with \(exit)")
    }

    private func lost(_ reason: String) {
        socketWatch?.stop()
        processWatch?.stop()
        socketWatch = nil
        processWatch = nil
        queue = nil
        child = nil
        lastFailure = nil
        let wasUp = state == .up
        state = .down
        guard !stopping else { return }
        if wasUp { onLost(reason) } else { onFailedStart(reason) }
        loop.timer(afterMilliseconds: backoff) { [weak self] in self?.start() }
        backoff = min(backoff * 2, DaemonLimits.restartLongestMilliseconds)
    }

    func kill() { child?.kill(Signals.kill) }
}
