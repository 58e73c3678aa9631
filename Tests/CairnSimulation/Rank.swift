// One rank of one attempt: opens, restores by agreement (+Restore), then saves step after step (+Save); it may die, lag, hang up, refuse.
import CairnEngine
import CairnMessages
import CairnModel

final class Rank {
    unowned let world: World
    let job: Job, rank: Int, daemon: Daemon, pid: Int32
    private(set) var alive = true
    private(set) var session: String?
    /// What its restore names now.
    var restoring: CommitSequence?
    var restored = false
    var step: Int
    var lastStep: Int { job.startStep + job.steps }
    var tries: [Int: Int] = [:]
    var holds = 0
    var fence: SaveID?
    private(set) var incarnation = 0
    var restore = 1
    /// The attempt's number, as an Open told it.
    private var number: Int?

    init(world: World, job: Job, rank: Int, daemon: Daemon, pid: Int32) {
        self.world = world; self.job = job; self.rank = rank; self.daemon = daemon; self.pid = pid
        step = job.startStep
    }

    func open() {
        guard alive, session == nil else { return }
        guard daemon.up, daemon.stager != nil else { return later(100) { $0.open() } }
        incarnation += 1
        let token = "s\(job.token)-\(rank)-\(incarnation)"
        session = token
        daemon.sessions[token] = self
        let call = daemon.call(self) { [self] answer in
            switch answer {
            case .opened(_, let number, _):
                self.number = number
                job.opened(number)
                restored ? train() : choose()
            case .failed(.attemptEnded): ended()
            default:
                drop()
                later(200) { $0.open() }
            }
        }
        daemon.deliver(.open(OpenRequest(call: call, session: token, run: world.settings.run, rank: rank, worldSize: job.worldSize,
                                         localWorldSize: world.settings.saysLocalWorldSize ? job.ranksHere(daemon) : nil, tokenHash: job.token, pid: pid, number: number)))
    }

    func later(_ milliseconds: Int, _ body: @escaping (Rank) -> Void) {
        let incarnation = incarnation
        world.after(world.random.int(1...milliseconds) * World.ms) { [self] in if alive, self.incarnation == incarnation { body(self) } }
    }
    func drop() { if let session { daemon.sessions[session] = nil }; session = nil; fence = nil }

    /// The daemon is gone, or its stager: this rank comes back.
    func disconnected() {
        guard alive else { return }
        session = nil
        fence = nil
        incarnation += 1
        later(100) { $0.open() }
    }

    /// The launcher ends the other ranks of a launch of which one has ended.
    func ended() {
        world.mark(.attemptEndedByNewer)
        die(tellDaemon: false)
        let job = job
        world.after(1_000 * World.ms) { job.kill() }
    }

    func die(tellDaemon: Bool = true) {
        guard alive else { return }
        alive = false
        incarnation += 1
        let token = session
        session = nil
        guard let token, tellDaemon else { return }
        let life = daemon.life
        world.after(world.delay()) { [self] in
            guard daemon.life == life else { return }
            daemon.sessions[token] = nil
            daemon.deliver(.sessionEnded(token, reason: "its process is gone"))
        }
    }

    /// It waits no longer for the fence: the socket is shut down before its memory changes; then it opens anew.
    func giveUp(_ record: SaveRecord) {
        guard let session, record.level == .accepted, fence == record.key.save else { return }
        record.memoryChanged = true
        world.mark(.rankHungUp)
        let life = daemon.life
        self.session = nil
        fence = nil
        incarnation += 1
        world.after(world.delay()) { [self] in
            guard daemon.life == life else { return }
            daemon.deliver(.hungUp(session))
            daemon.sessions[session] = nil
            daemon.deliver(.sessionEnded(session, reason: "it hung up"))
        }
        later(100) { $0.open() }
    }

    var hasFinished: Bool { restored && step >= lastStep && fence == nil }
    /// For the last attempt: it saved all that it wanted to (and may have been ended since by a launch that was gone already).
    var isDone: Bool { hasFinished }
    var state: String { "alive \(alive), session \(session ?? "none"), restored \(restored), restore \(restore), step \(step) of \(lastStep), fence \(fence.map { "\($0)" } ?? "none")" }
}

extension Answer {
    var isNotOpen: Bool { if case .failed(.notOpen) = self { true } else { false } }
}
