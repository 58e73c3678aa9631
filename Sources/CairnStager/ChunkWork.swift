/// One chunk in one phase: what a copy thread does at a time.
struct ChunkWork: Sendable {
    enum Phase: Sendable { case eager, lazy }
    var plan: StagePlan
    var chunk: Int, slot: Int
    var phase: Phase
    /// The CRC32C of each block; nil while bytes of it are missing.
    var checksums: [UInt32?]
    /// Nothing of the chunk is left after this phase.
    var isLast: Bool { phase == .lazy || !plan.hasLazy(chunk) }
}
