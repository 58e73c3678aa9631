// dev.cairn.Checkpoint: what ranks call. Sessions here; the rest in SaveCalls, SealCalls, PutCalls, LeaseCalls, RestoreCalls, DescribeCalls, LoadCalls and
// BranchCalls.
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

    func checkpoint(_ request: Checkpoint.Request, _ context: CallContext) {
        switch request {
        case .open(let parameters): return open(parameters, context)
        case .attach(let parameters): return attach(parameters, context)
        default: break
        }
        guard let session = context.connection.session, session.isOpen else { return context.fail(.notOpen) }
        if session.isReader {
            switch request {
            case .close, .lease, .release, .steps, .describe, .load: break
            default: return context.fail(.notPermitted(reason: "this session was opened to read only: open one with an attempt"))
            }
        }
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
        case .seal(let parameters): seal(parameters, session, context)
        case .put(let parameters): put(parameters, session, context)
        case .promote(let parameters): promote(parameters, session, context)
        case .branch(let parameters): branch(parameters, session, context)
        }
    }

    // MARK: sessions

    func open(_ parameters: Checkpoint.Open.Parameters, _ context: CallContext) {
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
        let isReader = parameters.readOnly ?? false
        if isReader, parameters.attempt != nil || parameters.number != nil {
            return context.fail(.failed(reason: "a session that reads only is of no attempt: leave out attempt and number"))
        }
        guard parameters.attempt != nil || parameters.worldSize == 1 || isReader else {
            return context.fail(.failed(reason: "a world of \(parameters.worldSize) ranks needs one attempt token on all of them: set CAIRN_ATTEMPT to a value "
                + "that is new with each launch, or start with torchrun or srun, where the client finds one"))
        }
        if !isReader, engine.committing == .local, configuration.tiers.local?.shared != true, let local = parameters.localWorldSize, local < parameters.worldSize {
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
        // As an attempt's record bounds it.
        if let number = parameters.number, !(1...Int(Int32.max)).contains(number) { return context.fail(.invalidParameter(parameter: "number")) }
        // Open on a connection that has a session replaces it.
        if let former = context.connection.session {
            guard context.connection.isSessionSocket else { return context.fail(.failed(reason: "an attached connection cannot open a session")) }
            context.connection.isSessionSocket = false
            context.connection.session = nil
            endSession(former, reason: "the same connection opened a new session")
            guard context.isLive else { return }
        }
        let peer = context.connection.peer
        guard sessions.values.count(where: { $0.run.uid == peer.uid }) < DaemonLimits.share(engine.limits.sessions) else {
            return context.fail(.failed(reason: "uid \(peer.uid) has \(DaemonLimits.share(engine.limits.sessions)) sessions, as many as one user may have"))
        }
        let token = Entropy.hex(bytes: 16)
        let session = ClientSession(token: token, run: RunKey(uid: peer.uid, name: parameters.run), rank: parameters.rank,
                                    worldSize: parameters.worldSize, pid: peer.pid,
                                    launch: Digest.sha256Hex(Array((parameters.attempt ?? token).utf8)), isReader: isReader, connection: context.connection)
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
        if isReader { return opened(session, memory: false, [:], context) }
        let call = engineCall(context) { [unowned self, weak session] answer in
            switch answer {
            case .opened(_, let attempt, let needsDescriptor):
                guard let session else { return }
                opened(session, memory: needsDescriptor, ["restores": engine.endedRestores(session: token), "attempt": attempt], context)
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
                                  localWorldSize: parameters.localWorldSize, tokenHash: hash, pid: peer.pid, number: parameters.number)))
    }

    private func opened(_ session: ClientSession, memory: Bool, _ numbers: [String: Int], _ context: CallContext) {
        session.isOpen = true
        context.connection.trust()
        let limits = [
            "inFlightPerRank": configuration.limits.inFlightPerRank, "fenceMs": configuration.limits.fenceMs,
            "messageBytes": configuration.limits.messageBytes, "loadBytes": configuration.limits.loadBytes,
            "leaseBytes": leaseLimit, "leases": DaemonLimits.leasesPerSession, "layouts": DaemonLimits.layoutsPerSession,
            "boxes": DaemonLimits.boxesPerLoad,
        ]
        context.reply(Checkpoint.Open.Reply(session: session.token, node: node, memory: memory, limits: limits.merging(numbers) { $1 }))
    }

    func attach(_ parameters: Checkpoint.Attach.Parameters, _ context: CallContext) {
        guard parameters.memory == nil, parameters.source == nil, parameters.number == nil else {
            return context.fail(.notPermitted(reason: "a descriptor goes to the stager's socket '\(configuration.memorySocket)', not to this one"))
        }
        guard let session = sessions[parameters.session], session.isOpen, session.run.uid == context.uid else { return context.fail(.notOpen) }
        guard context.connection.session == nil else { return context.fail(.failed(reason: "this connection belongs to a session already")) }
        guard session.attached.count < DaemonLimits.attachedPerSession else {
            return context.fail(.tooLarge(bytes: session.attached.count, limit: DaemonLimits.attachedPerSession))
        }
        context.connection.session = session
        session.attached.append(context.connection)
        context.connection.trust()
        context.reply(Nothing())
    }
}
