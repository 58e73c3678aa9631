// The links to the workers: first messages, replies, and what follows when one is lost.
import CairnConfiguration
import CairnEngine
import CairnIO
import CairnMessages
import CairnModel
import FoundationEssentials

/// One of main's own requests to a tier worker. The handler gets each reply of it; a failure or the last reply ends it.
struct TierCall {
    let tier: Tier
    let deadline: Int
    /// Before the handler, if no answer came and one may have been worked on.
    let onLost: () -> Void
    let handler: (TierReply, [UInt8]) -> Void
}

enum CopyResult { case done, failed(offset: Int?, String) }

extension Daemon {
    func startWorkers() throws {
        stager.onStart = { [unowned self] link in
            let cores = ProcessInfo.processInfo.activeProcessorCount
            link.send(StagerRequest.start(StagerStart(
                pool: poolShape, threads: StagerStart.threads(ofCores: cores), niceness: 19, lock: configuration.pool.lock != .never,
                stuckMilliseconds: configuration.limits.fenceMs, instance: link.instance,
                forceDescriptor: ProcessFacts.environment("CAIRN_FORCE_MEMORY_DESCRIPTOR") == "1", locks: kept != nil)),
                descriptors: poolSegments.map(\.descriptor) + [memoryListener] + (kept.map { [$0.index.memory.descriptor] } ?? []))
        }
        stager.onFrame = { [unowned self] frame in stagerFrame(frame) }
        stager.onLost = { [unowned self] reason in
            log.write(.error, "the stager is gone: \(reason); it is started anew")
            for (_, handler) in copies.sorted(by: { $0.key < $1.key }) { handler(.failed(offset: nil, "the stager ended")) }
            copies.removeAll()
            let asked = Array(leasesAsked.values) + Array(puts.values)
            leasesAsked.removeAll()
            puts.removeAll()
            for handler in asked { handler("the stager ended") }
            deliver(.stagerLost(reason: reason))
            for session in Array(sessions.values) { endSession(session, reason: "the stager is started anew; open again") }
        }
        stager.onFailedStart = { [unowned self] reason in
            log.write(.error, "the stager could not start: \(reason)")
            if !isReady { fail("the stager could not start: \(reason)") }
        }
        for (tier, link) in tierLinks {
            link.onStart = { [unowned self] link in startTier(tier, link) }
            link.onFrame = { [unowned self] frame in tierFrame(tier, frame) }
            link.onLost = { [unowned self] reason in
                tierBuffers[tier] = nil
                failTierCalls(tier, "the \(tier) tier's worker is gone: \(reason)")
                deliver(.tierLost(tier, reason: "its worker is gone: \(reason); it is started anew"))
            }
            link.onFailedStart = { [unowned self] reason in
                failTierCalls(tier, "the \(tier) tier's worker could not start: \(reason)", wereBegun: false)
                deliver(.tierLost(tier, reason: "its worker could not start: \(reason); it is tried again"))
                becomeReady(evenWithoutTiers: false)
            }
        }
        stager.start()
        if !beginTakingUp() { startTiers() }
    }

    func startTiers() {
        SystemdNotify.send(state: "STATUS=starting: the pool is filled and the tiers are opened")
        for tier in engine.tiers { tierLinks[tier]?.start() }
        loop.timer(afterMilliseconds: hasTakenUp ? DaemonLimits.workerRestartMilliseconds : DaemonLimits.workerStartMilliseconds) { [unowned self] in
            for tier in engine.tiers where tierLinks[tier]?.state == .starting {
                log.write(.error, "the \(tier) tier has not answered yet (its filesystem hangs?): going on without it until it does", LogFields(tier: tier))
            }
            becomeReady(evenWithoutTiers: true)
        }
    }

    private func startTier(_ tier: Tier, _ link: WorkerLink) {
        let slots = Engine.loadBufferSlots + TierStart.readBackSlots
        let buffer: SharedMemory
        do {
            buffer = try SharedMemory.create(name: "cairn-\(tier)-buffer", bytes: slots * Sizes.chunkBytes)
        } catch {
            log.write(.error, "no memory for the \(tier) tier's read buffer: \(error)")
            return link.kill()
        }
        tierBuffers[tier] = buffer
        let ring: CairnConfiguration.Configuration.IO, direct: CairnConfiguration.Configuration.Direct, paths: [String], reserve: Int
        switch tier {
        case .local:
            guard let local = configuration.tiers.local else { return }
            (ring, direct, paths, reserve) = (local.io, local.direct, local.paths, local.reserveBytes)
        default:
            guard let global = configuration.tiers.global else { return }
            (ring, direct, paths, reserve) = (global.io, global.direct, [global.path], 0)
        }
        let start = TierStart(
            tier: tier, form: tier == engine.committing ? .committing : .beside, paths: paths, instance: link.instance, isRestart: link.restarts > 0,
            wasScanned: engine.allScanned(tier), node: node, pool: poolShape,
            bufferSlots: Engine.loadBufferSlots,
            exclusive: tier == .local && configuration.tiers.local?.shared != true, depth: TierStart.usualDepth,
            ring: ring == .auto ? .auto : ring == .ioUring ? .on : .off, direct: direct == .auto ? .auto : direct == .on ? .on : .off,
            reserveBytes: reserve, fileMode: configuration.files.mode, group: configuration.files.group, compression: compressionSetting(tier))
        link.send(TierRequest.start(start), descriptors: poolSegments.map(\.descriptor) + [buffer.descriptor])
    }

    private func compressionSetting(_ tier: Tier) -> CompressionSetting {
        guard tier == .global, let global = configuration.tiers.global else { return CompressionSetting() }
        let method: CompressionSetting.Method = switch global.compression {
        case .none: .none
        case .zstd: .zstd
        case .auto: .auto
        }
        return CompressionSetting(method, threads: global.compressionThreads)
    }

    /// Everybody who reads this tier's read buffer gets the running instance's.
    private func announceBuffer(_ tier: Tier, _ link: WorkerLink) {
        guard let buffer = tierBuffers[tier] else { return }
        if stager.state == .up {
            stager.send(StagerRequest.buffer(tier: tier, instance: link.instance, bytes: buffer.bytes), descriptors: [buffer.descriptor])
        }
        if tier == .local, let global = tierLinks[.global], global.state == .up {
            global.send(TierRequest.peerBuffer(instance: link.instance, bytes: buffer.bytes), descriptors: [buffer.descriptor])
        }
    }

    // MARK: the stager

    private func stagerFrame(_ frame: Frame) {
        let reply: StagerReply
        do { reply = try MessageCoding.decode(StagerReply.self, from: frame.json) } catch {
            log.write(.error, "the stager sent what is no reply: \(error)")
            return stager.kill()
        }
        switch reply {
        case .ready:
            stager.isUp()
            filledSlots = 0
            lockedSlots = 0
            hugeSlots = 0
            if takingUp != nil { takeUpNext() } else { deliver(.stagerReady) }
            for (tier, link) in tierLinks where link.state == .up { announceBuffer(tier, link) }
        case .filled(let slots, let locked, let huge, let note):
            filledSlots = max(filledSlots, slots)
            lockedSlots = locked
            hugeSlots = huge
            if let note, lockNote == nil {
                lockNote = note
                log.write(configuration.pool.lock == .always ? .error : .warning, note)
                if configuration.pool.lock == .always, !isReady { return fail("pool.lock is true, but \(note)") }
            }
            if takingUp != nil { takingUp?.filled = reply } else { deliver(.stager(reply)) }
            becomeReady(evenWithoutTiers: false)
        case .staged(let chunks): staged(chunks, payload: frame.payload)
        case .copiedOut(let id): copies.removeValue(forKey: id)?(.done)
        case .copyFailed(let id, let offset, let text): copies.removeValue(forKey: id)?(.failed(offset: offset, text))
        case .putDone(let id): puts.removeValue(forKey: id)?(nil)
        case .putFailed(let id, let text): puts.removeValue(forKey: id)?(text)
        case .leased(let segment): leasesAsked.removeValue(forKey: segment)?(nil)
        case .leaseFailed(let segment, let text): leasesAsked.removeValue(forKey: segment)?(text)
        case .memoryAttached: break
        case .changed(let handle, let fileOffset):
            let name = plans[handle]?.plan.shardName(at: fileOffset) ?? "?"
            deliver(.stager(.stageFailed(handle: handle, kind: .other, text: "tensor '\(name)' was changed between save() and its copy: "
                + "what is lazily saved may change after the fence only")))
        default: deliver(.stager(reply))
        }
    }

    /// I13: after the stager's last read and before anything is told, the session's socket is looked at: hung up means failed.
    private func staged(_ chunks: [ChunkStaged], payload: [UInt8]) {
        var at = 0
        for chunk in chunks {
            let crcs = Words.unpack32(payload[at..<at + chunk.blocks * 4])
            at += chunk.blocks * 4
            guard let plan = plans[chunk.handle] else { continue }
            let first = chunk.chunk * Sizes.blocksPerChunk
            precondition(first + crcs.count <= plan.crcs.count, "more CRCs than blocks")
            plan.crcs.replaceSubrange(first..<first + crcs.count, with: crcs)
            counters.stagedBytes += Sizes.bytes(ofChunk: chunk.chunk, fileBytes: plan.plan.fileBytes)
            if let session = sessions[plan.session], UnixSocket.hungUp(session.connection.socket) {
                deliver(.hungUp(session.token))
            }
        }
        deliver(.stager(.staged(chunks)))
    }

    // MARK: tiers

    private func tierFrame(_ tier: Tier, _ frame: Frame) {
        let reply: TierReply
        guard let link = tierLinks[tier] else { return }
        do { reply = try MessageCoding.decode(TierReply.self, from: frame.json) } catch {
            log.write(.error, "the \(tier) tier's worker sent what is no reply: \(error)")
            return link.kill()
        }
        switch reply {
        case .ready(let ring, let direct, let notes):
            link.io = ring ? "io_uring" : "threads"
            link.direct = direct
            for note in notes where !link.notes.contains(note) { log.write(.warning, "\(tier) tier: \(note)", LogFields(tier: tier)) }
            link.notes = notes
            link.isUp()
            if link.restarts > 0 { log.write(.notice, "the \(tier) tier is up again", LogFields(tier: tier)) }
            announceBuffer(tier, link)
            if tier == .global, let local = tierLinks[.local], local.state == .up { announceBuffer(.local, local) }
            deliver(.tierReady(tier))
            becomeReady(evenWithoutTiers: false)
        case .startFailed(let failure):
            link.lastFailure = failure.text
            // A configuration that cannot work ends the daemon; a filesystem that is not there at this moment, or full, is waited for.
            // One that goes on with a former process's memory waits for every tier: a worker of that process may still hold it.
            if !isReady, !hasTakenUp, link.restarts == 0, ![.unreachable, .missing, .noSpace].contains(failure.kind) || engine.tiers.count == 1 { fail("\(tier) tier: \(failure.text)") }
        case .gone(let failure): link.lastFailure = failure.text
        case .stored(let file): stored.add(file)
        default:
            guard let id = reply.id else { return }
            if let call = tierCalls[id] {
                if reply.isLast { tierCalls[id] = nil }
                call.handler(reply, frame.payload)
            } else {
                if case .decision = reply { decisionRecord = frame.payload }
                deliver(.tier(tier, reply))
                decisionRecord = []
            }
        }
    }

    /// Asks a tier worker on main's own account. The handler is called with `.failed` when the tier is down or too slow.
    func askTier(_ tier: Tier, seconds: Int = DaemonLimits.tierCallSeconds, _ request: (Int) -> TierRequest, onLost: @escaping () -> Void = {},
                 handler: @escaping (TierReply, [UInt8]) -> Void) {
        let id = nextTierCall
        nextTierCall += 1
        guard let link = tierLinks[tier], link.takesRequests else {
            let why = engine.tierReports.first { $0.tier == tier }?.reason ?? "it is not configured"
            return handler(.failed(id: id, TierFailure(kind: .io, text: "the \(tier) tier is down: \(why)")), [])
        }
        tierCalls[id] = TierCall(tier: tier, deadline: loop.nowNanoseconds + seconds * 1_000_000_000, onLost: onLost, handler: handler)
        link.send(request(id))
        updateTick()
    }

    /// Whether `body` will run once more: within a while since `begin`, when a worker may have been started anew.
    func triesAgain(since begin: Int, _ body: @escaping () -> Void) -> Bool {
        guard !stopping, loop.nowNanoseconds - begin < DaemonLimits.restartPatienceMilliseconds * 1_000_000 else { return false }
        loop.timer(afterMilliseconds: DaemonLimits.restartFirstMilliseconds, handler: body)
        return true
    }

    func isWithoutWorker(_ tier: Tier) -> Bool { tierLinks[tier]?.state != .up }

    func expireTierCalls() {
        let now = loop.nowNanoseconds
        for (id, call) in tierCalls.sorted(by: { $0.key < $1.key }) where call.deadline <= now {
            tierCalls[id] = nil
            call.onLost()
            call.handler(.failed(id: id, TierFailure(kind: .io, text: "the \(call.tier) tier does not answer: its filesystem hangs or is overloaded")), [])
        }
    }

    private func failTierCalls(_ tier: Tier, _ reason: String, wereBegun: Bool = true) {
        for (id, call) in tierCalls.sorted(by: { $0.key < $1.key }) where call.tier == tier {
            tierCalls[id] = nil
            if wereBegun { call.onLost() }
            call.handler(.failed(id: id, TierFailure(kind: .io, text: reason)), [])
        }
    }

    // MARK: ready

    /// The first 256 MiB of the pool and every tier, but those that are down: then ranks are served well. The rest of the pool fills behind.
    func becomeReady(evenWithoutTiers: Bool) {
        guard !isReady, !stopping, takingUp == nil else { return }
        let enough = min(poolShape.slots, DaemonLimits.readyPoolBytes / Sizes.chunkBytes)
        guard filledSlots >= enough else { return }
        guard evenWithoutTiers || engine.tiers.allSatisfy({ tierLinks[$0]?.state != .starting }) else { return }
        isReady = true
        SystemdNotify.send(state: "READY=1\nSTATUS=serving ranks on \(configuration.socket)")
        log.write(.notice, "ready after \((loop.nowNanoseconds - startedAt) / 1_000_000) ms")
    }

    func fail(_ reason: String) {
        guard fatal == nil else { return }
        fatal = reason
        stop(drain: false)
    }
}

extension TierReply {
    /// Whether no further reply with this id follows.
    var isLast: Bool {
        switch self {
        case .filled, .verifyProgress: false
        default: true
        }
    }
}
