import CairnIO

/// One chunk in one phase: what a copy thread does at a time.
struct ChunkWork: Sendable {
    /// `sum`: of lazy bytes that are verified, before any of them is copied; done by the threads of the eager phase.
    /// `streamed`: one portion of a chunk's, done by the threads of the lazy phase.
    enum Phase: Int, Sendable { case eager, sum, lazy, streamed }
    var plan: StagePlan
    /// `slot` of a `sum`: a number below 0, for it has none.
    var chunk: Int, slot: Int
    var phase: Phase
    /// The CRC32C of each block; nil while bytes of it are missing.
    var checksums: [UInt32?]
    /// What `sum` found.
    var sums: [UInt32?] = []
    /// What a `streamed` copies.
    var portion: Portion?
    /// Nothing of the chunk is left after this phase.
    var isLast: Bool {
        if let portion { return portion.end == plan.streamedEnd(chunk) }
        return !plan.hasStreamed(chunk) && (phase == .lazy || !plan.hasLazy(chunk))
    }
}

/// Bytes of one Put that lie in one chunk, back to back in the file and in a lease.
struct Portion: Sendable {
    let put: Int
    /// In the file.
    let begin: Int, bytes: Int
    let lease: MemoryMap, offset: Int
    var end: Int { begin + bytes }
}
