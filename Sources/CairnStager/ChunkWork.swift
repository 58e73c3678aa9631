/// One chunk in one phase: what a copy thread does at a time.
struct ChunkWork: Sendable {
    /// `sum`: of lazy bytes that are verified, before any of them is copied; done by the threads of the eager phase.
    enum Phase: Sendable { case eager, sum, lazy }
    var plan: StagePlan
    /// `slot` of a `sum`: a number below 0, for it has none.
    var chunk: Int, slot: Int
    var phase: Phase
    /// The CRC32C of each block; nil while bytes of it are missing.
    var checksums: [UInt32?]
    /// What `sum` found.
    var sums: [UInt32?] = []
    /// Nothing of the chunk is left after this phase.
    var isLast: Bool { phase == .lazy || !plan.hasLazy(chunk) }
}
