// Held saves: staged before it is known which step they are, or what of them is to be stored.
//   Save(hold)   the rank's bytes go into slots of the pool, under an id of their own (try 0): no tier, no other rank and no restore sees it
//   Seal         an ordinary save, made of those slots: its file, with a header of its own, is staged anew from the pool, without what was dropped
// (1) Nothing of a held save is on a tier, and it ends with its session: what is told staged of it only means that its rank may change its memory.
// (2) Once a Seal is accepted and the objects that it brought are staged, the save needs nothing of its rank any more.
// (3) A slot of the held file is free when every chunk of the new one that takes bytes from it is staged (I5), so that a seal needs little more room
//     than the hold did.
import CairnMessages
import CairnModel

/// What a sealed save is made of.
public struct Sealing: Sendable {
    /// The held save's.
    public let handle: Int
    /// Chunks at the held file's begin that nobody needs once the first n + 1 chunks of the new file are staged.
    public let given: [Int]
    /// Chunks of the new file that are staged: all below `prefix`, and these.
    var prefix = 0, ahead: Set<Int> = []
    public init(handle: Int, given: [Int]) { self.handle = handle; self.given = given }
}

extension Engine {
    func hold(_ request: SaveRequest, _ session: Session, _ number: Int) {
        let key = RankSaveKey(run: session.run, save: SaveID(attempt: number, step: request.attemptTry, attemptTry: 0), rank: session.rank)
        if let known = heldSave(key) { return repeated(request, known) }
        let own = rankSaves.values.filter { $0.session == request.session && $0.failure == nil && !$0.isCopies }
        guard own.count(where: { $0.isHeld && $0.sealedBy == nil }) < limits.heldPerRank, own.count(where: { !$0.isStaged }) < limits.inFlightPerRank else {
            return reply(request.call, .failed(.busy(step: request.attemptTry)))
        }
        // Only a Seal, or its session's end, frees them.
        let room = limits.slots - limits.heldReserve - heldChunks
        guard Sizes.chunks(ofFile: request.staging.fileBytes) <= room else {
            return reply(request.call, .failed(.tooLarge(bytes: request.staging.fileBytes, limit: max(0, room) * Sizes.chunkBytes)))
        }
        let rankSave = RankSave(handle: request.handle, key: key, fileBytes: request.staging.fileBytes, upto: .staged, count: nil, session: request.session,
                                now: now, order: stagingOrder(request), waitsForEager: request.waitsForEager, recovered: false)
        rankSave.isHeld = true
        rankSaves[rankSave.handle] = rankSave
        begin(rankSave, request)
    }

    var heldChunks: Int { rankSaves.values.reduce(0) { $0 + ($1.isHeld ? $1.slots.count - $1.givenBack : 0) } }

    func heldSave(_ key: RankSaveKey) -> RankSave? { rankSaves.values.first { $0.isHeld && $0.failure == nil && $0.key == key } }

    /// This session's held save of that id, if it can be sealed: where its chunks lie, in order.
    public func held(session token: SessionToken, save: SaveID) -> (handle: Int, slots: [Int])? {
        guard let session = sessions[token], let held = heldSave(RankSaveKey(run: session.run, save: save, rank: session.rank)), held.session == token,
              held.isStaged, held.sealedBy == nil else { return nil }
        return (held.handle, held.slots.compactMap { $0 })
    }

    /// Why a held save cannot become the save that is asked for.
    func refusal(ofSeal request: SaveRequest, _ id: SaveID, _ session: Session) -> EngineError? {
        guard let sealing = request.sealing else { return nil }
        guard let held = rankSaves[sealing.handle], held.isHeld, held.failure == nil, held.session == request.session, held.isStaged, held.sealedBy == nil else {
            return .unknownSave("held \(sealing.handle)")
        }
        if saves[SaveKey(run: session.run, save: id)]?.came.contains(session.rank) == true {
            return .invalid(name: "try", reason: "save \(id) was made already; seal with the next try")
        }
        // With its eager chunks staged and one more, the others follow one by one.
        let room = limits.slots - heldChunks
        return request.eagerChunks.count < room ? nil : .tooLarge(bytes: request.eagerChunks.count * Sizes.chunkBytes, limit: (room - 1) * Sizes.chunkBytes)
    }

    func seal(_ rankSave: RankSave, _ sealing: Sealing?) {
        guard let sealing else { return }
        rankSave.sealing = sealing
        rankSaves[sealing.handle]?.sealedBy = rankSave.handle
    }

    /// A chunk of the new file is staged: what it took over is given back.
    func tookOver(_ rankSave: RankSave, _ chunk: Int) {
        guard rankSave.sealing != nil else { return }
        rankSave.sealing?.ahead.insert(chunk)
        while let prefix = rankSave.sealing?.prefix, rankSave.sealing?.ahead.remove(prefix) != nil { rankSave.sealing?.prefix += 1 }
        guard let sealing = rankSave.sealing, let held = rankSaves[sealing.handle] else { return }
        if sealing.prefix > 0 { giveBack(held, upTo: min(sealing.given[sealing.prefix - 1], held.chunkCount), isResting: false) }
        if rankSave.isStaged { endHeld(of: rankSave, isResting: false) }
    }

    private func giveBack(_ held: RankSave, upTo count: Int, isResting: Bool) {
        for chunk in held.givenBack..<max(count, held.givenBack) {
            guard let slot = held.slots[chunk] else { continue }
            held.slots[chunk] = nil
            if isResting || pool.slots[slot].holds > 0 { pool.quarantine(slot, until: now + ms(limits.quarantineMs)) } else { pool.release(slot) }
        }
        held.givenBack = max(count, held.givenBack)
    }

    /// The new file is staged, or will never be. `isResting`: a copy that cannot be stopped may still read the old one.
    func endHeld(of rankSave: RankSave, isResting: Bool) {
        guard let sealing = rankSave.sealing else { return }
        rankSave.sealing = nil
        rankSave.isMadeInPool = true
        guard let held = rankSaves[sealing.handle] else { return }
        giveBack(held, upTo: held.chunkCount, isResting: isResting)
        forget(held)
    }

    func discardHeld(_ handle: Int) {
        guard let held = rankSaves[handle], held.isHeld, held.sealedBy == nil else { return }
        failRankSave(held, "its rank has given it up")
    }

    func tickHeld() {
        for handle in rankSaves.keys.sorted() {
            guard let rankSave = rankSaves[handle], rankSave.isHeld, rankSave.failure == nil, rankSave.isStaged, rankSave.sealedBy == nil,
                  now - rankSave.acceptedAt > ms(limits.commitTimeoutMs) else { continue }
            failRankSave(rankSave, "it was held for \(limits.commitTimeoutMs / 60_000) min and not sealed")
        }
    }
}
