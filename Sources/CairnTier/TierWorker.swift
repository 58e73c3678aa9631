// A tier worker: every filesystem call of one tier, in a process of its own, since a hung filesystem makes whoever calls into
// it unkillable. The main process sends requests; each gets exactly one last reply.
//
//   thread          owns
//   receiving       the channel's reading end; hands writes to the data engine, everything else to the threads below
//   data engine     the ring, or its pread/pwrite threads; the bytes of chunks in flight
//   zstd, frame     the chunk that they compress, and the frame that they read
//   files, records  one request at a time each
//   ahead           reads of saves that lack ranks, behind their answers
//   read back, loads, verify   wait for reads and for slots of the read buffer
//   presence        errors that may mean that the filesystem is gone
import CairnIO
import CairnMessages
import CairnModel
import CairnStore

/// The role's entry: exit code. The channel is the worker's end of the socket pair to main.
/// `messageBytes`: the largest answer.
public func runTierWorker(channel descriptor: Descriptor, asProcess: Bool = true, messageBytes: Int = IOLimits.frameBytes) -> Int32 {
    if asProcess {
        ProcessFacts.ignoreSignals()
        // Main ends the workers, after what is staged is flushed; a signal to the whole group must not.
        for number in [Signals.interrupt, Signals.terminate, Signals.hangUp] { ProcessFacts.ignore(signal: number) }
        try? ProcessFacts.raiseOpenFilesLimit()
    }
    let channel = BlockingFrameChannel(descriptor)
    let replies = Replies(channel, limit: messageBytes)
    do {
        guard let first = try channel.receive() else { return 0 }
        guard case .start(let start) = try MessageCoding.decode(TierRequest.self, from: first.json) else {
            throw TierFailure(kind: .invalid, text: "the first request is not 'start'")
        }
        let worker: TierWorker
        do { worker = try TierWorker(start, first.descriptors, channel, replies) } catch {
            replies.send(.startFailed(TierFailure(error)))
            return 1
        }
        defer { worker.stop() }
        while let frame = try channel.receive() {
            let request = try MessageCoding.decode(TierRequest.self, from: frame.json)
            if case .stop = request { return 0 }
            worker.handle(request, frame)
        }
        return 0
    } catch {
        StandardStreams.write(to: 2, "cairnd tier worker: \(error)\n")
        return 1
    }
}

final class TierWorker: Sendable {
    let replies: Replies
    let opening: TierOpening
    private let lookedAt = Monitor(Clock.monotonicNanoseconds())
    let engine: any DataEngine
    let memory: TierMemory
    let slots: BufferSlots
    let frames: FrameReading
    /// Nil: this tier's files are plain.
    let compressing: Compressing?
    let writing: FileWriting
    let attempts: Attempts
    let decisions: Decisions
    let leftovers: Leftovers
    let restores: Restores
    let steps: StepFolders
    let beside: BesideFiles
    let branching: Branching
    let reading: StepReading
    let housekeeping: Housekeeping
    let files: TaskThreads, records: TaskThreads, readBacks: TaskThreads, loads: TaskThreads, verifies: TaskThreads, aheads: TaskThreads

    init(_ start: TierStart, _ descriptors: [Descriptor], _ channel: BlockingFrameChannel, _ replies: Replies) throws {
        self.replies = replies
        memory = try TierMemory(start, descriptors: descriptors)
        opening = try TierOpening(start)
        let folders = opening.folders
        var notes = opening.notes
        let ring = try Self.wantsRing(start, &notes)
        engine = ring ? try RingEngine(depth: start.depth) { reason in
            StandardStreams.write(to: 2, "cairnd tier worker: \(reason)\n")
            channel.shutdown()                                  // the receiving thread then ends the worker; main starts another
        } : try ThreadEngine(threads: start.depth)
        slots = BufferSlots(count: start.bufferSlots)
        frames = FrameReading()
        compressing = try Compressing(start, engine: engine, replies: replies)
        writing = FileWriting(folders, engine: engine, memory: memory, replies: replies, compressing: compressing)
        beside = BesideFiles(folders)
        attempts = Attempts(folders, beside: beside)
        decisions = Decisions(folders)
        leftovers = Leftovers(folders, attempts: attempts, decisions: decisions)
        steps = StepFolders(folders)
        restores = Restores(folders, steps: steps, decisions: decisions, beside: beside)
        branching = Branching(folders, steps: steps, decisions: decisions)
        reading = StepReading(folders, steps: steps, beside: beside)
        housekeeping = Housekeeping(folders, steps: steps, decisions: decisions, beside: beside, attempts: attempts, reading: reading)
        files = try TaskThreads(name: "tier-files", count: TierLimits.fileThreads)
        records = try TaskThreads(name: "tier-records", count: TierLimits.recordThreads)
        readBacks = try TaskThreads(name: "tier-back", count: TierLimits.readBackThreads)
        loads = try TaskThreads(name: "tier-load", count: TierLimits.loadThreads)
        verifies = try TaskThreads(name: "tier-verify", count: TierLimits.verifyThreads)
        try replies.lookFor(folders)
        aheads = try TaskThreads(name: "tier-ahead", count: TierLimits.aheadThreads, niceness: TierLimits.aheadNiceness)
        replies.send(.ready(ring: ring, direct: folders.roots.allSatisfy(\.direct), notes: notes))
        if start.isRestart { records.run { [housekeeping] in try? housekeeping.sweepAll() } }
    }

    private static func wantsRing(_ start: TierStart, _ notes: inout [String]) throws -> Bool {
        guard start.ring != .off else { return false }
        guard let refusal = Ring.probe() else { return true }
        let text = "io_uring is refused (\(errnoName(refusal.errno)))"
        let remedy = "it is off by default in containers (seccomp profile) and on RHEL (sysctl kernel.io_uring_disabled=0)"
        if start.ring == .on { throw TierFailure(kind: .invalid, text: "\(text): \(remedy), or set io: auto") }
        notes.append("\(text): pread and pwrite threads are used; \(remedy)")
        return false
    }

    func stop() {
        slots.close()
        compressing?.close()
        frames.close()
        let pools = [files, records, readBacks, loads, verifies, aheads]
        for pool in pools { pool.close() }
        let deadline = Clock.monotonicNanoseconds() + TierLimits.stopMilliseconds * 1_000_000
        for pool in pools { _ = pool.finish(deadline: deadline) }
        engine.close()
        replies.close()
    }

    /// Runs a request on threads; what it throws is its reply.
    func answer(_ id: Int, on threads: TaskThreads, _ body: @escaping @Sendable () throws -> TierReply) {
        answer(id, on: threads) { (try body(), []) }
    }

    func answer(_ id: Int, on threads: TaskThreads, _ body: @escaping @Sendable () throws -> (TierReply, [UInt8])) {
        threads.run { [self] in
            do {
                try look()
                let (reply, payload) = try body()
                try replies.answer(reply, payload: payload)
            } catch { replies.send(.failed(id: id, TierFailure(error))) }
        }
    }

    /// Now and then, whether the tier's folders are still the ones that were opened: calls on those that were replaced do not fail.
    private func look() throws {
        let now = Clock.monotonicNanoseconds()
        let isDue = lookedAt.withLock { at in
            guard now - at >= TierLimits.lookMilliseconds * 1_000_000 else { return false }
            at = now
            return true
        }
        if isDue, let reason = opening.folders.absence(writes: false) { throw reason }
    }
}
