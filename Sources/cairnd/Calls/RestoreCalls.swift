// The way back: which step (Choose, Settle: the engine's), what it holds (Steps, Describe), and its bytes (Load), from the
// nearest tier that holds them whole: memory, local, global. Every block is checked before it is handed over (I7).
import CairnEngine
import CairnIO
import CairnMessages
import CairnModel
import CairnStore
import CairnWire
import FoundationEssentials

extension Daemon {
    func choose(_ parameters: Checkpoint.Choose.Parameters, _ session: ClientSession, _ context: CallContext) {
        guard (1...100_000).contains(parameters.restore) else { return context.fail(.invalidParameter(parameter: "restore")) }
        if let step = parameters.step, step < 0 { return context.fail(.invalidParameter(parameter: "step")) }
        let call = engineCall(context) { [unowned self] answer in
            switch answer {
            case .chosen(let step, let sequence):
                counters.restores += 1
                context.reply(Checkpoint.Choose.Reply(step: step, sequence: sequence.wire))
            case .failed(let error): context.fail(wireError(error))
            default: preconditionFailure("a Choose was answered with \(answer)")
            }
        }
        let deadline = parameters.timeoutMs.map { loop.nowNanoseconds + min(max(0, $0), 1 << 40) * 1_000_000 }
        deliver(.choose(call: call, session: session.token, restore: parameters.restore, step: parameters.step, deadline: deadline))
    }

    func settle(_ parameters: Checkpoint.Settle.Parameters, _ session: ClientSession, _ context: CallContext) {
        let call = engineCall(context) { [unowned self] answer in
            switch answer {
            case .settled(let again): context.reply(Checkpoint.Settle.Reply(again: again))
            case .failed(let error): context.fail(wireError(error))
            default: preconditionFailure("a Settle was answered with \(answer)")
            }
        }
        deliver(.settle(call: call, session: session.token, restore: parameters.restore, ok: parameters.ok, reason: parameters.reason))
    }

    func steps(_ parameters: Checkpoint.Steps.Parameters, _ session: ClientSession, _ context: CallContext) {
        guard parameters.run == session.run.name else { return context.fail(.noSuchRun(run: parameters.run)) }
        listSteps(session.run) { [unowned self] result in
            switch result {
            case .failure(let error): context.fail(error)
            case .success(let steps):
                var all = steps.map { step in
                    Checkpoint.Step(step: step.step, sequence: step.sequence.wire, level: .committed, ranks: step.worldSize, worldSize: step.worldSize,
                                    bytes: step.bytes, pinned: step.pinned, superseded: step.superseded, savedAt: step.savedAt)
                }
                for report in engine.saveReports(run: session.run) where report.reason == nil {
                    all.append(Checkpoint.Step(step: report.save.step, sequence: 0, level: report.level, ranks: report.ranks.count,
                                               worldSize: report.worldSize, bytes: report.bytes, pinned: false, superseded: false, savedAt: ""))
                }
                context.reply(Checkpoint.Steps.Reply(steps: all))
            }
        }
    }

    /// A tier that hangs is not waited for long where the local one can tell as much: the commits that were copied to it.
    var listSeconds: Int { engine.beside != nil && engine.isStalled(engine.committing) ? 2 : DaemonLimits.tierCallSeconds }

    /// The committed steps of a run: from the committing tier, or while that is down from the local records of commits.
    func listSteps(_ run: RunKey, from tier: Tier? = nil, _ handler: @escaping (Result<[StepSummary], WireError>) -> Void) {
        let committing = tier ?? engine.committing
        askTier(committing, seconds: listSeconds, { .list(id: $0, run: run) }) { [unowned self] reply, _ in
            switch reply {
            case .steps(_, let steps): handler(.success(steps))
            case .failed(_, let failure):
                guard let beside = engine.beside, beside != committing, failure.kind == .io else { return handler(.failure(wireError(failure, tier: committing))) }
                askTier(beside, { .list(id: $0, run: run) }) { [unowned self] reply, _ in
                    switch reply {
                    case .steps(_, let steps): handler(.success(steps))
                    default: handler(.failure(wireError(failure, tier: committing)))
                    }
                }
            default: handler(.failure(.failed(reason: "the \(committing) tier's worker answered with something else")))
            }
        }
    }

    func describe(_ parameters: Checkpoint.Describe.Parameters, _ session: ClientSession, _ context: CallContext) {
        index(session.run, step: parameters.step, sequence: parameters.sequence.map(CommitSequence.init(wire:))) { result in
            switch result {
            case .failure(let error): context.fail(error)
            case .success(let index):
                let names = parameters.names.map(Set.init)
                var shards: [Checkpoint.Shard] = [], objects: [Checkpoint.Object] = []
                for table in index.ranks {
                    for stored in table.shards where names?.contains(stored.shard.name) ?? true {
                        shards.append(Checkpoint.Shard(stored.shard, rank: table.rank))
                    }
                    for stored in table.objects where names?.contains(stored.object.name) ?? true {
                        objects.append(Checkpoint.Object(stored.object, rank: table.rank))
                    }
                }
                context.reply(Checkpoint.Describe.Reply(worldSize: index.worldSize, shards: shards, objects: objects, metadata: index.metadata))
            }
        }
    }

    /// Where everything of a step is: from memory where all of it lies there, else from a tier that can say.
    func index(_ run: RunKey, step: Int, sequence: CommitSequence?, _ handler: @escaping (Result<StepIndex, WireError>) -> Void) {
        guard let sequence else {
            return listSteps(run) { [unowned self] result in
                switch result {
                case .failure(let error): handler(.failure(error))
                case .success(let steps):
                    guard let newest = steps.filter({ $0.step == step }).max(by: { $0.sequence < $1.sequence }) else {
                        return handler(.failure(.noSuchStep(step: step)))
                    }
                    index(run, step: step, sequence: newest.sequence, handler)
                }
            }
        }
        let save = engine.save(run: run, sequence: sequence)
        if let save, let index = residentIndex(run, save, sequence) { return handler(.success(index)) }
        let ref = StepRef(run: run, step: step, sequence: sequence, save: save)
        func ask(_ tiers: ArraySlice<Tier>, _ last: WireError) {
            guard let tier = tiers.first else { return handler(.failure(last)) }
            askTier(tier, { .describe(id: $0, ref: ref) }) { [unowned self] reply, payload in
                switch reply {
                case .index:
                    do {
                        let index = try MessageCoding.decode(StepIndex.self, from: payload)
                        // A tier beside knows only the ranks that it holds.
                        guard index.ranks.count == index.worldSize else { return ask(tiers.dropFirst(), .noSuchStep(step: step)) }
                        handler(.success(index))
                    } catch {
                        ask(tiers.dropFirst(), .failed(reason: "the \(tier) tier's index of step \(step) does not parse: \(error)"))
                    }
                case .failed(_, let failure): ask(tiers.dropFirst(), wireError(failure, tier: tier, step: step))
                default: ask(tiers.dropFirst(), .noSuchStep(step: step))
                }
            }
        }
        ask(engine.tiers.reversed()[...], .noSuchStep(step: step))
    }

    private func residentIndex(_ run: RunKey, _ save: SaveID, _ sequence: CommitSequence) -> StepIndex? {
        guard let resident = engine.resident(run: run, save: save) else { return nil }
        let held = resident.compactMap { plans[$0.handle] }
        guard held.count == resident.count, let first = held.first else { return nil }
        return StepIndex(step: save.step, sequence: sequence, save: save, worldSize: first.worldSize, metadata: first.metadata,
                         ranks: held.map(\.table))
    }

    // MARK: load

    func load(_ parameters: Checkpoint.Load.Parameters, _ session: ClientSession, _ context: CallContext) {
        guard parameters.boxes.count <= DaemonLimits.boxesPerLoad else {
            return context.fail(.tooLarge(bytes: parameters.boxes.count, limit: DaemonLimits.boxesPerLoad))
        }
        guard !session.leases.isEmpty else { return context.fail(.failed(reason: "a Load goes into the session's leases: call Lease first")) }
        var leases = session.leases
        if let segments = parameters.segments {
            let wanted = Set(segments)
            leases.removeAll { !wanted.contains($0.segment) }
            guard !leases.isEmpty, leases.count == wanted.count else { return context.fail(.invalidParameter(parameter: "segments")) }
        }
        let sequence = CommitSequence(wire: parameters.sequence)
        let save = engine.save(run: session.run, sequence: sequence)
        let job = LoadJob(session: session, context: context, boxes: parameters.boxes, leases: leases,
                          ref: StepRef(run: session.run, step: parameters.step, sequence: sequence, save: save), tiers: engine.tiers)
        counters.loads += 1
        if let save, let index = residentIndex(session.run, save, sequence), loadFromMemory(job, index) { return }
        loadFromTiers(job)
    }

    private func finish(_ job: LoadJob, _ tier: Tier, _ placed: [PlacedPiece]) {
        counters.loadedBytes += placed.reduce(0) { $0 + $1.bytes }
        job.context.reply(Checkpoint.Load.Reply(tier: tier.rawValue, placed: placed.map {
            Checkpoint.Piece(name: $0.name, begin: $0.begin, bytes: $0.bytes, segment: $0.segment, offset: $0.offset)
        }))
    }

    /// False: this box cannot come from memory after all; nothing was begun.
    private func loadFromMemory(_ job: LoadJob, _ index: StepIndex) -> Bool {
        guard let save = job.ref.save, let resident = engine.resident(run: job.ref.run, save: save) else { return false }
        let plan: LoadPlan
        do { plan = try LoadPlan.make(index: index, boxes: job.boxes, segments: job.leases.map { LoadSegment(segment: $0.segment, bytes: $0.bytes) }) } catch {
            job.context.fail(wireError(error))
            return true
        }
        guard plan.bytes <= configuration.limits.loadBytes else {
            job.context.fail(.tooLarge(bytes: plan.bytes, limit: configuration.limits.loadBytes))
            return true
        }
        var byRank: [Int: ResidentRank] = [:]
        for rank in resident { byRank[rank.rank] = rank }
        var checks: [UInt64] = [], copies: [UInt64] = [], checked: Set<Int> = [], held: Set<Int> = []
        for run in plan.runs {
            guard let rank = byRank[run.rank], let crcs = plans[rank.handle]?.crcs, let fileBytes = plans[rank.handle]?.fileBytes else { return false }
            var at = run.fileOffset, destination = run.offset, left = run.bytes
            while left > 0 {
                let chunk = at / Sizes.chunkBytes, inChunk = at % Sizes.chunkBytes, count = min(left, Sizes.chunkBytes - inChunk)
                let base = rank.slots[chunk] * Sizes.chunkBytes
                held.insert(rank.slots[chunk])
                for block in at / Sizes.blockBytes...(at + count - 1) / Sizes.blockBytes {
                    let source = base + block % Sizes.blocksPerChunk * Sizes.blockBytes
                    guard checked.insert(source).inserted else { continue }
                    checks += [UInt64(source), UInt64(min(Sizes.blockBytes, fileBytes - block * Sizes.blockBytes)), UInt64(crcs[block]), 0]
                }
                copies += [UInt64(base + inChunk), UInt64(run.segment), UInt64(destination), UInt64(count)]
                at += count
                destination += count
                left -= count
            }
        }
        let slots = held.sorted()
        deliver(.slotsHeld(slots))
        copyOut(.pool, checks: checks, copies: copies) { [unowned self] result in
            deliver(.slotsReleased(slots))
            switch result {
            case .done: finish(job, .memory, plan.placed.map {
                PlacedPiece(name: $0.name, begin: $0.begin, bytes: $0.bytes, segment: $0.segment, offset: $0.offset)
            })
            case .failed(let offset, let text):
                log.write(.error, "run \(job.ref.run) step \(job.ref.step): the copy in memory is not what was staged"
                    + (offset.map { " (slot \($0 / Sizes.chunkBytes))" } ?? "") + ": \(text); the next tier is read")
                loadFromTiers(job)
            }
        }
        return true
    }

    private func loadFromTiers(_ job: LoadJob) {
        guard job.context.isLive else { return }
        guard !job.tiers.isEmpty else { return job.context.fail(job.failure ?? .noSuchStep(step: job.ref.step)) }
        let tier = job.tiers.removeFirst()
        let undecided = job.ref.save.map { engine.isWholeLocally(run: job.ref.run, save: $0) } ?? false
        // The worker reports each buffer as it is checked; the stager copies it into the leases, then the buffer is free again.
        job.begin()
        askTier(tier, { .load(id: $0, ref: job.ref, boxes: job.boxes, segments: job.leases, undecided: undecided) }) { [unowned self] reply, payload in
            switch reply {
            case .filled(_, let slots, let count):
                precondition(payload.count == count * 32, "a `filled` of \(count) copies has \(payload.count) bytes")
                let instance = tierLinks[tier]?.instance ?? ""
                job.outstanding += 1
                copyOut(.buffer(tier: tier, instance: instance), checks: [], copiesPacked: payload) { [unowned self] result in
                    if tierLinks[tier]?.instance == instance { tierLinks[tier]?.send(TierRequest.freeBuffers(slots: slots)) }
                    job.outstanding -= 1
                    if case .failed(_, let text) = result { job.hasFailed = true; job.failure = .failed(reason: text) }
                    concludeLoad(job, tier)
                }
            case .loaded(_, let placed):
                job.placed = placed
                job.isRead = true
                concludeLoad(job, tier)
            case .failed(_, let failure):
                job.hasFailed = true
                // "Not here" says less than what a nearer tier's copy suffered from.
                if job.failure == nil || failure.kind != .notHere { job.failure = wireError(failure, tier: tier, step: job.ref.step) }
                if failure.kind == .corrupt { log.write(.error, "run \(job.ref.run) step \(job.ref.step), \(tier) tier: \(failure.text)") }
                job.isRead = true
                concludeLoad(job, tier)
            default: preconditionFailure("a load was answered with \(reply)")
            }
        }
    }

    private func concludeLoad(_ job: LoadJob, _ tier: Tier) {
        guard job.isRead, job.outstanding == 0, !job.isConcluded else { return }
        job.isConcluded = true
        guard job.hasFailed else { return finish(job, tier, job.placed) }
        loadFromTiers(job)
    }

    private func copyOut(_ source: CopySource, checks: [UInt64], copies words: [UInt64], _ handler: @escaping (CopyResult) -> Void) {
        copyOut(source, checks: checks, copiesPacked: Words.pack(words), handler)
    }

    private func copyOut(_ source: CopySource, checks: [UInt64], copiesPacked: [UInt8], _ handler: @escaping (CopyResult) -> Void) {
        let id = nextCopy
        nextCopy += 1
        guard stager.state == .up else { return handler(.failed(offset: nil, "the stager is being started again")) }
        copies[id] = handler
        stager.send(StagerRequest.copyOut(id: id, source: source, verify: checks.count / 4, copies: copiesPacked.count / 32),
                    payload: Words.pack(checks) + copiesPacked)
    }
}

/// One Load on its way through the tiers.
final class LoadJob {
    let session: ClientSession
    let context: CallContext
    let boxes: [Box]
    let leases: [LeaseSegment]
    let ref: StepRef
    /// The tiers still to be tried, nearest first.
    var tiers: [Tier]
    var outstanding = 0
    var placed: [PlacedPiece] = []
    var isRead = false, isConcluded = false
    var hasFailed = false
    /// Of the tier tried last: what the client is told if none has it.
    var failure: WireError?

    init(session: ClientSession, context: CallContext, boxes: [Box], leases: [LeaseSegment], ref: StepRef, tiers: [Tier]) {
        self.session = session
        self.context = context
        self.boxes = boxes
        self.leases = leases
        self.ref = ref
        self.tiers = tiers
    }

    func begin() {
        isRead = false
        isConcluded = false
        placed = []
        hasFailed = false
    }
}
