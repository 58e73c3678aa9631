// Layouts and saves: what a rank registers, what it gives to a step, and how far that has come.
import CairnEngine
import CairnIO
import CairnMessages
import CairnModel
import CairnStore
import CairnWire

extension Daemon {
    func register(_ parameters: Checkpoint.Register.Parameters, _ session: ClientSession, _ context: CallContext) {
        let layout: Layout
        // Save's reply waits for no streamed shard, whatever it says: the rank can put nothing before it has that reply.
        let shards = parameters.shards.map { shard in
            var model = shard.model
            if shard.source.streamed == true { model.eager = false }
            return model
        }
        do { layout = try Layout.make(shards: shards, rank: session.rank, worldSize: session.worldSize) } catch {
            return context.fail(wireError(error))
        }
        var extents: [StageExtent] = [], streamed: [Int] = []
        var hasEager = false
        for (place, entry) in layout.entries.enumerated() {
            let source = parameters.shards[entry.index].source
            if source.streamed == true { streamed.append(place) }
            if let problem = addExtents(source, bytes: entry.bytes, at: entry.dataOffset, eager: entry.shard.eager, to: &extents) {
                return context.fail(.invalidShard(name: entry.shard.name, reason: problem))
            }
            if entry.shard.eager, entry.bytes > 0 { hasEager = true }
        }
        // A layout that is not needed any more makes room for this one.
        let charge = MemoryCharge(clientMemory, uid: session.run.uid)
        while !charge.set(context.messageBytes) {
            guard !session.layouts.isEmpty else {
                return context.fail(.tooLarge(bytes: context.messageBytes, limit: clientMemory.left(session.run.uid)))
            }
            forgetOldestLayout(session)
        }
        let number = nextLayout
        nextLayout += 1
        let name = "\(layout.digest.prefix(12))-\(number)"
        session.layouts.append((name, RegisteredLayout(number: number, layout: layout, hasEagerBytes: hasEager, streamed: streamed, charge: charge)))
        if session.layouts.count > DaemonLimits.layoutsPerSession { forgetOldestLayout(session) }
        stager.send(StagerRequest.layout(session: session.token, layout: number), payload: StageExtent.pack(extents))
        context.reply(Checkpoint.Register.Reply(layout: name, bytes: layout.dataBytes))
    }

    private func forgetOldestLayout(_ session: ClientSession) {
        stager.send(StagerRequest.forgetLayout(session: session.token, layout: session.layouts.removeFirst().layout.number))
    }

    /// What is wrong with these extents, or nil.
    func addExtents(_ source: Checkpoint.Source, bytes: Int, at offset: Int, eager: Bool, to extents: inout [StageExtent]) -> String? {
        if source.streamed == true {
            guard source.memory == nil, source.descriptor == nil, source.offset == nil else { return "its source is streamed and something else" }
            if bytes > 0 { extents.append(StageExtent(fileOffset: offset, address: 0, bytes: bytes, eager: false, source: StageExtent.streamed)) }
            return nil
        }
        if let number = source.descriptor {
            let begin = source.offset ?? 0
            guard source.memory == nil else { return "its source is both memory and a descriptor" }
            // Whether it is attached, and long enough, is the stager's to know.
            guard (0..<StageExtent.sources).contains(number) else { return "descriptor \(number) is not in 0..<\(StageExtent.sources)" }
            guard begin >= 0, begin <= Int.max - bytes else { return "offset \(begin) with \(bytes) bytes is in no descriptor" }
            if bytes > 0 { extents.append(StageExtent(fileOffset: offset, address: UInt64(begin), bytes: bytes, eager: eager, source: number)) }
            return nil
        }
        guard source.offset == nil else { return "its source has an offset, but no descriptor" }
        guard let memory = source.memory else { return bytes == 0 ? nil : "its source has no memory extents" }
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

    func save(_ parameters: Checkpoint.Save.Parameters, _ session: ClientSession, _ context: CallContext) {
        let isHeld = parameters.hold == true
        guard let step = parameters.step ?? (isHeld ? 0 : nil), Self.steps.contains(step) else { return context.fail(.invalidParameter(parameter: "step")) }
        guard (1...1_000_000).contains(parameters.attemptTry) else { return context.fail(.invalidParameter(parameter: "try")) }
        let upto = parameters.upto ?? .committed
        guard upto != .failed, upto != .accepted else { return context.fail(.invalidParameter(parameter: "upto")) }
        var participants = parameters.participants
        if let ranks = participants {
            guard Self.areParticipants(ranks, rank: session.rank, worldSize: session.worldSize) else { return context.fail(.invalidParameter(parameter: "participants")) }
            // All of them said in full is the same save as all of them unsaid.
            if ranks.count == session.worldSize { participants = nil }
        }
        guard let registered = session.layout(parameters.layout) else { return context.fail(.unknownLayout(layout: parameters.layout)) }
        let metadata = parameters.metadata ?? [:]
        guard Self.isMetadata(metadata) else { return context.fail(.invalidParameter(parameter: "metadata")) }
        guard let attempt = engine.attemptNumber(session: session.token) else { return context.fail(.notOpen) }
        let id = isHeld ? SaveID(attempt: attempt, step: parameters.attemptTry, attemptTry: 0) : SaveID(attempt: attempt, step: step, attemptTry: parameters.attemptTry)
        let isCopies = parameters.copies == true, files = parameters.files ?? []
        guard !isCopies || parameters.objects?.isEmpty ?? true else { return context.fail(.invalidParameter(parameter: "objects")) }
        guard !isCopies || !isHeld else { return context.fail(.invalidParameter(parameter: "hold")) }
        guard !isCopies || registered.streamed.isEmpty else { return context.fail(.notSupported(feature: "copies of replicas from streamed sources")) }
        guard files.isEmpty || (!isCopies && !isHeld) else { return context.fail(.invalidParameter(parameter: "files")) }
        if let problem = Self.problem(of: files) { return context.fail(problem) }
        let objects = (parameters.objects ?? []) + files.map(Self.fileObject)
        let plan: FilePlan
        do {
            plan = try FileHeader.make(layout: registered.layout, objects: objects.map(\.model), run: session.run, save: id,
                                       rank: session.rank, worldSize: session.worldSize)
        } catch {
            return context.fail(wireError(error))
        }
        if parameters.plan == true { return context.reply(Checkpoint.Save.Reply(save: id.description, bytes: plan.fileBytes, dataStart: plan.dataStart)) }
        var extents: [StageExtent] = []
        for (object, stored) in zip(objects, plan.objects) {
            if object.source.streamed == true { return context.fail(.notSupported(feature: "streamed objects")) }
            if let problem = addExtents(object.source, bytes: object.bytes, at: stored.fileOffset, eager: object.eager ?? true, to: &extents) {
                return context.fail(.invalidShard(name: object.name, reason: problem))
            }
        }
        let charge = MemoryCharge(clientMemory, uid: session.run.uid), wanted = context.messageBytes + DaemonLimits.tableBytes(fileBytes: plan.fileBytes)
        guard charge.set(wanted) else { return context.fail(.tooLarge(bytes: wanted, limit: clientMemory.left(session.run.uid))) }
        let stream = StreamCursor(registered.streamed.map { registered.layout.entries[$0] }, dataStart: plan.dataStart)
        let handle = nextHandle
        nextHandle += 1
        plans[handle] = PlannedSave(session: session.token, run: session.run, save: id,
                                    rank: isCopies ? Copies.number(of: session.rank) : session.rank, worldSize: session.worldSize,
                                    memberCount: participants?.count ?? session.worldSize, layoutDigest: registered.layout.digest, plan: plan, metadata: metadata,
                                    parent: engine.attemptParent(session: session.token), upto: upto,
                                    savedAt: Clock.iso8601(Clock.utcSeconds()), charge: charge, files: Self.stored(files, in: plan),
                                    held: isHeld ? PlannedSave.Held(layout: registered.layout, objects: objects.map(\.model), step: parameters.step, participants: participants) : nil,
                                    stream: stream)
        let call = saveCall(context, handle, dataStart: plan.dataStart)
        let waits = registered.hasEagerBytes || extents.contains { $0.eager } || parameters.verify == true
        let staging = BeginStaging(handle: handle, session: session.token, layout: registered.number, dataStart: plan.dataStart,
                                   fileBytes: plan.fileBytes, objects: extents, verify: parameters.verify == true)
        keeping.planned = plans[handle].map { (handle, $0) }
        defer { keeping.planned = nil }
        deliver(.save(SaveRequest(call: call, session: session.token, handle: handle, step: step, attemptTry: parameters.attemptTry, upto: upto,
                                  staging: staging,
                                  // A header alone is not urgent: beside bytes that have yet to be put it would hold a slot for nothing.
                                  eagerChunks: waits || stream == nil ? eagerChunks(registered.layout, extents, plan) : [], waitsForEager: waits, participants: participants, isCopies: isCopies, isHeld: isHeld,
                                  streamedFrom: stream?.fileOffset)))
    }

    /// A step is part of names, in which a number has 18 digits at most.
    static let steps = 0..<1_000_000_000_000_000_000

    /// The engine's answer to a Save or a Seal, as its reply.
    func saveCall(_ context: CallContext, _ handle: Int, dataStart: Int) -> CallID {
        let began = loop.nowNanoseconds
        return engineCall(context) { [unowned self] answer in
            switch answer {
            case .saved(let save, let bytes):
                if let plan = plans[handle], !Copies.isCopies(plan.rank) {
                    keeping.stages.add(keeping.times.called(RankSaveKey(run: plan.run, save: save, rank: plan.rank), nanoseconds: loop.nowNanoseconds - began))
                }
                context.reply(Checkpoint.Save.Reply(save: save.description, bytes: bytes, dataStart: dataStart))
            case .failed(let error):
                // Refused before anything was staged: the engine knows nothing of this plan.
                if !engine.knows(handle: handle) { plans[handle] = nil }
                context.fail(wireError(error))
            default: preconditionFailure("a Save was answered with \(answer)")
            }
        }
    }

    static func isMetadata(_ metadata: [String: String]) -> Bool {
        metadata.count <= DaemonLimits.metadataEntries && metadata.allSatisfy { $0.key.utf8.count + $0.value.utf8.count <= DaemonLimits.metadataEntryBytes }
    }

    // MARK: files beside the rank's own

    static func problem(of files: [Checkpoint.Object]) -> WireError? {
        guard files.count <= StoreLimits.files else { return .tooLarge(bytes: files.count, limit: StoreLimits.files) }
        for file in files {
            guard Names.isFile(file.name), file.key == nil else {
                return .invalidShard(name: file.name, reason: "a file's name has letters, digits and ._- (at most \(StoreLimits.fileNameBytes)), none that Cairn gives itself, and no key")
            }
            guard (0...StoreLimits.besideFileBytes).contains(file.bytes) else { return .tooLarge(bytes: file.bytes, limit: StoreLimits.besideFileBytes) }
        }
        return nil
    }

    /// The rank's own object that holds a file's bytes.
    static func fileObject(_ file: Checkpoint.Object) -> Checkpoint.Object {
        var object = file
        object.name = Names.fileObject(file.name)
        object.scope = .rank
        return object
    }

    /// `files` are the plan's last objects.
    static func stored(_ files: [Checkpoint.Object], in plan: FilePlan) -> [Manifest.File]? {
        files.isEmpty ? nil : zip(files, plan.objects.suffix(files.count)).map { Manifest.File(name: $0.name, offset: $1.fileOffset, bytes: $0.bytes) }
    }

    /// Ascending ranks of the world, rank 0, whose count orders the save, and the caller among them.
    static func areParticipants(_ ranks: [Int], rank: Int, worldSize: Int) -> Bool {
        ranks.first == 0 && ranks.contains(rank) && (ranks.last ?? 0) < worldSize && zip(ranks, ranks.dropFirst()).allSatisfy { $0 < $1 }
    }

    func promote(_ parameters: Checkpoint.Promote.Parameters, _ session: ClientSession, _ context: CallContext) {
        guard parameters.step >= 0 else { return context.fail(.invalidParameter(parameter: "step")) }
        guard [.local, .global, .committed].contains(parameters.level) else { return context.fail(.invalidParameter(parameter: "level")) }
        let call = engineCall(context) { [unowned self] answer in
            switch answer {
            case .promoted: context.reply(Nothing())
            case .failed(let error): context.fail(wireError(error))
            default: preconditionFailure("a Promote was answered with \(answer)")
            }
        }
        deliver(.promote(call: call, session: session.token, step: parameters.step, level: parameters.level))
    }

    /// Chunks with eager bytes, ascending: the header's, and those of eager shards and objects. `layout` nil: no shard is.
    func eagerChunks(_ layout: Layout?, _ objects: [StageExtent], _ plan: FilePlan) -> [Int] {
        var chunks: [Int] = []
        func add(_ from: Int, _ bytes: Int) {
            guard bytes > 0 else { return }
            let first = from / Sizes.chunkBytes, last = (from + bytes - 1) / Sizes.chunkBytes
            for chunk in max(first, (chunks.last ?? -1) + 1)..<max(last + 1, max(first, (chunks.last ?? -1) + 1)) { chunks.append(chunk) }
        }
        add(0, plan.dataStart)
        for entry in layout?.entries ?? [] where entry.shard.eager { add(plan.dataStart + entry.dataOffset, entry.bytes) }
        for object in objects where object.eager { add(object.fileOffset, object.bytes) }
        return chunks
    }

    func wait(_ parameters: Checkpoint.Wait.Parameters, _ session: ClientSession, _ context: CallContext) {
        guard let id = SaveID(parameters.save) else { return context.fail(.unknownSave(save: parameters.save)) }
        if let timeout = parameters.timeoutMs, timeout < 0 { return context.fail(.invalidParameter(parameter: "timeoutMs")) }
        let call = engineCall(context) { [unowned self] answer in
            switch answer {
            case .waited(let level, let reason):
                context.reply(Checkpoint.Wait.Reply(level: level, reason: reason))
            case .failed(.unknownSave): lookDecision(session.run, id, context)
            case .failed(let error): context.fail(wireError(error))
            default: preconditionFailure("a Wait was answered with \(answer)")
            }
        }
        let deadline = parameters.timeoutMs.map { loop.nowNanoseconds + min($0, 1 << 40) * 1_000_000 }
        if parameters.level == .staged { keeping.times.fenceBegan(RankSaveKey(run: session.run, save: id, rank: session.rank), at: loop.nowNanoseconds) }
        deliver(.wait(call: call, run: session.run, save: id, rank: session.rank, level: parameters.level, deadline: deadline))
    }

    /// A save that this process does not know (it was started since): the decision file does.
    func lookDecision(_ run: RunKey, _ id: SaveID, _ context: CallContext) {
        askTier(engine.committing, { .look(id: $0, run: run, save: id, worldSize: 0, participants: nil, lists: false) }) { reply, _ in
            switch reply {
            case .decision(_, .committed): context.reply(Checkpoint.Wait.Reply(level: .committed))
            case .decision(_, .void(let reason)): context.reply(Checkpoint.Wait.Reply(level: .failed, reason: reason))
            default: context.fail(.unknownSave(save: id.description))
            }
        }
    }

    func watch(_ parameters: Checkpoint.Watch.Parameters, _ session: ClientSession, _ context: CallContext) {
        guard parameters.run == session.run.name else { return context.fail(.noSuchRun(run: parameters.run)) }
        let watcher = Watcher(context: context, run: session.run, uid: nil, rank: parameters.rank) { context, notice in
            context.push(Checkpoint.Watch.Reply(event: Checkpoint.Event(
                run: notice.run.name, save: notice.save.description, step: notice.save.step, rank: notice.rank, level: notice.level,
                bytes: notice.bytes, totalBytes: notice.totalBytes, monotonicNs: notice.at, reason: notice.reason)))
        }
        watchers[context.connection.id] = watcher
        for notice in engine.notices(run: session.run, rank: parameters.rank) { watcher.tell(notice) }
    }
}
