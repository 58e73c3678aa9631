// dev.cairn.Checkpoint: what ranks call. Sessions and saves here; restores in RestoreCalls.
import CairnEngine
import CairnIO
import CairnMessages
import CairnModel
import CairnStore
import CairnWire

extension Daemon {
    func handle(_ call: IncomingCall, _ context: CallContext) {
        let request: Request
        switch call.request {
        case .failure(let error): return context.fail(error)
        case .success(let good): request = good
        }
        switch request {
        case .service(.getInfo): context.reply(Service.info(version: CairnVersion.text))
        case .service(.getInterfaceDescription(let parameters)):
            do { context.reply(try Service.description(of: parameters.interface)) } catch { context.fail(error) }
        case .operations(let request): operations(request, context)
        case .checkpoint(let request): checkpoint(request, context)
        }
    }

    private func checkpoint(_ request: Checkpoint.Request, _ context: CallContext) {
        switch request {
        case .open(let parameters): return open(parameters, context)
        case .attach(let parameters): return attach(parameters, context)
        default: break
        }
        guard let session = context.connection.session, session.isOpen else { return context.fail(.notOpen) }
        switch request {
        case .open, .attach: preconditionFailure("handled above")
        case .close:
            context.reply(Nothing())
            if context.connection.isSessionSocket { endSession(session, reason: "it was closed") }
        case .register(let parameters): register(parameters, session, context)
        case .save(let parameters): save(parameters, session, context)
        case .lease(let parameters): lease(parameters, session, context)
        case .release(let parameters): release(parameters, session, context)
        case .watch(let parameters): watch(parameters, session, context)
        case .wait(let parameters): wait(parameters, session, context)
        case .steps(let parameters): steps(parameters, session, context)
        case .describe(let parameters): describe(parameters, session, context)
        case .choose(let parameters): choose(parameters, session, context)
        case .load(let parameters): load(parameters, session, context)
        case .settle(let parameters): settle(parameters, session, context)
        case .seal: context.fail(.notSupported(feature: "Seal (held saves)"))
        case .put: context.fail(.notSupported(feature: "Put (streamed sources)"))
        case .promote: context.fail(.notSupported(feature: "Promote"))
        }
    }

    // MARK: sessions

    private func open(_ parameters: Checkpoint.Open.Parameters, _ context: CallContext) {
        guard RunKey.isValidName(parameters.run) else { return context.fail(.invalidParameter(parameter: "run")) }
        guard (1...1_000_000).contains(parameters.worldSize) else { return context.fail(.invalidParameter(parameter: "worldSize")) }
        guard (0..<parameters.worldSize).contains(parameters.rank) else { return context.fail(.invalidParameter(parameter: "rank")) }
        if let local = parameters.localWorldSize, !(1...parameters.worldSize).contains(local) {
            return context.fail(.invalidParameter(parameter: "localWorldSize"))
        }
        if let local = parameters.localRank, !(0..<(parameters.localWorldSize ?? parameters.worldSize)).contains(local) {
            return context.fail(.invalidParameter(parameter: "localRank"))
        }
        if let token = parameters.attempt, !(1...1000).contains(token.utf8.count) { return context.fail(.invalidParameter(parameter: "attempt")) }
        guard parameters.attempt != nil || parameters.worldSize == 1 else {
            return context.fail(.failed(reason: "a world of \(parameters.worldSize) ranks needs one attempt token on all of them: set CAIRN_ATTEMPT to a value "
                + "that is new with each launch, or start with torchrun or srun, where the client finds one"))
        }
        if engine.committing == .local, configuration.tiers.local?.shared != true, let local = parameters.localWorldSize, local < parameters.worldSize {
            return context.fail(.notPermitted(reason: "this daemon has a local tier only, and the world spans nodes (\(local) of \(parameters.worldSize) ranks are "
                + "here): configure tiers.global, or say tiers.local.shared: true if all nodes see the same folders"))
        }
        let hash = Digest.sha256Hex(Array("\(parameters.attempt ?? Entropy.hex(bytes: 16))\n\(parameters.worldSize)".utf8))
        if let attempt = parameters.attempt {
            // Another world size is another launch; two at once under one token are a mistake that would else wait for a rank 0.
            let launch = Digest.sha256Hex(Array(attempt.utf8))
            if let other = sessions.values.first(where: { $0.run == RunKey(uid: context.uid, name: parameters.run) && $0.launch == launch
                && $0.worldSize != parameters.worldSize }) {
                return context.fail(.notPermitted(reason: "rank \(other.rank) of this attempt says the world has \(other.worldSize) ranks, this one says \(parameters.worldSize)"))
            }
        }
        // Open on a connection that has a session replaces it.
        if let former = context.connection.session {
            guard context.connection.isSessionSocket else { return context.fail(.failed(reason: "an attached connection cannot open a session")) }
            context.connection.isSessionSocket = false
            context.connection.session = nil
            endSession(former, reason: "the same connection opened a new session")
            guard context.isLive else { return }
        }
        let peer = context.connection.peer
        let token = Entropy.hex(bytes: 16)
        let session = ClientSession(token: token, run: RunKey(uid: peer.uid, name: parameters.run), rank: parameters.rank,
                                    worldSize: parameters.worldSize, pid: peer.pid,
                                    launch: Digest.sha256Hex(Array((parameters.attempt ?? token).utf8)), connection: context.connection)
        do {
            let pidfd = try PidWatch.open(pid: peer.pid)
            session.processWatch = try loop.watch(pidfd, events: .readable) { [unowned self, weak session] _ in
                if let session { endSession(session, reason: "process \(session.pid) ended") }
            }
        } catch {
            return context.fail(.failed(reason: "the process \(peer.pid) that opened this connection cannot be watched: \(error)"))
        }
        sessions[token] = session
        context.connection.session = session
        context.connection.isSessionSocket = true
        let call = engineCall(context) { [unowned self, weak session] answer in
            switch answer {
            case .opened(_, _, let needsDescriptor):
                session?.isOpen = true
                context.connection.trust()
                context.reply(Checkpoint.Open.Reply(session: token, node: node, memory: needsDescriptor, limits: [
                    "inFlightPerRank": configuration.limits.inFlightPerRank, "fenceMs": configuration.limits.fenceMs,
                    "messageBytes": configuration.limits.messageBytes, "loadBytes": configuration.limits.loadBytes,
                    "leaseBytes": leaseLimit, "leases": DaemonLimits.leasesPerSession, "layouts": DaemonLimits.layoutsPerSession,
                    "boxes": DaemonLimits.boxesPerLoad,
                ]))
            case .failed(let error):
                context.connection.session = nil
                context.connection.isSessionSocket = false
                sessions[token]?.processWatch?.stop()
                sessions[token] = nil
                context.fail(wireError(error))
            default: preconditionFailure("an Open was answered with \(answer)")
            }
        }
        deliver(.open(OpenRequest(call: call, session: token, run: session.run, rank: session.rank, worldSize: session.worldSize,
                                  localWorldSize: parameters.localWorldSize, tokenHash: hash, pid: peer.pid)))
    }

    private func attach(_ parameters: Checkpoint.Attach.Parameters, _ context: CallContext) {
        guard parameters.memory == nil else {
            return context.fail(.notPermitted(reason: "a memory descriptor goes to the stager's socket '\(configuration.memorySocket)', not to this one"))
        }
        guard let session = sessions[parameters.session], session.isOpen, session.run.uid == context.uid else { return context.fail(.notOpen) }
        guard context.connection.session == nil else { return context.fail(.failed(reason: "this connection belongs to a session already")) }
        guard session.attached.count < 16 else { return context.fail(.tooLarge(bytes: session.attached.count, limit: 16)) }
        context.connection.session = session
        session.attached.append(context.connection)
        context.connection.trust()
        context.reply(Nothing())
    }

    // MARK: layouts

    private func register(_ parameters: Checkpoint.Register.Parameters, _ session: ClientSession, _ context: CallContext) {
        let layout: Layout
        do { layout = try Layout.make(shards: parameters.shards.map(\.model), rank: session.rank, worldSize: session.worldSize) } catch {
            return context.fail(wireError(error))
        }
        var extents: [StageExtent] = []
        var hasEager = false
        for entry in layout.entries {
            let source = parameters.shards[entry.index].source
            if source.streamed == true { return context.fail(.notSupported(feature: "streamed sources")) }
            if source.descriptor != nil { return context.fail(.notSupported(feature: "descriptor sources")) }
            if let problem = addExtents(source.memory, bytes: entry.bytes, at: entry.dataOffset, eager: entry.shard.eager, to: &extents) {
                return context.fail(.invalidShard(name: entry.shard.name, reason: problem))
            }
            if entry.shard.eager, entry.bytes > 0 { hasEager = true }
        }
        let number = nextLayout
        nextLayout += 1
        let name = "\(layout.digest.prefix(12))-\(number)"
        session.layouts.append((name, RegisteredLayout(number: number, layout: layout, hasEagerBytes: hasEager)))
        if session.layouts.count > DaemonLimits.layoutsPerSession {
            stager.send(StagerRequest.forgetLayout(session: session.token, layout: session.layouts.removeFirst().layout.number))
        }
        stager.send(StagerRequest.layout(session: session.token, layout: number), payload: StageExtent.pack(extents))
        context.reply(Checkpoint.Register.Reply(layout: name, bytes: layout.dataBytes))
    }

    /// What is wrong with these extents, or nil.
    private func addExtents(_ memory: [Extent]?, bytes: Int, at offset: Int, eager: Bool, to extents: inout [StageExtent]) -> String? {
        guard let memory else { return bytes == 0 ? nil : "its source has no memory extents" }
        var at = offset, left = bytes
        for extent in memory {
            guard extent.bytes >= 0, extent.bytes <= left else { return "its extents hold more or less than its \(bytes) bytes" }
            // No process has memory at page 0, nor above 2^57 (five-level page tables).
            guard extent.bytes == 0 || (extent.address >= 4096 && extent.address < 1 << 57 && UInt64(extent.bytes) < 1 << 57) else {
                return "address \(extent.address) with \(extent.bytes) bytes is no memory"
            }
            if extent.bytes > 0 { extents.append(StageExtent(fileOffset: at, address: extent.address, bytes: extent.bytes, eager: eager)) }
            at += extent.bytes
            left -= extent.bytes
        }
        return left == 0 ? nil : "its extents hold \(bytes - left) of its \(bytes) bytes"
    }

    // MARK: saves

    private func save(_ parameters: Checkpoint.Save.Parameters, _ session: ClientSession, _ context: CallContext) {
        if parameters.hold == true { return context.fail(.notSupported(feature: "held saves")) }
        if parameters.participants != nil { return context.fail(.notSupported(feature: "participants")) }
        guard let step = parameters.step, step >= 0 else { return context.fail(.invalidParameter(parameter: "step")) }
        guard (1...1_000_000).contains(parameters.attemptTry) else { return context.fail(.invalidParameter(parameter: "try")) }
        let upto = parameters.upto ?? .committed
        guard upto != .failed, upto != .accepted else { return context.fail(.invalidParameter(parameter: "upto")) }
        guard let registered = session.layout(parameters.layout) else { return context.fail(.unknownLayout(layout: parameters.layout)) }
        let metadata = parameters.metadata ?? [:]
        guard metadata.count <= 1000, metadata.allSatisfy({ $0.key.utf8.count + $0.value.utf8.count <= 64 << 10 }) else {
            return context.fail(.invalidParameter(parameter: "metadata"))
        }
        guard let attempt = engine.attemptNumber(session: session.token) else { return context.fail(.notOpen) }
        let id = SaveID(attempt: attempt, step: step, attemptTry: parameters.attemptTry)
        let objects = parameters.objects ?? []
        let plan: FilePlan
        do {
            plan = try FileHeader.make(layout: registered.layout, objects: objects.map(\.model), run: session.run, save: id,
                                       rank: session.rank, worldSize: session.worldSize)
        } catch {
            return context.fail(wireError(error))
        }
        var extents: [StageExtent] = []
        for (object, stored) in zip(objects, plan.table.objects) {
            if object.source.streamed == true || object.source.descriptor != nil { return context.fail(.notSupported(feature: "other than memory sources")) }
            if let problem = addExtents(object.source.memory, bytes: object.bytes, at: stored.fileOffset, eager: true, to: &extents) {
                return context.fail(.invalidShard(name: object.name, reason: problem))
            }
        }
        let handle = nextHandle
        nextHandle += 1
        plans[handle] = PlannedSave(session: session.token, run: session.run, save: id, rank: session.rank, worldSize: session.worldSize,
                                    layoutDigest: registered.layout.digest, plan: plan, metadata: metadata,
                                    parent: engine.attemptParent(session: session.token), upto: upto,
                                    savedAt: Clock.iso8601(Clock.utcSeconds()))
        let call = engineCall(context) { [unowned self] answer in
            switch answer {
            case .saved(let save, let bytes): context.reply(Checkpoint.Save.Reply(save: save.description, bytes: bytes))
            case .failed(let error):
                // Refused before anything was staged: the engine knows nothing of this plan.
                if !engine.knows(handle: handle) { plans[handle] = nil }
                if case .invalid(_, let reason) = error { return context.fail(.failed(reason: reason)) }
                context.fail(wireError(error))
            default: preconditionFailure("a Save was answered with \(answer)")
            }
        }
        let staging = BeginStaging(handle: handle, session: session.token, layout: registered.number, dataStart: plan.dataStart,
                                   fileBytes: plan.fileBytes, objects: extents)
        deliver(.save(SaveRequest(call: call, session: session.token, handle: handle, step: step, attemptTry: parameters.attemptTry, upto: upto,
                                  staging: staging, eagerChunks: eagerChunks(registered.layout, plan),
                                  waitsForEager: registered.hasEagerBytes || !extents.isEmpty)))
    }

    /// Chunks with eager bytes, ascending: the header's, those of eager shards, and the objects'.
    private func eagerChunks(_ layout: Layout, _ plan: FilePlan) -> [Int] {
        var chunks: [Int] = []
        func add(_ from: Int, _ bytes: Int) {
            guard bytes > 0 else { return }
            let first = from / Sizes.chunkBytes, last = (from + bytes - 1) / Sizes.chunkBytes
            for chunk in max(first, (chunks.last ?? -1) + 1)..<max(last + 1, max(first, (chunks.last ?? -1) + 1)) { chunks.append(chunk) }
        }
        add(0, plan.dataStart)
        for entry in layout.entries where entry.shard.eager { add(plan.dataStart + entry.dataOffset, entry.bytes) }
        add(plan.dataStart + layout.dataBytes, plan.fileBytes - plan.dataStart - layout.dataBytes)
        return chunks
    }

    private func wait(_ parameters: Checkpoint.Wait.Parameters, _ session: ClientSession, _ context: CallContext) {
        guard let id = SaveID(parameters.save) else { return context.fail(.unknownSave(save: parameters.save)) }
        if let timeout = parameters.timeoutMs, timeout < 0 { return context.fail(.invalidParameter(parameter: "timeoutMs")) }
        let call = engineCall(context) { [unowned self] answer in
            switch answer {
            case .waited(let level, let reason): context.reply(Checkpoint.Wait.Reply(level: level, reason: reason))
            case .failed(.unknownSave): lookDecision(session.run, id, context)
            case .failed(.invalid(_, let reason)): context.fail(.failed(reason: reason))
            case .failed(let error): context.fail(wireError(error))
            default: preconditionFailure("a Wait was answered with \(answer)")
            }
        }
        let deadline = parameters.timeoutMs.map { loop.nowNanoseconds + min($0, 1 << 40) * 1_000_000 }
        deliver(.wait(call: call, run: session.run, save: id, rank: session.rank, level: parameters.level, deadline: deadline))
    }

    /// A save that this process does not know (it was started since): the decision file does.
    private func lookDecision(_ run: RunKey, _ id: SaveID, _ context: CallContext) {
        askTier(engine.committing, { .look(id: $0, run: run, save: id, worldSize: 0) }) { reply, _ in
            switch reply {
            case .decision(_, .committed): context.reply(Checkpoint.Wait.Reply(level: .committed))
            case .decision(_, .void(let reason)): context.reply(Checkpoint.Wait.Reply(level: .failed, reason: reason))
            default: context.fail(.unknownSave(save: id.description))
            }
        }
    }

    private func watch(_ parameters: Checkpoint.Watch.Parameters, _ session: ClientSession, _ context: CallContext) {
        guard parameters.run == session.run.name else { return context.fail(.noSuchRun(run: parameters.run)) }
        let watcher = Watcher(context: context, run: session.run, uid: nil, rank: parameters.rank) { context, notice in
            context.push(Checkpoint.Watch.Reply(event: Checkpoint.Event(
                run: notice.run.name, save: notice.save.description, step: notice.save.step, rank: notice.rank, level: notice.level,
                bytes: notice.bytes, totalBytes: notice.totalBytes, monotonicNs: notice.at, reason: notice.reason)))
        }
        watchers[context.connection.id] = watcher
        for notice in engine.notices(run: session.run, rank: parameters.rank) { watcher.tell(notice) }
    }

    // MARK: leases

    /// Bytes of all leases together: a share of the pool.
    var leaseLimit: Int { max(DaemonLimits.leaseFloor, poolShape.slots * Sizes.chunkBytes / DaemonLimits.leaseShare) }

    private func lease(_ parameters: Checkpoint.Lease.Parameters, _ session: ClientSession, _ context: CallContext) {
        guard parameters.bytes > 0, parameters.bytes.isMultiple(of: 4096) else { return context.fail(.invalidParameter(parameter: "bytes")) }
        guard session.leases.count < DaemonLimits.leasesPerSession else {
            return context.fail(.tooLarge(bytes: session.leases.count + 1, limit: DaemonLimits.leasesPerSession))
        }
        guard parameters.bytes <= leaseLimit - leasedBytes else { return context.fail(.tooLarge(bytes: parameters.bytes, limit: leaseLimit - leasedBytes)) }
        let memory: SharedMemory
        do { memory = try SharedMemory.create(name: "cairn-lease-\(session.run.uid)", bytes: parameters.bytes) } catch {
            return context.fail(.failed(reason: "no memory for a lease: \(error)"))
        }
        let segment = nextSegment
        nextSegment += 1
        leasedBytes += parameters.bytes
        leasesAsked[segment] = { [unowned self, weak session] problem in
            guard problem == nil, let session, sessions[session.token] != nil else {
                leasedBytes -= parameters.bytes
                if problem == nil { stager.send(StagerRequest.release(segment: segment)) }
                return context.fail(.failed(reason: problem ?? "the session has ended"))
            }
            session.leases.append(LeaseSegment(segment: segment, bytes: parameters.bytes))
            context.reply(Checkpoint.Lease.Reply(segment: segment, bytes: parameters.bytes), descriptors: [memory.descriptor])
        }
        stager.send(StagerRequest.lease(segment: segment, bytes: parameters.bytes), descriptors: [memory.descriptor])
    }

    private func release(_ parameters: Checkpoint.Release.Parameters, _ session: ClientSession, _ context: CallContext) {
        guard let at = session.leases.firstIndex(where: { $0.segment == parameters.segment }) else {
            return context.fail(.invalidParameter(parameter: "segment"))
        }
        leasedBytes -= session.leases.remove(at: at).bytes
        stager.send(StagerRequest.release(segment: parameters.segment))
        context.reply(Nothing())
    }
}
