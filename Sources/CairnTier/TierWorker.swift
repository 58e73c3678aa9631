// The tier worker's process: one thread reads requests, a few do what may block on metadata, the data engine moves chunks.
// A filesystem that hangs takes this whole process with it, and nothing else: main notices that replies do not come.
import CairnIO
import CairnMessages
import CairnModel
import CairnStore

/// Runs until the main process closes the channel or says stop. `channel` is the worker's end of the socket pair.
public func runTierWorker(channel descriptor: Descriptor) -> Int32 {
    let channel = BlockingFrameChannel(descriptor)
    do {
        guard let first = try channel.receive(), case .start(let start) = try MessageCoding.decode(TierRequest.self, from: first.json) else { return 1 }
        let context: TierContext
        let notes: [String]
        do {
            (context, notes) = try TierStarting.make(start, first, channel)
        } catch {
            try channel.send(Frame(json: MessageCoding.encode(TierReply.startFailed(TierContext.failure(error)))))
            return 1
        }
        let worker = try TierWorker(context)
        context.reply(.ready(ring: context.data.usesRing, direct: context.direct, notes: notes))
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
    /// Metadata operations at once. More would only queue in the filesystem.
    private static let threads = 4
    private let context: TierContext
    private let files: FileTable
    private let loader: Loader
    private let steps: Steps
    private let jobs = WorkQueue<@Sendable () -> Void>(capacity: 16_384)

    init(_ context: TierContext) throws {
        self.context = context
        files = FileTable(context)
        steps = Steps(context)
        loader = Loader(context)
        let jobs = jobs
        for number in 0..<Self.threads {
            _ = try Threads.spawn(name: "meta-\(number)") { while let job = jobs.pop() { job() } }
        }
    }

    /// On a metadata thread; what it throws is the reply.
    private func run(_ id: Int, _ body: @escaping @Sendable () throws -> (TierReply, [UInt8])) {
        let context = context
        _ = jobs.push {
            do {
                let (reply, payload) = try body()
                context.reply(reply, payload: payload)
            } catch {
                context.fail(id, error)
            }
        }
    }
    private func run(_ id: Int, _ body: @escaping @Sendable () throws -> TierReply) { run(id) { (try body(), []) } }

    func handle(_ request: TierRequest, _ frame: Frame) {
        let context = context, files = files, steps = steps, loader = loader
        let payload = frame.payload
        switch request {
        case .start, .stop: preconditionFailure("handled by the frame loop")
        case .peerBuffer(let instance, let bytes):
            // A map of memory of our own kind: no filesystem is involved.
            if let descriptor = frame.descriptors.first, let map = try? SharedMemory(descriptor: descriptor, bytes: bytes).map(writable: false) {
                context.setPeer(instance: instance, map: map)
            }

        case .create(let id, let file, let key, let fileTry, let bytes):
            run(id) { try files.create(file, key, fileTry: fileTry, bytes: bytes); return .done(id: id) }
        case .write(let writes): for write in writes { files.write(write) }
        case .sync(let id, let file): run(id) { try files.sync(file); return .done(id: id) }
        case .publish(let id, let file, let name, let bytes):
            run(id) {
                try files.publish(file, manifestName: name, manifest: Array(payload.prefix(bytes)), checksums: Array(payload.dropFirst(bytes)))
                return .done(id: id)
            }
        case .abandon(let file): _ = jobs.push { files.abandon(file) }
        case .readBack(let id, let key, let chunk, let bytes, let slot): _ = jobs.push { files.readBack(id, key, chunk: chunk, bytes: bytes, slot: slot) }
        case .sidecars(let id, let key): run(id) { try files.sidecars(id, key) }

        case .numberAttempt(let id, let run, let hash, let worldSize):
            self.run(id) { .attempt(id: id, number: try Attempts.number(context, run, tokenHash: hash, worldSize: worldSize)) }
        case .findAttempt(let id, let run, let hash): self.run(id) { .attempt(id: id, number: try Attempts.find(context, run, tokenHash: hash)) }
        case .newestAttempt(let id, let run): self.run(id) { .attempt(id: id, number: try Attempts.newest(context, run)) }

        case .decide(let id, let run, let save, let worldSize, let parent):
            self.run(id) { try Decisions.decide(context, id: id, run, save, worldSize: worldSize, parent: parent) }
        case .void(let id, let run, let save, let reason): self.run(id) { try Decisions.void(context, id: id, run, save, reason: reason) }
        case .look(let id, let run, let save, let worldSize): self.run(id) { try Decisions.look(context, id: id, run, save, worldSize: worldSize) }
        case .recordDecision(let id, let run, let save): self.run(id) { try Decisions.record(context, id: id, run, save, record: payload) }

        case .choose(let id, let run, let attempt, let restore, let step, let candidate):
            self.run(id) { try RestoreChoices.choose(context, steps, id: id, run, attempt: attempt, restore: restore, step: step, candidate: candidate) }
        case .readChoice(let id, let run, let attempt, let restore):
            self.run(id) { try RestoreChoices.read(context, id: id, run, attempt: attempt, restore: restore) }
        case .settled(let id, let run, let attempt, let restore, let ranks, let ok, let reason):
            self.run(id) { try RestoreChoices.settled(context, id: id, run, attempt: attempt, restore: restore, ranks: ranks, ok: ok, reason: reason) }
        case .verdict(let id, let run, let attempt, let restore, let worldSize, let publish, let force):
            self.run(id) {
                try RestoreChoices.verdict(context, id: id, run, attempt: attempt, restore: restore, worldSize: worldSize, publish: publish, force: force)
            }

        case .describe(let id, let ref): run(id) { try steps.describe(id: id, ref) }
        case .load(let id, let ref, let boxes, let segments, let undecided):
            // On a thread of its own: it waits for buffers to come back, which must not keep the metadata threads.
            loader.load(id: id, ref, boxes: boxes, segments: segments, undecided: undecided, steps: steps)
        case .freeBuffers(let slots): loader.free(slots)

        case .list(let id, let run): self.run(id) { .steps(id: id, try steps.list(run)) }
        case .runs(let id): run(id) { .runs(id: id, try steps.runs()) }
        case .verify(let id, let ref): Verifier.verify(context, steps, id: id, ref)
        case .pin(let id, let ref, let pinned): run(id) { try steps.pin(ref, pinned); return .done(id: id) }
        case .remove(let id, let ref): run(id) { try steps.remove(ref); return .done(id: id) }
        case .retain(let id, let run, let keep, let period, let saves, let sequences):
            self.run(id) {
                .removed(id: id, try steps.retain(run, keep: keep, keepPeriod: period, protectedSaves: Set(saves), protectedSequences: Set(sequences)))
            }
        case .scan(let id): run(id) { .scanned(id: id, try steps.scan()) }
        case .space(let id): run(id) { .space(id: id, try steps.space()) }
        }
    }
}
