// One rank's session as the stager knows it: whose memory, and by which way it may be read.
import CairnIO

final class Session: Sendable {
    let token: String
    let uid: UInt32
    /// process_vm_readv is permitted.
    let direct: Bool
    private let pidfd: Descriptor?
    private let byPid: RankMemory?
    private let attached = Monitor<RankMemory?>(nil)
    private let numbered = Monitor<[Int: SealedMemory]>([:])

    init(token: String, uid: UInt32, pid: Int32, forceDescriptor: Bool) {
        self.token = token; self.uid = uid
        // A pid of 0 is a process that this pid namespace does not show.
        pidfd = pid > 0 ? try? PidWatch.open(pid: pid) : nil
        direct = !forceDescriptor && pidfd != nil && RankMemory.canRead(pid: pid)
        byPid = direct ? RankMemory(pid: pid) : nil
    }

    func attach(_ memory: Descriptor) { attached.withLock { $0 = RankMemory(memoryDescriptor: memory) } }

    /// Replaces what had this number; saves that have begun keep that.
    func attach(_ memory: SealedMemory, number: Int) { numbered.withLock { $0[number] = memory } }

    var sources: [Int: SealedMemory] { numbered.withLock { $0 } }

    /// Asked after the last read of a chunk: a pid that was reused is seen here, and the bytes are not used.
    var isGone: Bool { pidfd.map(PidWatch.isGone) ?? false }

    func read(_ pieces: [(address: UInt64, bytes: Int)], into map: MemoryMap, at offset: Int) throws(RankMemoryFailure) {
        let attached = attached.withLock { $0 }
        guard let byPid else {
            guard let attached else { throw .notPermitted }
            return try attached.read(pieces, into: map, at: offset)
        }
        do { try byPid.read(pieces, into: map, at: offset) } catch {
            // A rank may have become undumpable since; what it attached still works.
            guard error == .notPermitted, let attached else { throw error }
            try attached.read(pieces, into: map, at: offset)
        }
    }
}
