// Load: bytes of a step into the rank's leases, from the nearest tier that has all that the Load asks for: memory, local, global. The nearer
// ones have this node's ranks' parts. Every block is checked before it is handed over (I7).
import CairnEngine
import CairnIO
import CairnMessages
import CairnModel
import CairnStore
import CairnWire
import FoundationEssentials

extension Daemon {
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
        if let lost = leases.first(where: { session.lostLeases.contains($0.segment) }) { return context.fail(.leaseLost(segment: lost.segment)) }
        let sequence = CommitSequence(wire: parameters.sequence)
        let save = engine.save(run: session.run, sequence: sequence)
        let job = LoadJob(session: session, context: context, boxes: parameters.boxes, leases: leases,
                          ref: StepRef(run: session.run, step: parameters.step, sequence: sequence, save: save),
                          tiers: engine.tiers.filter { !session.slowTiers.contains($0) } + engine.tiers.filter { session.slowTiers.contains($0) },
                          startedAt: loop.nowNanoseconds)
        counters.loads += 1
        if let save, let memory = memoryCatalog(session.run, save, sequence), loadFromMemory(job, memory) { return }
        loadFromTiers(job)
    }

    func finish(_ job: LoadJob, _ tier: Tier, _ placed: [PlacedPiece]) {
        counters.loadedBytes[tier, default: 0] += placed.reduce(0) { $0 + $1.bytes }
        job.context.reply(Checkpoint.Load.Reply(tier: tier.rawValue, placed: placed.map {
            Checkpoint.Piece(name: $0.name, begin: $0.begin, bytes: $0.bytes, segment: $0.segment, offset: $0.offset)
        }))
    }

    /// False: not all of these boxes can come from memory; nothing was begun.
    func loadFromMemory(_ job: LoadJob, _ memory: MemoryCatalog) -> Bool {
        guard let save = job.ref.save else { return false }
        let plan: LoadPlan
        do { plan = try LoadPlan.make(catalog: memory.catalog, boxes: job.boxes, segments: job.leases, near: [job.session.rank]) } catch {
            // What another node's ranks hold is known to a tier that has all of it.
            if !memory.isWhole, error.isOfPartsElsewhere { return false }
            job.context.fail(wireError(error))
            return true
        }
        guard plan.bytes <= configuration.limits.loadBytes else {
            job.context.fail(.tooLarge(bytes: plan.bytes, limit: configuration.limits.loadBytes))
            return true
        }
        var byRank: [Int: ResidentRank] = [:]
        for rank in engine.resident(run: job.ref.run, save: save) { byRank[rank.rank] = rank }
        var checks: [UInt64] = [], copies: [UInt64] = [], checked: Set<Int> = [], held: Set<Int> = []
        for run in plan.runs {
            guard let rank = byRank[run.rank], let crcs = plans[rank.handle]?.crcs, let fileBytes = plans[rank.handle]?.plan.fileBytes else { return false }
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
        copyOut(.pool, checks: checks, copies: Words.pack(copies)) { [unowned self] result in
            deliver(.slotsReleased(slots))
            switch result {
            case .done: finish(job, .memory, plan.placed)
            case .failed(let offset, let text):
                log.write(.error, "run \(job.ref.run) step \(job.ref.step): the copy in memory is not what was staged"
                    + (offset.map { " (slot \($0 / Sizes.chunkBytes))" } ?? "") + ": \(text); the next tier is read", LogFields(run: job.ref.run, step: job.ref.step, tier: .memory))
                loadFromTiers(job)
            }
        }
        return true
    }

    func loadFromTiers(_ job: LoadJob) {
        guard job.context.isLive else { return }
        guard !job.tiers.isEmpty else {
            let isAgain = job.metNoWorker && triesAgain(since: job.startedAt) { [unowned self] in
                job.tiers = engine.tiers
                job.metNoWorker = false
                loadFromTiers(job)
            }
            if !isAgain { job.context.fail(job.failure ?? .noSuchStep(step: job.ref.step)) }
            return
        }
        let tier = job.tiers.removeFirst()
        // A save that the attempt's restore chose is read though this node has no commit of it: the choice was made by what all nodes hold.
        let undecided = job.ref.save.map { engine.isChosen(run: job.ref.run, save: $0) } ?? false
        // The worker reads into a lease itself, or reports each buffer as it is checked: the stager copies it into the leases, then the buffer
        // is free again. A read that was given up may still come to its end: then nothing else goes into that lease.
        job.begin()
        lend(job.leases, to: tier)
        askTier(tier, { .load(id: $0, ref: job.ref, boxes: job.boxes, segments: job.leases, undecided: undecided) }, onLost: {
            job.isLost = true
            job.session.slowTiers.insert(tier)
            job.session.lostLeases.formUnion(job.leases.map(\.segment))
        }) { [unowned self] reply, payload in
            switch reply {
            case .failed where job.isLost:
                job.isConcluded = true
                job.context.fail(.leaseLost(segment: job.leases[0].segment))
            case .filled(_, let slots, let count):
                precondition(payload.count == count * 32, "a `filled` of \(count) copies has \(payload.count) bytes")
                let instance = tierLinks[tier]?.instance ?? ""
                job.outstanding += 1
                copyOut(.buffer(tier: tier, instance: instance), checks: [], copies: payload) { [unowned self] result in
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
                if isWithoutWorker(tier) { job.metNoWorker = true }
                // "Not here" says less than what a nearer tier's copy suffered from.
                if job.failure == nil || failure.kind != .notHere { job.failure = wireError(failure, tier: tier, step: job.ref.step) }
                if failure.kind == .corrupt { log.write(.error, "run \(job.ref.run) step \(job.ref.step), \(tier) tier: \(failure.text)", LogFields(run: job.ref.run, step: job.ref.step, tier: tier)) }
                job.isRead = true
                concludeLoad(job, tier)
            default: preconditionFailure("a load was answered with \(reply)")
            }
        }
    }

    func concludeLoad(_ job: LoadJob, _ tier: Tier) {
        guard job.isRead, job.outstanding == 0, !job.isConcluded else { return }
        job.isConcluded = true
        guard job.hasFailed else { return finish(job, tier, job.placed) }
        loadFromTiers(job)
    }

    /// `packed`: words as StagerRequest.copyOut has them; a tier worker's `filled` brings them so.
    func copyOut(_ source: CopySource, checks: [UInt64], copies packed: [UInt8], _ handler: @escaping (CopyResult) -> Void) {
        let id = nextCopy
        nextCopy += 1
        guard stager.state == .up else { return handler(.failed(offset: nil, "the stager is being started again")) }
        copies[id] = handler
        stager.send(StagerRequest.copyOut(id: id, source: source, verify: checks.count / 4, copies: packed.count / 32),
                    payload: Words.pack(checks) + packed)
    }
}

extension SliceError {
    /// Of an index that lacks some ranks: theirs may be what is not found.
    fileprivate var isOfPartsElsewhere: Bool {
        switch self {
        case .notCovered, .noSuchTensor: true
        case .boxOutOfRange, .tooManyRuns, .tooLarge: false
        }
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
    let startedAt: Int
    /// A tier that was asked did not answer.
    var isLost = false
    /// A tier could not be asked, or ended while it was.
    var metNoWorker = false
    /// Of the tier tried last: what the client is told if none has it.
    var failure: WireError?

    init(session: ClientSession, context: CallContext, boxes: [Box], leases: [LeaseSegment], ref: StepRef, tiers: [Tier], startedAt: Int) {
        self.session = session
        self.context = context
        self.boxes = boxes
        self.leases = leases
        self.ref = ref
        self.tiers = tiers
        self.startedAt = startedAt
    }

    func begin() {
        isRead = false
        isConcluded = false
        placed = []
        hasFailed = false
    }
}
