// From `save()` to staged: admission, chunks into slots, the fence's bound, failure of one rank's part.
import CairnMessages
import CairnModel

extension Engine {
    func save(_ request: SaveRequest) {
        guard !draining else { return reply(request.call, .failed(.draining)) }
        guard let session = sessions[request.session], let attempt = attempt(of: session), let number = attempt.number else {
            return reply(request.call, .failed(.notOpen))
        }
        let run = run(session.run)
        guard number >= run.newest else { return reply(request.call, .failed(.attemptEnded(by: run.newest))) }
        guard stagerUp else {
            return reply(request.call, .failed(.tierDown(tier: Tier.memory.rawValue, reason: "the stager is being started again; save again")))
        }
        if request.isHeld { return hold(request, session, number) }
        let id = SaveID(attempt: number, step: request.step, attemptTry: request.attemptTry)
        if let refusal = refusal(ofSeal: request, id, session) { return reply(request.call, .failed(refusal)) }
        let key = SaveKey(run: session.run, save: id)
        if let handle = (request.isCopies ? saves[key]?.copies : saves[key]?.ranks)?[session.rank], let known = rankSaves[handle] {
            return repeated(request, known)
        }
        if let known = saves[key], known.participants != request.participants {
            let reason = "rank \(session.rank) names other participants than the ranks before it"
            void(known, reason)
            return reply(request.call, .failed(.invalid(name: "participants", reason: "save \(id): \(reason)")))
        }
        // Others may have promoted it already.
        let upto = max(request.upto, saves[key]?.upto ?? request.upto)
        if let reason = saves[key]?.lostReason {
            return reply(request.call, .failed(.invalid(name: "save", reason: "save \(id) has failed already: \(reason)")))
        }
        if !request.isCopies, run.ended.contains(id), let known = saves[key], known.came.contains(session.rank) { return repeatedAfterEnd(request, known, session.rank) }
        // A save that no file decides ends with the ranks that came; another rank of this daemon may still join it.
        if run.ended.contains(id), finalLevel(upto) == .committed || saves[key] == nil {
            return reply(request.call, .failed(.invalid(name: "try", reason: "save \(id) has ended; save this step with the next try")))
        }
        if request.isCopies { return saveCopies(request, session, id, attempt) }
        let unstaged = rankSaves.values.count { $0.session == request.session && !$0.isStaged && $0.failure == nil && !$0.isCopies }
        guard unstaged < limits.inFlightPerRank, saves[key] != nil || hasRoom(run, number) else {
            return reply(request.call, .failed(.busy(step: request.step)))
        }
        let fileBytes = request.staging.fileBytes
        if targets(upto).isEmpty, Sizes.chunks(ofFile: fileBytes) > limits.slots {
            return reply(request.call, .failed(.tooLarge(bytes: fileBytes, limit: limits.slots * Sizes.chunkBytes)))
        }
        voidMissed(by: session, before: id)
        askForNewest(run)

        if session.rank == 0 { attempt.count += 1 }
        let order = stagingOrder(request)
        let rankSave = RankSave(handle: request.handle, key: RankSaveKey(run: session.run, save: id, rank: session.rank), fileBytes: fileBytes,
                                upto: upto, asked: request.upto, count: session.rank == 0 ? attempt.count : nil, session: request.session, now: now,
                                order: order, waitsForEager: request.waitsForEager, recovered: false)
        // A try at an earlier step says nothing about what lies between.
        rankSave.previous = attempt.previous[session.rank].flatMap { $0 < id ? $0 : nil }
        attempt.previous[session.rank] = max(id, attempt.previous[session.rank] ?? id)
        admit(rankSave, worldSize: attempt.worldSize, participants: request.participants, parent: attempt.parent)
        seal(rankSave, request.sealing)
        dropQueued(run, attempt: number)
        begin(rankSave, request)
    }

    func stagingOrder(_ request: SaveRequest) -> [Int] {
        let eager = Set(request.eagerChunks)
        return request.eagerChunks + (0..<Sizes.chunks(ofFile: request.staging.fileBytes)).filter { !eager.contains($0) }
    }

    func begin(_ rankSave: RankSave, _ request: SaveRequest) {
        // The reply first: a rank that waits for no copy need not wait while a long header goes to the stager either.
        if request.waitsForEager {
            rankSave.replyCall = request.call
        } else {
            reply(request.call, .saved(rankSave.key.save, bytes: rankSave.fileBytes))
        }
        rankSave.stagerKnows = true
        rankSave.streamed = request.streamedFrom
        rankSave.streamedFrom = request.streamedFrom
        rankSave.later = rankSave.unassigned.count - request.eagerChunks.count
        actions.append(.stager(.begin(request.staging)))
        stagingTurn.append(rankSave.handle)
        tell(rankSave, .accepted)
    }

    // MARK: copies of replicas

    /// A second file of the same rank and save. Where it fails, the save goes on without: the global tier has what it holds.
    func saveCopies(_ request: SaveRequest, _ session: Session, _ id: SaveID, _ attempt: Attempt) {
        let key = SaveKey(run: session.run, save: id)
        guard saves[key]?.ranks[session.rank] == nil else {
            return reply(request.call, .failed(.invalid(name: "copies", reason: "a rank saves its copies before its own part")))
        }
        let waiting = rankSaves.values.count { $0.session == request.session && !$0.isStaged && $0.failure == nil && $0.isCopies }
        guard waiting < limits.inFlightPerRank, saves[key] != nil || hasRoom(run(session.run), id.attempt) else { return reply(request.call, .failed(.busy(step: request.step))) }
        let wanted = max(request.upto, saves[key]?.upto ?? request.upto), upto: Level = beside != nil && wanted > .staged ? .local : .staged
        let fileBytes = request.staging.fileBytes
        if targets(upto).isEmpty, Sizes.chunks(ofFile: fileBytes) > limits.slots {
            return reply(request.call, .failed(.tooLarge(bytes: fileBytes, limit: limits.slots * Sizes.chunkBytes)))
        }
        let rankSave = RankSave(handle: request.handle, key: RankSaveKey(run: session.run, save: id, rank: Copies.number(of: session.rank)), fileBytes: fileBytes,
                                upto: upto, count: nil, session: request.session, now: now, order: stagingOrder(request),
                                waitsForEager: request.waitsForEager, recovered: false)
        admit(rankSave, worldSize: attempt.worldSize, participants: request.participants, parent: attempt.parent, upto: wanted)
        begin(rankSave, request)
    }

    func partOfCopies(_ rankSave: RankSave) -> RankSave? { saves[rankSave.saveKey]?.copies[rankSave.key.rank].flatMap { rankSaves[$0] } }

    /// The fence covers both of a rank's files.
    func waitsForCopies(_ rankSave: RankSave) -> Bool {
        guard let copies = partOfCopies(rankSave) else { return false }
        return !copies.isStaged && copies.failure == nil
    }

    /// A rank's copies are staged, or never will be: its own part was perhaps only waiting for them.
    func copiesDone(_ copies: RankSave) {
        guard let handle = saves[copies.saveKey]?.ranks[Copies.rank(copies.key.rank)], let own = rankSaves[handle],
              own.failure == nil, own.isStaged, own.level < .staged else { return }
        tell(own, .staged)
        if finalLevel(own.upto) == .staged { endRankSaveIfDone(own) }
    }

    /// What older attempts left ends soon after a new one has begun: it keeps nobody from saving, up to a bound of its own.
    func hasRoom(_ run: Run, _ number: Int) -> Bool {
        endOldestVoid(run)
        let waiting = run.unfinished.count { $0.attempt == number && saves[SaveKey(run: run.key, save: $0)]?.voidReason == nil }
        return waiting < limits.unfinishedPerRun && run.unfinished.count < 4 * limits.unfinishedPerRun
    }

    /// The same save once more, after a reconnect or a lost reply: nothing is staged twice.
    func repeated(_ request: SaveRequest, _ known: RankSave) {
        actions.append(.forget(handle: request.handle))
        if let failure = known.failure { return reply(request.call, .failed(.invalid(name: "save", reason: failure))) }
        if known.waitsForEager { known.replyCall = request.call } else { reply(request.call, .saved(known.key.save, bytes: known.fileBytes)) }
        // What was told while the rank was away may be the last that there is to tell.
        if !known.isCopies, known.level > .accepted { tell(known, known.level) }
    }

    /// The same after the save's end, when its part here is forgotten.
    func repeatedAfterEnd(_ request: SaveRequest, _ known: Save, _ rank: Int) {
        actions.append(.forget(handle: request.handle))
        let bytes = request.staging.fileBytes
        reply(request.call, .saved(known.key.save, bytes: bytes))
        let level: Level = known.decision == nil ? finalLevel(known.upto) : .committed
        actions.append(.tell(Notice(run: known.key.run, save: known.key.save, rank: rank, level: level, bytes: bytes, totalBytes: bytes, at: now, reason: nil, reached: true)))
    }

    func admit(_ rankSave: RankSave, worldSize: Int, participants: [Int]?, parent: CommitSequence? = nil, upto: Level? = nil) {
        let key = rankSave.saveKey
        rankSaves[rankSave.handle] = rankSave
        let save: Save
        if let known = saves[key] {
            save = known
        } else {
            save = Save(key: key, worldSize: worldSize, participants: participants, upto: upto ?? rankSave.upto, now: now, pollInterval: limits.pollFirstMs)
            saves[key] = save
        }
        if rankSave.isCopies { save.copies[Copies.rank(rankSave.key.rank)] = rankSave.handle } else { save.ranks[rankSave.key.rank] = rankSave.handle }
        save.came.insert(rankSave.key.rank)
        save.parent = save.parent ?? parent
        let run = run(key.run)
        run.ended.removeAll { $0 == key.save }
        run.unfinished.insert(key.save)
        if let beside, tierStates[beside]?.scanned == false { run.acceptedBeforeScan.insert(rankSave.key) }
        if !targets(rankSave.upto).isEmpty { flushOrder.append(rankSave.handle) }
    }

    /// A rank that goes on to a later step without an earlier save will never deliver it.
    func voidMissed(by session: Session, before id: SaveID) {
        for save in saves.values.sorted(by: { $0.key < $1.key })
        where save.key.run == session.run && save.key.save.attempt == id.attempt && save.key.save.step < id.step
            && save.decision == nil && save.isMember(session.rank) && !save.came.contains(session.rank) && run(session.run).unfinished.contains(save.key.save) {
            void(save, "rank \(session.rank) saved step \(id.step) without saving step \(save.key.save.step)")
        }
    }

    // MARK: chunks

    func assignChunks() {
        guard stagerUp, !stagingTurn.isEmpty else { return }
        var assigned: [ChunkAssignment] = []
        var idle = 0, streaming = streamingSlots
        // One chunk a turn, so that ranks are served alike.
        while idle < stagingTurn.count, !stagingTurn.isEmpty {
            let handle = stagingTurn.removeFirst()
            guard let rankSave = rankSaves[handle], rankSave.failure == nil, !rankSave.unassigned.isEmpty else { idle = 0; continue }
            stagingTurn.append(handle)
            let uid = rankSave.key.run.uid
            guard rankSave.outstanding < limits.assignedPerRank, !rankSave.awaitsPut, rankSave.streamedFrom == nil || mayHold(streaming, uid) else {
                idle += 1
                continue
            }
            guard let chunk = rankSave.unassigned.last, let slot = takeSlot(handle: handle, chunk: chunk) else { waitForPool(); break }
            rankSave.poolWaitNs = rankSave.poolWait(at: now)
            rankSave.poolWaitSince = nil
            rankSave.unassigned.removeLast()
            rankSave.slots[chunk] = slot
            rankSave.outstanding += 1
            if rankSave.streamedFrom != nil { streaming[uid, default: 0] += 1 }
            pool.hold(slot)
            assigned.append(ChunkAssignment(handle: handle, chunk: chunk, slot: slot))
            idle = 0
        }
        if !assigned.isEmpty { actions.append(.stager(.stage(assigned))) }
    }

    /// Slots of each user that wait for bytes which their ranks have yet to put.
    private var streamingSlots: [UInt32: Int] {
        rankSaves.values.reduce(into: [:]) { if $1.streamedFrom != nil { $0[$1.key.run.uid, default: 0] += $1.outstanding } }
    }

    /// One more: a rank may never put them, and others must be served meanwhile.
    private func mayHold(_ streaming: [UInt32: Int], _ uid: UInt32) -> Bool {
        streaming[uid, default: 0] < limits.slots - limits.slots / 4 && streaming.values.reduce(0, +) + heldChunks < limits.slots - limits.streamedReserve
    }

    /// No slot is free: all whose turn would have come wait.
    private func waitForPool() {
        for handle in stagingTurn {
            guard let rankSave = rankSaves[handle], rankSave.failure == nil, !rankSave.unassigned.isEmpty else { continue }
            rankSave.poolWaitSince = rankSave.poolWaitSince ?? now
        }
    }

    func chunkStaged(_ staged: ChunkStaged) {
        guard let rankSave = rankSaves[staged.handle], rankSave.failure == nil, !rankSave.cancelling, rankSave.slots[staged.chunk] == staged.slot else { return }
        pool.unhold(staged.slot)
        pool.seal(staged.slot)
        rankSave.outstanding -= 1
        rankSave.stagedChunks += 1
        rankSave.stagedBytes += rankSave.bytes(ofChunk: staged.chunk)
        rankSave.progressAt = now
        precondition(rankSave.stagedChunks <= rankSave.chunkCount, "\(rankSave.key): more chunks were staged than there are")
        tookOver(rankSave, staged.chunk)
        guard rankSave.isStaged else { return }
        eagerStaged(rankSave.handle)
        rankSave.stagerKnows = false
        actions.append(.stager(.finish(handle: rankSave.handle)))
        keep(rankSave)
        if rankSave.isCopies { copiesDone(rankSave) }
        guard !waitsForCopies(rankSave) else { return }
        tell(rankSave, .staged)
        if finalLevel(rankSave.upto) == .staged { endRankSaveIfDone(rankSave) }
    }

    func eagerStaged(_ handle: Int) {
        guard let rankSave = rankSaves[handle], rankSave.failure == nil, rankSave.waitsForEager else { return }
        rankSave.waitsForEager = false
        reply(rankSave.replyCall, .saved(rankSave.key.save, bytes: rankSave.fileBytes))
        rankSave.replyCall = nil
    }

    func stageFailed(_ handle: Int, kind: StageFailureKind, text: String) {
        guard let rankSave = rankSaves[handle], rankSave.failure == nil else { return }
        failRankSave(rankSave, text)
    }

    func sessionHungUp(_ token: SessionToken) {
        for handle in rankSaves.keys.sorted() {
            guard let rankSave = rankSaves[handle], rankSave.session == token, !rankSave.isStaged else { continue }
            if rankSave.isApart { continue }
            failRankSave(rankSave, "the rank gave up waiting for the fence, so its memory may have changed")
        }
    }

    /// Nothing more of this save is wanted from the stager.
    func stopStaging(_ rankSave: RankSave) {
        rankSave.unassigned.removeAll()
        if let call = rankSave.replyCall {
            reply(call, .saved(rankSave.key.save, bytes: rankSave.fileBytes))
            rankSave.replyCall = nil
        }
        rankSave.waitsForEager = false
        guard rankSave.stagerKnows, !rankSave.cancelling else { return }
        rankSave.cancelling = true
        actions.append(.stager(.cancel(handle: rankSave.handle)))
    }

    // MARK: failure of one rank's part

    /// This rank's part will never be whole: its manifest will not exist, so the save is void for all.
    func failRankSave(_ rankSave: RankSave, _ reason: String) {
        guard rankSave.failure == nil else { return }
        if !rankSave.isCopies, let save = saves[rankSave.saveKey], save.decision == nil, finalLevel(rankSave.upto) == .committed,
           rankSave.files.values.contains(where: \.mayStand) {
            // Its manifest may stand, or a next start may find its file on the local tier, so it may yet be committed: the
            // decision file says what is told (I11).
            return void(save, "rank \(rankSave.key.rank): \(reason)")
        }
        precondition(rankSave.level != .committed, "\(rankSave.key): failed after it was committed (I11)")
        rankSave.failure = reason
        drop(rankSave)
        rankSave.unassigned.removeAll()
        if let call = rankSave.replyCall {
            reply(call, .failed(.invalid(name: "save", reason: reason)))
            rankSave.replyCall = nil
        }
        if rankSave.stagerKnows, !rankSave.cancelling {
            rankSave.cancelling = true
            actions.append(.stager(.cancel(handle: rankSave.handle)))
        }
        if !rankSave.cancelling { endHeld(of: rankSave, isResting: false) }
        abandonFiles(of: rankSave)
        log(.warning, "save failed: \(reason)", rankSave.key)
        tell(rankSave, .failed, reason: reason)
        if rankSave.isCopies {
            copiesDone(rankSave)
        } else if let save = saves[rankSave.saveKey] {
            void(save, "rank \(rankSave.key.rank): \(reason)")
        }
        releaseChunks(of: rankSave)
    }

    func cancelled(_ handle: Int, busySlots: [Int]) {
        guard let rankSave = rankSaves[handle] else { return }
        rankSave.cancelling = false
        rankSave.stagerKnows = false
        for (chunk, slot) in rankSave.slots.enumerated() {
            guard let slot, !pool.isSealed(slot) else { continue }
            pool.unhold(slot)
            rankSave.outstanding -= 1
            if busySlots.contains(slot) {
                pool.quarantine(slot, until: nil)
                rankSave.slots[chunk] = nil
            } else if rankSave.failure == nil {
                pool.release(slot)
                rankSave.slots[chunk] = nil
            }
        }
        endHeld(of: rankSave, isResting: !busySlots.isEmpty)
        if rankSave.failure == nil { endRankSaveIfDone(rankSave) } else { releaseChunks(of: rankSave) }
    }

    func slotFree(_ slot: Int) {
        guard case .quarantined(nil) = pool.slots[slot].content else { return }
        pool.release(slot)
    }

    /// Gives back what nobody uses of a failed save, and forgets it when all is given back.
    func releaseChunks(of rankSave: RankSave) {
        guard rankSave.failure != nil, !rankSave.cancelling else { return }
        for (chunk, slot) in rankSave.slots.enumerated() {
            guard let slot, pool.slots[slot].holds == 0 else { continue }
            pool.release(slot)
            rankSave.slots[chunk] = nil
        }
        if rankSave.slots.allSatisfy({ $0 == nil }) { endRankSaveIfDone(rankSave) }
    }

    func tickStaging() {
        for handle in rankSaves.keys.sorted() {
            guard let rankSave = rankSaves[handle], rankSave.failure == nil, !rankSave.isStaged,
                  now - rankSave.progressAt > ms(limits.fenceMs) else { continue }
            let isNotPut = rankSave.streamedFrom != nil && (rankSave.awaitsPut || rankSave.unassigned.isEmpty)
            let why = isNotPut ? "the rank put nothing more of what it streams" : pool.freeCount == 0
                ? "the pool is full and no tier frees it (see `cairn status`)"
                : "the rank's memory could not be read"
            failRankSave(rankSave, "nothing was staged for \(limits.fenceMs / 1000) s: \(why)")
        }
        tickHeld()
        // Progress for watchers, at most once a tick for each save.
        for handle in rankSaves.keys.sorted() {
            guard let rankSave = rankSaves[handle], rankSave.failure == nil else { continue }
            let bytes = rankSave.isStaged ? rankSave.bytesWritten.values.max() ?? 0 : rankSave.stagedBytes
            guard bytes != rankSave.toldBytes, rankSave.level < .global, !rankSave.isCopies, !(rankSave.isHeld && rankSave.isStaged) else { continue }
            rankSave.toldBytes = bytes
            actions.append(.tell(Notice(run: rankSave.key.run, save: rankSave.key.save, rank: rankSave.key.rank, level: rankSave.level,
                                        bytes: bytes, totalBytes: rankSave.fileBytes, at: now, reason: nil)))
        }
    }

    func tell(_ rankSave: RankSave, _ level: Level, reason: String? = nil) {
        precondition(rankSave.level <= level && (rankSave.level != .failed || level == .failed), "\(rankSave.key): \(level) told after \(rankSave.level) (I4)")
        rankSave.level = level
        guard !rankSave.isCopies else { return }   // its rank's own part speaks for both
        let bytes = level == .accepted || level == .failed ? rankSave.stagedBytes : rankSave.fileBytes
        rankSave.toldBytes = bytes
        actions.append(.tell(Notice(run: rankSave.key.run, save: rankSave.key.save, rank: rankSave.key.rank, level: level, bytes: bytes,
                                    totalBytes: rankSave.fileBytes, at: now, reason: reason, reached: true, poolWaitNs: rankSave.poolWait(at: now))))
        answerWaits(rankSave, level, reason)
    }
}
