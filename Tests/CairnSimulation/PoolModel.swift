// The pool's memory as its users see it: what each slot holds, who reads it and who writes it now.

final class PoolModel {
    var contents: [SlotContent]
    /// Handle and chunk that the slot was last assigned to.
    var assigned: [(handle: Int, chunk: Int)?]
    /// Copies by the stager, and reads by writes to a tier (those of dead workers too), that may still happen.
    var writers: [Int], readers: [Int]

    init(slots: Int) {
        contents = Array(repeating: .garbage, count: slots)
        assigned = Array(repeating: nil, count: slots)
        writers = Array(repeating: 0, count: slots)
        readers = Array(repeating: 0, count: slots)
    }
}
