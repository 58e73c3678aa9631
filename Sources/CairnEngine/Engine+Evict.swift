// Room in the pool: free slots, then cache, then what an fdatasync makes cache. A chunk is needed until a tier that can serve it has
// synced it.
import CairnMessages
import CairnModel

extension Engine {
    /// A free slot, or the slot of cache: the oldest save's first, such as no flush will read from memory before the others.
    func takeSlot(handle: Int, chunk: Int) -> Int? {
        if let slot = pool.take(handle: handle, chunk: chunk) { return slot }
        if evictOne() { return pool.take(handle: handle, chunk: chunk) }
        requestSyncs()
        return nil
    }

    func evictOne() -> Bool {
        var second: (RankSave, Int)?
        for handle in rankSaves.keys.sorted() {
            guard let rankSave = rankSaves[handle], rankSave.failure == nil else { continue }
            let ended = isEnded(rankSave)
            for (chunk, slot) in rankSave.slots.enumerated() {
                guard let slot, pool.slots[slot].holds == 0, pool.isSealed(slot), isCache(rankSave, chunk) else { continue }
                if ended { evict(rankSave, chunk, slot); return true }
                if second == nil { second = (rankSave, chunk) }
                break
            }
        }
        guard let (rankSave, chunk) = second, let slot = rankSave.slots[chunk] else { return false }
        evict(rankSave, chunk, slot)
        return true
    }

    func evict(_ rankSave: RankSave, _ chunk: Int, _ slot: Int) {
        rankSave.slots[chunk] = nil
        pool.release(slot)
        endRankSaveIfDone(rankSave)
    }

    func isCache(_ rankSave: RankSave, _ chunk: Int) -> Bool {
        if rankSave.isHeld { return false }
        if rankSave.files.values.contains(where: { $0.phase != .failed && $0.retryAt == nil && $0.chunks[chunk] == .synced }) { return true }
        // It will not be flushed any more: the decision file only has the last word.
        if saves[rankSave.saveKey]?.voidReason != nil { return rankSave.isStaged }
        // A save that asked for memory only is cache once a newer one of the same rank is staged, or another attempt began.
        guard targets(rankSave.upto).isEmpty, rankSave.isStaged else { return false }
        return rankSaves.values.contains {
            // (the same number: copies are replaced by copies)
            $0.key.run == rankSave.key.run && $0.key.rank == rankSave.key.rank && $0.isStaged && !$0.recovered && !$0.isHeld && $0.failure == nil
                && ($0.key.save.attempt, $0.handle) > (rankSave.key.save.attempt, rankSave.handle)
        }
    }

    /// Staging waits for room: what is written but not synced becomes cache by an fdatasync.
    func requestSyncs() {
        for handle in flushOrder {
            guard let rankSave = rankSaves[handle], rankSave.failure == nil else { continue }
            for tier in tiers where isUp(tier) {
                guard let file = rankSave.files[tier], file.phase == .writing, file.retryAt == nil, file.syncing == nil else { continue }
                let written = file.chunks.indices.filter { file.chunks[$0] == .written }
                guard !written.isEmpty, written.count * 4 >= min(limits.slots, file.chunks.count) || file.inFlight == 0 else { continue }
                file.syncing = written
                ask(tier, .sync(handle: handle), file: file.file) { .sync(id: $0, file: file.file) }
            }
        }
    }
}
