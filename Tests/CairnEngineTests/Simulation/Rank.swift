// One rank of one attempt: opens, restores by agreement, then saves step after step; it may die, lag, hang up or miss a save.
import CairnEngine
import CairnMessages
import CairnModel

final class Rank {
    unowned let world: World
    let job: Job, rank: Int, daemon: Daemon, pid: Int32
    private(set) var alive = true
    private(set) var session: String?
    /// What its restore names now.
    private(set) var restoring: CommitSequence?
    private var restored = false
    private var step: Int
    private var lastStep: Int { max(job.firstStep, job.parentStep) + job.steps }
    private var tries: [Int: Int] = [:]
    private var fence: SaveID?
    private var incarnation = 0
    private var restore = 1

    init(world: World, job: Job, rank: Int, daemon: Daemon, pid: Int32) {
        self.world = world; self.job = job; self.rank = rank; self.daemon = daemon; self.pid = pid
        step = job.firstStep
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
            case .opened(_, let number, _): job.number = number; restored ? train() : choose()
            case .failed(.attemptEnded): die(tellDaemon: false)
            default:
                drop()
                later(200) { $0.open() }
            }
        }
        daemon.deliver(.open(OpenRequest(call: call, session: token, run: world.settings.run, rank: rank, worldSize: world.settings.worldSize,
                                         localWorldSize: world.settings.localWorldSize(daemon.index), tokenHash: job.token, pid: pid)))
    }

    private func later(_ milliseconds: Int, _ body: @escaping (Rank) -> Void) {
        let incarnation = incarnation
        world.after(world.random.int(1...milliseconds) * World.ms) { [self] in if alive, self.incarnation == incarnation { body(self) } }
    }
    private func drop() { if let session { daemon.sessions[session] = nil }; session = nil; fence = nil }

    /// The daemon is gone, or its stager: this rank comes back.
    func disconnected() {
        guard alive else { return }
        session = nil
        fence = nil
        incarnation += 1
        later(100) { $0.open() }
    }

    func ended() { die(tellDaemon: false) }

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

    // MARK: restore

    private func choose() {
        guard let session, daemon.up else { return }
        let number = restore
        let call = daemon.call(self) { [self] answer in
            switch answer {
            case .chosen(let step, let sequence):
                job.check(restore: number, sequence, rank)
                restoring = sequence
                self.step = max(self.step, step + 1)
                later(50) { $0.settle() }
            case .failed(.noSuchStep):
                job.check(restore: number, nil, rank)
                restoring = nil
                later(50) { $0.settle() }
            default: later(200) { $0.choose() }
            }
        }
        daemon.deliver(.choose(call: call, session: session, restore: number, step: nil, deadline: world.now + 20_000 * World.ms))
    }

    private func settle() {
        guard let session, daemon.up else { return }
        let ok = restoring == nil || !world.faults || !world.random.once(in: 12)
        let number = restore
        let call = daemon.call(self) { [self] answer in
            switch answer {
            case .settled(let again):
                job.check(verdict: number, again, rank)
                if again {
                    restore += 1
                    restoring = nil
                    return choose()
                }
                if let restoring { job.settle(parent: restoring, step: step) }
                restoring = nil
                restored = true
                train()
            default: choose()
            }
        }
        daemon.deliver(.settle(call: call, session: session, restore: number, ok: ok, reason: nil))
    }

    // MARK: train and save

    private func train() { later(world.settings.stepMs) { $0.save() } }

    private func save() {
        guard let session, daemon.up else { return }
        guard step < lastStep else { return }
        step += 1
        if world.faults, world.random.once(in: 40) { return train() }   // it missed this save
        let step = step, attemptTry = tries[step, default: 0] + 1, handle = daemon.newHandle()
        tries[step] = attemptTry
        let id = SaveID(attempt: job.number, step: step, attemptTry: attemptTry)
        let upto = job.upto(step), chunks = job.chunks(rank, step)
        let key = RankSaveKey(run: world.settings.run, save: id, rank: rank)
        let record = SaveRecord(key: key, handle: handle, upto: upto, finalLevel: world.settings.finalLevel(upto),
                                fileBytes: (chunks - 1) * Sizes.chunkBytes + 4096, nonce: world.newNonce(), acceptedAt: world.now, session: session, recovered: false)
        record.eager = Set([0] + (0..<chunks).filter { _ in world.random.once(in: 4) })
        let waits = world.random.once(in: 2)
        daemon.records[handle] = record
        daemon.recordsByKey[key] = record
        let life = daemon.life
        let call = daemon.call(self) { [self] answer in
            guard case .saved = answer else {
                if record.level == .accepted, !daemon.engine.knows(handle: handle) { daemon.forgetRefused(record) }
                fence = nil
                guard answer.isNotOpen else { return train() }
                drop()
                return later(100) { $0.open() }
            }
            if waits, !record.eager.isSubset(of: record.staged), record.level != .failed { world.fail("I13: save \(key) was answered before its eager chunks were staged") }
        }
        fence = id
        daemon.deliver(.save(SaveRequest(
            call: call, session: session, handle: handle, step: step, attemptTry: attemptTry, upto: upto,
            staging: BeginStaging(handle: handle, session: session, layout: 1, dataStart: 4096, fileBytes: record.fileBytes, objects: []),
            eagerChunks: record.eager.sorted(), waitsForEager: waits)))
        if daemon.life == life, !daemon.engine.knows(handle: handle), record.level == .accepted { daemon.forgetRefused(record) }
        if world.faults, world.random.once(in: 25) { later(60) { $0.giveUp(record) } }
    }

    /// It waits no longer for the fence: the socket is shut down before its memory changes; then it opens anew.
    private func giveUp(_ record: SaveRecord) {
        guard let session, record.level == .accepted, fence == record.key.save else { return }
        record.memoryChanged = true
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
    var state: String { "alive \(alive), session \(session ?? "none"), restored \(restored), restore \(restore), step \(step), fence \(fence.map { "\($0)" } ?? "none")" }

    func told(_ notice: Notice) {
        guard alive, let fence, fence == notice.save, notice.level >= .staged else { return }
        self.fence = nil
        train()
    }
}

extension Answer {
    var isNotOpen: Bool { if case .failed(.notOpen) = self { true } else { false } }
}

extension Rank {
    /// For the last attempt: it saved all that it wanted to.
    var isDone: Bool { alive && hasFinished }
}
