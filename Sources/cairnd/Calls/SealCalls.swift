// Seal: an ordinary save whose file is made of what a held save has in the pool, without what is dropped and with what is added.
// What was staged is checked by its CRCs before it is taken over (I7); the new file's own are computed as it is copied.
import CairnEngine
import CairnIO
import CairnMessages
import CairnModel
import CairnStore
import CairnWire

extension Daemon {
    func seal(_ parameters: Checkpoint.Seal.Parameters, _ session: ClientSession, _ context: CallContext) {
        guard let number = SaveID(parameters.save), let (heldHandle, slots) = engine.held(session: session.token, save: number),
              let kept = plans[heldHandle], let held = kept.held else { return context.fail(.unknownSave(save: parameters.save)) }
        if parameters.discard == true {
            deliver(.discard(handle: heldHandle))
            return context.reply(Checkpoint.Save.Reply(save: parameters.save, bytes: 0, dataStart: 0))
        }
        guard let step = parameters.step ?? held.step, Self.steps.contains(step) else { return context.fail(.invalidParameter(parameter: "step")) }
        let attemptTry = parameters.attemptTry ?? 1, upto = parameters.upto ?? kept.upto, metadata = parameters.metadata ?? kept.metadata
        guard (1...1_000_000).contains(attemptTry) else { return context.fail(.invalidParameter(parameter: "try")) }
        guard upto != .failed, upto != .accepted else { return context.fail(.invalidParameter(parameter: "upto")) }
        guard Self.isMetadata(metadata) else { return context.fail(.invalidParameter(parameter: "metadata")) }
        let id = SaveID(attempt: number.attempt, step: step, attemptTry: attemptTry), files = parameters.files ?? []
        if let problem = Self.problem(of: files) { return context.fail(problem) }
        let drop = Set(parameters.drop ?? []), entries = held.layout.entries.filter { !drop.contains($0.shard.name) }
        let known = Set(held.layout.entries.map(\.shard.name)).union(held.objects.map(\.name))
        if let strange = drop.first(where: { !known.contains($0) }) {
            return context.fail(.invalidShard(name: strange, reason: "it is to be dropped from save \(number), which does not hold it"))
        }
        let taken = zip(held.objects, kept.plan.objects).filter { !drop.contains($0.0.name) }
        let added = (parameters.objects ?? []) + files.map(Self.fileObject)
        let layout: Layout, plan: FilePlan
        do {
            // The order of what stays does not change, so each byte moves towards the file's begin or not at all.
            layout = try Layout.make(shards: entries.sorted { $0.index < $1.index }.map(\.shard), rank: session.rank, worldSize: session.worldSize)
        } catch { return context.fail(wireError(error)) }
        do {
            plan = try FileHeader.make(layout: layout, objects: taken.map(\.0) + added.map(\.model), run: session.run, save: id, rank: session.rank,
                                       worldSize: session.worldSize)
        } catch { return context.fail(wireError(error)) }
        if parameters.plan == true { return context.reply(Checkpoint.Save.Reply(save: id.description, bytes: plan.fileBytes, dataStart: plan.dataStart)) }

        var moved = HeldBytes(slots: slots)
        for (entry, old) in zip(layout.entries, entries) {
            precondition(entry.shard.name == old.shard.name && entry.bytes == old.bytes, "a held save's shards keep their order")
            moved.addShard(kept.plan.dataStart + old.dataOffset, entry.bytes, to: plan.dataStart + entry.dataOffset, dataStart: plan.dataStart)
        }
        for ((_, old), stored) in zip(taken, plan.objects) { moved.addObject(old.fileOffset, stored.object.bytes, to: stored.fileOffset) }
        var own: [StageExtent] = []
        for (object, stored) in zip(added, plan.objects.suffix(added.count)) {
            if object.source.streamed == true { return context.fail(.notSupported(feature: "streamed objects")) }
            if let problem = addExtents(object.source, bytes: object.bytes, at: stored.fileOffset, eager: true, to: &own) {
                return context.fail(.invalidShard(name: object.name, reason: problem))
            }
        }
        let charge = MemoryCharge(clientMemory, uid: session.run.uid), wanted = context.messageBytes + DaemonLimits.tableBytes(fileBytes: plan.fileBytes)
        guard charge.set(wanted) else { return context.fail(.tooLarge(bytes: wanted, limit: clientMemory.left(session.run.uid))) }
        let planned = PlannedSave(session: session.token, run: session.run, save: id, rank: session.rank, worldSize: session.worldSize,
                                  memberCount: held.participants?.count ?? session.worldSize, layoutDigest: layout.digest, plan: plan, metadata: metadata,
                                  parent: engine.attemptParent(session: session.token), upto: upto, savedAt: kept.savedAt, charge: charge,
                                  files: Self.stored(files, in: plan))
        checked(slots, kept) { [unowned self] problem in
            if let problem { return context.fail(.failed(reason: "save \(number) cannot be sealed: \(problem)")) }
            let handle = nextHandle, number = nextLayout
            nextHandle += 1
            nextLayout += 1
            plans[handle] = planned
            stager.send(StagerRequest.layout(session: session.token, layout: number), payload: StageExtent.pack(moved.shards))
            let staging = BeginStaging(handle: handle, session: session.token, layout: number, dataStart: plan.dataStart, fileBytes: plan.fileBytes,
                                       objects: moved.objects + own)
            deliver(.save(SaveRequest(
                call: saveCall(context, handle, dataStart: plan.dataStart), session: session.token, handle: handle, step: step, attemptTry: attemptTry, upto: upto,
                staging: staging, eagerChunks: eagerChunks(nil, own, plan), waitsForEager: !own.isEmpty, participants: held.participants,
                sealing: Sealing(handle: heldHandle, given: moved.given(newBytes: plan.fileBytes, heldChunks: slots.count)))))
            stager.send(StagerRequest.forgetLayout(session: session.token, layout: number))
        }
    }

    /// Whether the pool still holds what was staged: nil, or what is wrong.
    private func checked(_ slots: [Int], _ plan: PlannedSave, _ then: @escaping (String?) -> Void) {
        var checks: [UInt64] = []
        for (block, crc) in plan.crcs.enumerated() {
            let at = slots[block / Sizes.blocksPerChunk] * Sizes.chunkBytes + block % Sizes.blocksPerChunk * Sizes.blockBytes
            checks += [UInt64(at), UInt64(min(Sizes.blockBytes, plan.plan.fileBytes - block * Sizes.blockBytes)), UInt64(crc), 0]
        }
        deliver(.slotsHeld(slots))
        copyOut(.pool, checks: checks, copies: []) { [unowned self] result in
            deliver(.slotsReleased(slots))
            switch result {
            case .done: then(nil)
            case .failed(let offset, let text): then(text + (offset.map { " (slot \($0 / Sizes.chunkBytes))" } ?? ""))
            }
        }
    }
}

/// Where a sealed file's bytes lie in the pool, and which of the held file's chunks are done with when.
private struct HeldBytes {
    let slots: [Int]
    /// File offsets from the data's start, and from the file's.
    private(set) var shards: [StageExtent] = [], objects: [StageExtent] = []
    /// In both files' order.
    private var pieces: [(new: Int, old: Int, bytes: Int)] = []

    init(slots: [Int]) { self.slots = slots }

    mutating func addShard(_ old: Int, _ bytes: Int, to new: Int, dataStart: Int) {
        if bytes > 0 { pieces.append((new, old, bytes)) }
        shards += extents(old, bytes, new - dataStart)
    }
    mutating func addObject(_ old: Int, _ bytes: Int, to new: Int) {
        if bytes > 0 { pieces.append((new, old, bytes)) }
        objects += extents(old, bytes, new)
    }

    private func extents(_ old: Int, _ bytes: Int, _ fileOffset: Int) -> [StageExtent] {
        var list: [StageExtent] = [], done = 0
        while done < bytes {
            let at = old + done, within = at % Sizes.chunkBytes, count = min(bytes - done, Sizes.chunkBytes - within)
            let address = UInt64(slots[at / Sizes.chunkBytes] * Sizes.chunkBytes + within)
            list.append(StageExtent(fileOffset: fileOffset + done, address: address, bytes: count, eager: false, source: StageExtent.pool))
            done += count
        }
        return list
    }

    /// See `Sealing.given`.
    func given(newBytes: Int, heldChunks: Int) -> [Int] {
        var next = 0
        return (0..<Sizes.chunks(ofFile: newBytes)).map { chunk in
            let end = (chunk + 1) * Sizes.chunkBytes
            while next < pieces.count, pieces[next].new + pieces[next].bytes <= end { next += 1 }
            guard next < pieces.count else { return heldChunks }
            return (pieces[next].old + max(0, end - pieces[next].new)) / Sizes.chunkBytes
        }
    }
}
