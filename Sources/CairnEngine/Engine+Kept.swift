// What outlives this process in the pool: main writes it down as the engine says (`keep`, `drop`), and a next process takes it up at its start,
// before it knows of any tier or rank. Such a part is staged as it was, without a session: it is flushed, committed, and serves restores.
// (1) Kept is what lies whole in the pool and is staged: before a rank is told so (I1). Held saves end with their session; copies of replicas are
//     what other nodes have too: neither is kept. Nor is what was promoted and is not committed yet.
// (2) What has failed or is void is dropped before anyone is told (I4), a chunk of it that is evicted when its slot is given out again (I5).
// (3) Nothing of it is flushed to a tier before that tier was scanned, and to the committing one before it was asked for a decision: it may stand there.
import CairnMessages
import CairnModel

/// One part, as it is kept.
public struct KeptRankSave: Sendable {
    public var handle: Int, key: RankSaveKey, worldSize: Int, fileBytes: Int, slots: [Int]
    public var upto: Level, saveUpto: Level
    public var count: Int?, previous: SaveID?, parent: CommitSequence?, participants: [Int]?
    public var committed: CommitSequence?
    public init(handle: Int, key: RankSaveKey, worldSize: Int, fileBytes: Int, slots: [Int], upto: Level, saveUpto: Level, count: Int?, previous: SaveID?,
                parent: CommitSequence?, participants: [Int]?, committed: CommitSequence?) {
        self.handle = handle; self.key = key; self.worldSize = worldSize; self.fileBytes = fileBytes; self.slots = slots; self.upto = upto
        self.saveUpto = saveUpto; self.count = count; self.previous = previous; self.parent = parent; self.participants = participants; self.committed = committed
    }
}

extension Engine {
    /// What main writes down of a part now; nil: it is not to be kept (any more).
    public func kept(handle: Int) -> KeptRankSave? {
        guard let part = rankSaves[handle], let save = saves[part.saveKey], part.failure == nil, !part.isHeld, !part.isCopies, !part.recovered,
              part.isStaged, part.isResident, save.lostReason == nil else { return nil }
        var committed: CommitSequence?
        if case .committed(let sequence)? = save.decision { committed = sequence }
        // A promotion that is under way is forgotten with the process, of all parts alike: those on a tier say how far they were to go at first.
        guard committed != nil || (part.upto == part.asked && save.upto == part.asked) else { return nil }
        return KeptRankSave(handle: handle, key: part.key, worldSize: save.worldSize, fileBytes: part.fileBytes, slots: part.slots.compactMap { $0 }, upto: part.upto,
                            saveUpto: save.upto, count: part.count, previous: part.previous, parent: save.parent, participants: save.participants, committed: committed)
    }

    func keep(_ part: RankSave) {
        if !part.isHeld, !part.isCopies, !part.recovered { actions.append(.keep(handle: part.handle)) }
    }

    func drop(_ part: RankSave) { actions.append(.drop(handle: part.handle)) }

    /// The first event of a life. Two parts of one rank and save cannot be: main has seen to that.
    func takeUp(_ parts: [KeptRankSave]) {
        precondition(rankSaves.isEmpty && pool.filled == 0 && tierStates.values.allSatisfy { !$0.up }, "what a former process kept comes before all else")
        for part in parts.sorted(by: { ($0.key.run, $0.key.save, $0.key.rank) < ($1.key.run, $1.key.save, $1.key.rank) }) {
            let rankSave = RankSave(handle: part.handle, key: part.key, fileBytes: part.fileBytes, upto: part.upto, count: part.count, session: nil, now: now,
                                    order: [], waitsForEager: false, recovered: false)
            precondition(part.slots.count == rankSave.chunkCount, "\(part.key): \(part.slots.count) slots of \(rankSave.chunkCount) chunks")
            rankSave.isKept = true
            rankSave.previous = part.previous
            for (chunk, slot) in part.slots.enumerated() {
                pool.keep(slot, handle: part.handle, chunk: chunk)
                rankSave.slots[chunk] = slot
            }
            rankSave.stagedChunks = rankSave.chunkCount
            rankSave.stagedBytes = rankSave.fileBytes
            let run = run(part.key.run), attempt = part.key.save.attempt
            if let count = part.count { run.foundCounts[attempt] = max(run.foundCounts[attempt] ?? 0, count) }
            admit(rankSave, worldSize: part.worldSize, participants: part.participants, parent: part.parent, upto: part.saveUpto)
            tell(rankSave, .staged)
            if let sequence = part.committed { saves[rankSave.saveKey]?.decision = .committed(sequence: sequence) }
        }
        // A save's parts are all here before the first of them ends it; what one of them knows of its commit holds for all.
        for save in saves.values.sorted(by: { $0.key < $1.key }) {
            if case .committed(let sequence)? = save.decision {
                let run = run(save.key.run)
                run.decided.append(save.key.save)
                if run.lastCommit.map({ $0.sequence < sequence }) ?? true { run.lastCommit = (save.key.save, sequence, now) }
                for part in ownParts(save) {
                    standsCommitted(part)
                    tell(part, .committed)
                }
            } else if finalLevel(save.upto) == .committed {
                save.isSought = true
            }
            for part in ownParts(save) { endRankSaveIfDone(part) }
        }
    }

    /// (3)
    func mayTouch(_ part: RankSave, _ tier: Tier) -> Bool {
        guard part.isKept else { return true }
        return allScanned(tier) && (tier != committing || saves[part.saveKey]?.isSought != true)
    }

    /// A scan has found the file of a part that was taken up: it need not be written.
    func found(_ found: FoundRankSave, on tier: Tier) {
        let key = SaveKey(run: found.key.run, save: found.key.save)
        guard let save = saves[key], let handle = save.ranks[found.key.rank], let part = rankSaves[handle], part.isKept, part.failure == nil,
              part.fileBytes == found.fileBytes, part.files[tier] == nil else { return }
        if let outcome = found.decision { return decided(key, outcome, isRead: false) }
        part.files[tier] = FileState.found(on: tier, file: newID(), chunkCount: part.chunkCount)
        let level: Level = tier == committing ? .global : .local
        if part.level < level { tell(part, level) }
        if tier == committing {
            save.publishedAt = save.publishedAt ?? now
            seekDecision(save)
        }
        endRankSaveIfDone(part)
    }
}
