// What a start or a lost worker leaves behind: saves that are durable on the local tier are finished, files under a lost
// worker are void, slots under its I/O rest until that I/O is known done.
import CairnMessages
import CairnModel

extension Engine {
    func tierReady(_ tier: Tier) {
        guard let state = tierStates[tier] else { return }
        state.up = true
        state.generation += 1
        state.downReason = nil
        state.stalled = false
        if tier == .local, beside != nil { state.freeReadBacks = (0..<limits.readBacks).map { $0 + readBackBase } }
        // Once in a life: what this life published it knows itself.
        if !state.scanned { scan(tier) }
        if tier == committing { resumeAgain() }
        for save in saves.values.sorted(by: { $0.key < $1.key }) where tier == committing { save.asking = false; save.pollAt = now }
    }

    func scan(_ tier: Tier) {
        tierStates[tier]?.scanAt = nil
        ask(tier, .scan) { .scan(id: $0) }
    }

    func tickScans() {
        for tier in tiers {
            guard let at = tierStates[tier]?.scanAt, now >= at, isUp(tier) else { continue }
            scan(tier)
        }
    }

    /// The first slot of the local worker's read buffer that main assigns (TierStart.bufferSlots).
    var readBackBase: Int { Self.loadBufferSlots }
    public static let loadBufferSlots = 8

    func tierLost(_ tier: Tier, reason: String) {
        guard let state = tierStates[tier] else { return }
        state.up = false
        state.downReason = reason
        log(.error, "the \(tier) tier is down: \(reason)", tier: tier)
        let pending = state.pending
        state.pending.removeAll()
        let down = TierFailure(kind: .workerLost, text: reason)
        for id in pending.keys.sorted() {
            guard let (what, file, _) = pending[id] else { continue }
            repliedFileNumber = file
            if case .write(let handle, _, let slot?, _) = what {
                // The dead worker's write may still read this slot: it stays held for a while (I5). The chunk itself is sound.
                state.writesInFlight -= 1
                resting.append((slot, handle, now + ms(limits.quarantineMs)))
                continue
            }
            if case .readBack(let handle, let chunk, _) = what {
                tierStates[.global]?.writesInFlight -= 1
                if let file = repliedFile(handle, .global), file.chunks[chunk] == .inFlight { file.again(chunk) }
                continue
            }
            tierFailed(tier, what, down)
        }
        for handle in rankSaves.keys.sorted() {
            guard let rankSave = rankSaves[handle], let file = rankSave.files[tier], file.phase != .published, file.phase != .failed else { continue }
            file.failure = reason
            file.retryAt = now + ms(limits.retryMs)
        }
    }

    /// Slots that a dead worker's writes may still read, each held until its time is over.
    func endRests() {
        guard !resting.isEmpty else { return }
        let over = resting.filter { $0.until <= now }
        resting.removeAll { $0.until <= now }
        for (slot, handle, _) in over {
            pool.unhold(slot)
            if let rankSave = rankSaves[handle], rankSave.failure != nil { releaseChunks(of: rankSave) }
        }
    }

    /// A restore from memory has copied out; a save that failed meanwhile gives its chunks back now.
    func slotsReleased(_ slots: [Int]) {
        for slot in slots {
            pool.unhold(slot)
            if case .chunk(let handle, _, _) = pool.slots[slot].content, let rankSave = rankSaves[handle] { releaseChunks(of: rankSave) }
        }
    }

    func stagerLost(_ reason: String) {
        guard stagerUp else { return }
        stagerUp = false
        log(.error, "the stager is gone: \(reason); saves that were not staged have failed")
        for handle in rankSaves.keys.sorted() {
            guard let rankSave = rankSaves[handle], rankSave.stagerKnows || rankSave.cancelling else { continue }
            // The process has ended, so its copies have: the slots are free of it.
            for slot in rankSave.slots.compactMap({ $0 }) where !pool.isSealed(slot) {
                pool.unhold(slot)
                rankSave.outstanding -= 1
            }
            rankSave.stagerKnows = false
            rankSave.cancelling = false
            if isEnded(rankSave) {
                // Committed by an earlier instance's files while it was staged once more: what is not sealed goes.
                rankSave.unassigned.removeAll()
                for (chunk, slot) in rankSave.slots.enumerated() {
                    guard let slot, rankSave.failure == nil, !pool.isSealed(slot) else { continue }
                    pool.release(slot)
                    rankSave.slots[chunk] = nil
                }
                if rankSave.failure == nil { endRankSaveIfDone(rankSave) }
            }
            if rankSave.failure == nil, !isEnded(rankSave) { failRankSave(rankSave, "the stager ended while copying: \(reason)") } else { releaseChunks(of: rankSave) }
        }
        pool.endCopies()
        for token in sessions.keys.sorted() { endSession(token, reason: "the stager is started anew; open again") }
    }

    func scanned(_ tier: Tier, _ found: [FoundRankSave]) {
        tierStates[tier]?.scanned = true
        for part in found {
            guard let count = part.count else { continue }
            let run = run(part.key.run), attempt = part.key.save.attempt
            run.foundCounts[attempt] = max(run.foundCounts[attempt] ?? 0, count)
        }
        for part in found { self.found(part, on: tier) }
        defer {
            for run in orderedRuns {
                for attempt in run.orderedAttempts { attempt.number == nil ? askForNumber(attempt) : resume(attempt) }
            }
        }
        if tier == beside {
            // Copies of replicas serve restores from where they are; nothing of them is to be finished.
            for part in found where part.decision == nil && !Copies.isCopies(part.key.rank) && runs[part.key.run]?.acceptedBeforeScan.contains(part.key) != true {
                if let token = part.tokenHash { run(part.key.run).unclaimed[part.key.save.attempt] = token }
                recover(part)
            }
            for run in runs.values { run.acceptedBeforeScan.removeAll() }
        } else {
            for part in found where part.decision == nil {
                let key = SaveKey(run: part.key.run, save: part.key.save)
                guard saves[key] == nil else { continue }
                // All its ranks may be there: then it only lacks the decision. If not, the next attempt voids it.
                askOrphan(run(part.key.run), part.key.save) {
                    .decide(id: $0, run: key.run, save: key.save, worldSize: part.worldSize, participants: part.participants, parent: nil)
                }
            }
        }
    }

    /// Durable locally: read back and flushed on to the global tier, if it was to go there.
    func recover(_ part: FoundRankSave) {
        let key = SaveKey(run: part.key.run, save: part.key.save)
        guard saves[key]?.ranks[part.key.rank] == nil, !run(key.run).ended.contains(key.save) else { return }
        let rankSave = RankSave(handle: newHandle(), key: part.key, fileBytes: part.fileBytes, upto: max(part.upto, .local), count: part.count, session: nil,
                                now: now, order: [], waitsForEager: false, recovered: true)
        rankSave.files[.local] = FileState.found(on: .local, file: newID(), chunkCount: rankSave.chunkCount)
        rankSave.stagedChunks = rankSave.chunkCount
        rankSave.stagedBytes = rankSave.fileBytes
        admit(rankSave, worldSize: part.worldSize, participants: part.participants)
        if finalLevel(part.upto) == .committed { log(.notice, "found durable on the local tier: flushing it to the global tier", part.key) }
        tell(rankSave, .local)
        endRankSaveIfDone(rankSave)
    }
}
