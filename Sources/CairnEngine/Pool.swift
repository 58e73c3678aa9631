// The pool's slots as the engine sees them. A slot is free, or holds one chunk of one rank's save, or is quarantined.
// I5: a slot that anyone may still read or write (`holds` > 0) is not given out again.

struct SlotState {
    enum Content: Equatable {
        case unfilled
        case free
        case chunk(handle: Int, chunk: Int, sealed: Bool)
        /// Under a copy or write that cannot be stopped; given back at `until`, or by slotFree if nil.
        case quarantined(until: Int?)
    }
    var content: Content = .unfilled
    /// Writes, copies out and the stager's copy that use this slot now.
    var holds = 0
}

struct Pool {
    private(set) var slots: [SlotState]
    /// Free slots, last one first out: a slot used just now is warm in the cache.
    private var free: [Int] = []
    private(set) var filled = 0

    init(slots: Int) { self.slots = Array(repeating: SlotState(), count: slots) }

    var freeCount: Int { free.count }

    mutating func fill(upTo count: Int) {
        while filled < min(count, slots.count) {
            if slots[filled].content == .unfilled {
                slots[filled].content = .free
                free.append(filled)
            }
            filled += 1
        }
    }
    /// A former process filled this slot.
    mutating func keep(_ slot: Int, handle: Int, chunk: Int) {
        precondition(slots[slot].content == .unfilled, "slot \(slot) is kept twice")
        slots[slot].content = .chunk(handle: handle, chunk: chunk, sealed: true)
    }
    mutating func take(handle: Int, chunk: Int) -> Int? {
        guard let slot = free.popLast() else { return nil }
        precondition(slots[slot].content == .free && slots[slot].holds == 0, "slot \(slot) was given out while in use (I5)")
        slots[slot].content = .chunk(handle: handle, chunk: chunk, sealed: false)
        return slot
    }
    mutating func seal(_ slot: Int) {
        guard case .chunk(let handle, let chunk, let sealed) = slots[slot].content else { preconditionFailure("slot \(slot) holds no chunk") }
        precondition(!sealed, "slot \(slot) was sealed twice")
        slots[slot].content = .chunk(handle: handle, chunk: chunk, sealed: true)
    }
    func isSealed(_ slot: Int) -> Bool {
        if case .chunk(_, _, let sealed) = slots[slot].content { return sealed }
        return false
    }
    mutating func hold(_ slot: Int) { slots[slot].holds += 1 }
    mutating func unhold(_ slot: Int) {
        precondition(slots[slot].holds > 0, "slot \(slot) is held by nobody")
        slots[slot].holds -= 1
    }
    mutating func release(_ slot: Int) {
        precondition(slots[slot].holds == 0, "slot \(slot) is still in use (I5)")
        slots[slot].content = .free
        free.append(slot)
    }
    mutating func quarantine(_ slot: Int, until: Int?) { slots[slot].content = .quarantined(until: until) }
    /// The stager's process has ended, and with it the copies that could not be stopped.
    mutating func endCopies() {
        for slot in slots.indices {
            if case .quarantined(nil) = slots[slot].content, slots[slot].holds == 0 { release(slot) }
        }
    }
    mutating func endQuarantines(at now: Int) {
        for slot in slots.indices {
            if case .quarantined(let until?) = slots[slot].content, until <= now, slots[slot].holds == 0 { release(slot) }
        }
    }
    var quarantinedCount: Int {
        slots.reduce(0) { if case .quarantined = $1.content { $0 + 1 } else { $0 } }
    }
}
