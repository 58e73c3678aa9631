// From staged to durable: files on tiers, chunks in flight, eviction. A chunk is *needed* until a tier that can serve it has
// synced it, then *cache*: it serves restores and read-free flushes until its slot is wanted.
// An error on a file voids it; the next try is a new file under a new name. A save that has lost chunks from the pool can
// only be written again from a tier that holds the whole file.
import CairnMessages
import CairnModel

extension Engine {
    func flush(_ tier: Tier) {
        guard let state = tierStates[tier], state.up else { return }
        flushOrder.removeAll { rankSaves[$0] == nil }
        for handle in flushOrder {
            guard let rankSave = rankSaves[handle], rankSave.failure == nil, mayFlush(rankSave, to: tier) else { continue }
            guard let file = rankSave.files[tier] else { startFile(rankSave, tier, fileTry: 1); continue }
            if let retryAt = file.retryAt {
                if now >= retryAt { startFile(rankSave, tier, fileTry: file.fileTry + 1) }
                continue
            }
            switch file.phase {
            case .creating, .publishing, .published, .failed: continue
            case .writing:
                writeChunks(rankSave, file, state)
                if file.writtenCount == rankSave.chunkCount, file.syncing == nil, rankSave.isStaged { publish(rankSave, file) }
            }
            if state.writesInFlight >= limits.writesPerTier { break }
        }
    }

    /// Local first; the global tier's turn comes when the local copy stands, or cannot.
    func mayFlush(_ rankSave: RankSave, to tier: Tier) -> Bool {
        guard targets(rankSave.upto).contains(tier), saves[rankSave.saveKey]?.voidReason == nil else { return false }
        guard tier != committing || !isUnclaimed(rankSave.saveKey), !waitsForCopies(rankSave), mayTouch(rankSave, tier) else { return false }
        guard tier == .global, beside != nil, finalLevel(rankSave.upto) == .committed else { return true }
        return rankSave.published(on: .local) || rankSave.fileFailed(on: .local) || rankSave.files[.global] != nil
            || tierStates[.local]?.stalled == true || (!isUp(.local) && rankSave.isStaged)
    }

    func startFile(_ rankSave: RankSave, _ tier: Tier, fileTry: Int) {
        let file = FileState(tier: tier, file: newID(), fileTry: fileTry, chunkCount: rankSave.chunkCount)
        file.mayStand = rankSave.files[tier]?.mayStand ?? false
        file.failures = rankSave.files[tier]?.failures ?? 0
        rankSave.files[tier] = file
        ask(tier, .create(handle: rankSave.handle), file: file.file) {
            .create(id: $0, file: file.file, key: rankSave.key, fileTry: fileTry, bytes: rankSave.fileBytes)
        }
    }

    func fileCreated(_ handle: Int, _ tier: Tier) {
        guard let file = repliedFile(handle, tier), file.phase == .creating else { return }
        file.phase = .writing
    }

    func writeChunks(_ rankSave: RankSave, _ file: FileState, _ state: TierState) {
        var writes: [ChunkWrite] = []
        while file.cursor < file.chunks.count, file.chunks[file.cursor] != .none { file.cursor += 1 }
        for chunk in file.cursor..<file.chunks.count where file.chunks[chunk] == .none {
            guard state.writesInFlight < limits.writesPerTier else { break }
            if let slot = rankSave.slots[chunk] {
                guard pool.isSealed(slot) else { continue }
                pool.hold(slot)
                writes.append(chunkWrite(rankSave, file, chunk, source: .pool(slot: slot), slot: slot, readBack: nil))
            } else if rankSave.isStaged, file.tier == .global, rankSave.published(on: .local) {
                guard let local = tierStates[.local], local.up, let slot = local.freeReadBacks.popLast() else { break }
                file.chunks[chunk] = .inFlight
                file.inFlight += 1
                state.writesInFlight += 1
                ask(.local, .readBack(handle: rankSave.handle, chunk: chunk, slot: slot), file: file.file) {
                    .readBack(id: $0, key: rankSave.key, chunk: chunk, bytes: rankSave.bytes(ofChunk: chunk), bufferSlot: slot)
                }
            } else if rankSave.isStaged, file.tier == .global, let local = rankSave.files[.local], local.phase != .failed, local.retryAt == nil {
                continue   // it is read back once the local copy stands
            } else if rankSave.isStaged, file.tier == beside, finalLevel(rankSave.upto) == .committed {
                // Evicted because the global tier has it: that tier alone carries this save.
                send(&writes, to: file.tier)
                abandon(file)
                file.phase = .failed
                break
            } else if rankSave.isStaged {
                send(&writes, to: file.tier)
                failRankSave(rankSave, "chunk \(chunk) left the pool and no tier holds it: \(file.failure ?? "the \(file.tier) tier's file was lost")")
                return
            }
        }
        send(&writes, to: file.tier)
    }

    /// Before the file is abandoned: a write that comes after that has no file.
    func send(_ writes: inout [ChunkWrite], to tier: Tier) {
        guard !writes.isEmpty else { return }
        actions.append(.tier(tier, .write(writes)))
        writes.removeAll()
    }

    func chunkWrite(_ rankSave: RankSave, _ file: FileState, _ chunk: Int, source: ChunkSource, slot: Int?, readBack: ReadBackSlot?) -> ChunkWrite {
        let id = newID()
        if readBack == nil {
            file.chunks[chunk] = .inFlight
            file.inFlight += 1
            tierStates[file.tier]?.writesInFlight += 1
        }
        tierStates[file.tier]?.pending[id] = (.write(handle: rankSave.handle, chunk: chunk, slot: slot, readBack: readBack), file.file, now)
        return ChunkWrite(id: id, file: file.file, chunk: chunk, bytes: rankSave.bytes(ofChunk: chunk), source: source)
    }

    /// A chunk of the local copy is in the local worker's read buffer: it goes on to the global tier from there.
    func readBackDone(_ handle: Int, chunk: Int, slot: Int) {
        guard let rankSave = rankSaves[handle], rankSave.failure == nil, let file = repliedFile(handle, .global), file.phase == .writing,
              file.retryAt == nil, isUp(.global), file.chunks[chunk] == .inFlight else {
            tierStates[.local]?.freeReadBacks.append(slot)
            tierStates[.global]?.writesInFlight -= 1
            return
        }
        // The instance is filled in by main, which knows which local worker runs.
        let readBack = ReadBackSlot(slot: slot, generation: tierStates[.local]?.generation ?? 0)
        let write = chunkWrite(rankSave, file, chunk, source: .peer(instance: "", slot: slot), slot: nil, readBack: readBack)
        actions.append(.tier(.global, .write([write])))
    }

    /// The file that a reply is about, if it is still the current one: a late reply about an earlier try says nothing.
    func repliedFile(_ handle: Int, _ tier: Tier) -> FileState? {
        guard let file = rankSaves[handle]?.files[tier], file.file == repliedFileNumber else { return nil }
        return file
    }

    func chunkWritten(_ handle: Int, _ tier: Tier, chunk: Int, slot: Int?, readBack: ReadBackSlot?) {
        writeEnded(tier, slot: slot, readBack: readBack)
        guard let rankSave = rankSaves[handle] else { return }
        if rankSave.failure != nil { return releaseChunks(of: rankSave) }
        guard let file = repliedFile(handle, tier), file.phase == .writing, file.chunks[chunk] == .inFlight else { return }
        file.chunks[chunk] = .written
        file.inFlight -= 1
        file.writtenCount += 1
        tierStates[tier]?.writtenBytes += rankSave.bytes(ofChunk: chunk)
    }

    func writeEnded(_ tier: Tier, slot: Int?, readBack: ReadBackSlot?) {
        tierStates[tier]?.writesInFlight -= 1
        if let slot { pool.unhold(slot) }
        // A worker that was started meanwhile has a buffer of its own, with all of its slots.
        if let readBack, let local = tierStates[.local], local.up, local.generation == readBack.generation { local.freeReadBacks.append(readBack.slot) }
    }

    func publish(_ rankSave: RankSave, _ file: FileState) {
        precondition(file.inFlight == 0 && file.chunks.allSatisfy { $0 == .written || $0 == .synced }, "\(rankSave.key): published before it was written (I2)")
        file.phase = .publishing
        file.mayStand = true
        let id = newID()
        tierStates[file.tier]?.pending[id] = (.publish(handle: rankSave.handle), file.file, now)
        actions.append(.publish(file.tier, id: id, file: file.file, handle: rankSave.handle,
                                ManifestFacts(count: rankSave.count, previous: rankSave.previous, participants: saves[rankSave.saveKey]?.participants)))
    }

    func filePublished(_ handle: Int, _ tier: Tier) {
        guard let rankSave = rankSaves[handle], let file = repliedFile(handle, tier), file.phase == .publishing else { return }
        file.phase = .published
        for chunk in file.chunks.indices { file.chunks[chunk] = .synced }
        guard rankSave.failure == nil else { return }
        if tier == .local, rankSave.level < .local { tell(rankSave, .local) }
        if tier == committing, !rankSave.isCopies {
            // Says `local` too, in one word: a client that is cut off between two would take it for the local tier's own.
            if rankSave.level < .global { tell(rankSave, .global) }
            if let save = saves[rankSave.saveKey] {
                save.publishedAt = save.publishedAt ?? now
                seekDecision(save)
            }
        }
        endRankSaveIfDone(rankSave)
    }

    func fileSynced(_ handle: Int, _ tier: Tier) {
        guard let file = repliedFile(handle, tier), let covered = file.syncing else { return }
        file.syncing = nil
        for chunk in covered where file.chunks[chunk] == .written { file.chunks[chunk] = .synced }
    }

    /// An operation on a file failed: the file is void.
    func fileFailed(_ rankSave: RankSave, _ tier: Tier, _ failure: TierFailure) {
        guard rankSave.failure == nil, let file = rankSave.files[tier], file.phase != .failed, file.phase != .published, file.retryAt == nil else { return }
        abandon(file)
        file.failure = failure.text
        guard !isEnded(rankSave) else { file.phase = .failed; return }
        let lost = file.chunks.indices.contains { file.chunks[$0] == .synced && rankSave.slots[$0] == nil }
            && !(tier == .global && rankSave.published(on: .local))
        if failure.kind == .ended {
            // The save was decided without this file: the decision says how it ends.
            file.phase = .failed
            if let save = saves[rankSave.saveKey] { seekDecision(save) }
            return
        }
        if lost { return failRankSave(rankSave, "\(failure.text); chunks that were synced to this file have left the pool") }
        // A global tier that is full or fails is waited for as long as the local copy stands (until the commit's timeout).
        let waits = [.noSpace, .io, .missing].contains(failure.kind) && tier == .global && rankSave.published(on: .local)
        // Whatever killed its worker, it was not this file's error; the commit's timeout bounds it.
        if failure.kind != .workerLost { file.failures += 1 }
        if file.failures < limits.fileTries || waits {
            file.retryAt = now + ms(limits.retryMs * min(file.fileTry, 20))
            return log(.warning, "\(tier) tier: \(failure.text); written anew (try \(file.fileTry + 1))", rankSave.key, tier: tier)
        }
        file.phase = .failed
        log(.error, "\(tier) tier: \(failure.text); given up after \(file.failures) tries", rankSave.key, tier: tier)
        if tier == .local, beside != nil, finalLevel(rankSave.upto) == .committed { return }   // the global tier takes it from memory
        failRankSave(rankSave, failure.text)
    }

    func abandon(_ file: FileState) {
        guard file.phase != .published, file.phase != .failed else { return }
        if isUp(file.tier) { actions.append(.tier(file.tier, .abandon(file: file.file))) }
    }

    func abandonFiles(of rankSave: RankSave) {
        for tier in tiers {
            guard let file = rankSave.files[tier], file.phase != .published else { continue }
            if file.retryAt == nil { abandon(file) }
            file.phase = .failed
        }
    }

    func tierFailed(_ tier: Tier, _ what: Pending, _ failure: TierFailure) {
        switch what {
        case .write(let handle, let chunk, let slot, let readBack):
            writeEnded(tier, slot: slot, readBack: readBack)
            guard let rankSave = rankSaves[handle] else { return }
            if rankSave.failure != nil { return releaseChunks(of: rankSave) }
            // A write of an earlier try may fail late: it says nothing about the file that replaced it.
            guard let file = repliedFile(handle, tier), file.chunks[chunk] == .inFlight else { return }
            file.again(chunk)
            fileFailed(rankSave, tier, failure)
        case .readBack(let handle, _, let slot):
            tierStates[.local]?.freeReadBacks.append(slot)
            tierStates[.global]?.writesInFlight -= 1
            guard let rankSave = rankSaves[handle], rankSave.failure == nil else { return }
            failRankSave(rankSave, "the local copy cannot be read back: \(failure.text)")
        case .create(let handle), .sync(let handle), .publish(let handle):
            guard let rankSave = rankSaves[handle], let file = repliedFile(handle, tier) else { return }
            if case .sync = what { file.syncing = nil }
            fileFailed(rankSave, tier, failure)
        case .number(let key), .find(let key), .seek(let key), .resumeChoice(let key, _), .resumeSteps(let key): attemptFailed(key, failure, tier)
        case .decide(let key), .void(let key), .look(let key): decisionFailed(key, failure)
        case .choose(let key, let restore), .readChoice(let key, let restore), .held(let key, let restore):
            choiceFailed(key, restore, failure, tier)
        case .settled(let key, let restore, _), .verdict(let key, let restore): settleFailed(key, restore, failure)
        case .scan:
            // Nothing of it is known before the scan: it is asked for again.
            tierStates[tier]?.scanAt = now + ms(limits.pollLongestMs)
            log(.warning, "\(tier) tier: \(failure.text)", tier: tier)
        case .retain, .discard: log(.warning, "\(tier) tier: \(failure.text)", tier: tier)
        case .record(let key):
            log(.warning, "\(tier) tier: \(failure.text)", tier: tier)
            retain(key.run, tiers: [tier])
        case .orphan(let run, let save): runs[run]?.orphansAsked.remove(save)
        case .newest: break   // asked for again with a later save
        case .claim(let run, let attempt): runs[run]?.claiming.remove(attempt)
        case .listHeld(let key): publishHave(key, found: [])
        case .have(let key), .leftovers(let key): leftoversFailed(key, failure)
        case .drop(let key):
            // Its local files may still stand: the decision file has the last word, as soon as it can be asked for.
            log(.warning, "\(tier) tier: \(failure.text)", save: key, tier: tier)
        case .promote(let call, _, _, let level, _): reply(call, .failed(.tierDown(tier: tier.rawValue, reason: "\(failure.text); it was not promoted to \(level)")))
        }
    }

    func attemptFailed(_ key: AttemptKey, _ failure: TierFailure, _ tier: Tier) {
        guard let attempt = runs[key.run]?.attempts[key.tokenHash] else { return }
        attempt.numberAsked.remove(tier)
        attempt.isResuming = false
        attempt.askAt = now + ms(limits.pollLongestMs)
        log(.warning, "the attempt cannot be opened: \(failure.text)")
        guard failure.kind == .corrupt else { return }
        // What its ranks had agreed cannot be read, and is never written again.
        for session in attempt.sessions.values.sorted().compactMap({ sessions[$0] }) { refuseOpen(session, tier: tier, "\(failure.text); start the job anew") }
    }

    func tickFlush() {
        for tier in tiers {
            guard let state = tierStates[tier], state.up else { continue }
            let oldest = state.pending.values.map(\.at).min() ?? now
            let stalled = now - oldest > ms(limits.stallMs)
            if stalled != state.stalled {
                state.stalled = stalled
                if stalled { log(.error, "the \(tier) tier has not answered for \(limits.stallMs / 1000) s: its filesystem hangs; saves go on without it where they can", tier: tier) }
                else { log(.notice, "the \(tier) tier answers again", tier: tier) }
            }
        }
    }
}
