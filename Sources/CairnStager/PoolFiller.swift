// Makes the pool's pages present, and locks them, in order: the first 256 MiB, which READY waits for, at once, the rest
// at the lowest priority.
import CairnIO
import CairnMessages
import CairnModel
import Synchronization

final class PoolFiller: Sendable {
    private let pool: PoolMemory
    private let outbox: Outbox
    private let lock: Bool
    private let stopped = Atomic(false)

    init(_ pool: PoolMemory, lock: Bool, outbox: Outbox) {
        self.pool = pool; self.lock = lock; self.outbox = outbox
    }

    func stop() { stopped.store(true, ordering: .releasing) }

    func run() {
        var locks = lock, locked = 0, huge = 0, note: String?
        for slot in 0..<pool.shape.slots {
            if stopped.load(ordering: .acquiring) { return }
            if slot * Sizes.chunkBytes == StagerLimits.firstFillBytes { Threads.becomeNicer(StagerLimits.fillNiceness) }
            let (map, offset) = pool.place(ofSlot: slot)
            do { huge += try map.prefault(offset: offset, bytes: Sizes.chunkBytes) ? 1 : 0 } catch {
                outbox.post(.filled(slots: slot, lockedSlots: locked, hugeSlots: huge, note: """
                    the pool ends at \(mebibytes(slot)) of \(mebibytes(pool.shape.slots)): \(error). Lower pool.size, or give the \
                    daemon more memory (MemoryMax= of its unit)
                    """))
                return
            }
            if locks {
                do {
                    try map.lock(offset: offset, bytes: Sizes.chunkBytes)
                    locked += 1
                } catch {
                    locks = false
                    note = refusal(error, locked)
                }
            }
            let done = (slot + 1) * Sizes.chunkBytes
            let step = done <= StagerLimits.laterTellBytes ? StagerLimits.firstTellBytes : StagerLimits.laterTellBytes
            guard done.isMultiple(of: step) || slot + 1 == pool.shape.slots else { continue }
            outbox.post(.filled(slots: slot + 1, lockedSlots: locked, hugeSlots: huge, note: note))
            note = nil
        }
    }

    private func refusal(_ failure: IOFailure, _ locked: Int) -> String {
        let limit = ProcessFacts.memoryLockLimit().soft.map { "RLIMIT_MEMLOCK is \($0 >> 20) MiB" } ?? "RLIMIT_MEMLOCK is unlimited"
        return """
            cannot lock the pool beyond \(mebibytes(locked)): \(failure). \(limit). Going on with unlocked memory; to lock all of \
            it set LimitMEMLOCK=infinity in cairnd.service (or CAP_IPC_LOCK), or lower pool.size
            """
    }

    private func mebibytes(_ slots: Int) -> String { "\(slots * Sizes.chunkBytes >> 20) MiB" }
}
