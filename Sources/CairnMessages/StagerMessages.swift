// Main process <-> stager. The stager is the only process that writes the pool, and the only one that touches a rank's
// memory, a rank's descriptors and leases.
//
// Staging of one save of one rank: `begin` says what the file is made of, `stage` assigns chunks to slots of the pool.
// The file is: the header [0, dataStart) from begin's payload, then the layout's extents shifted by dataStart, then the
// objects. Extents lie back to back and cover the file without gaps. All eager extents of a save (header and objects are eager)
// are copied before any lazy one; a chunk with both is finished in the second phase, one with streamed bytes in a third, as `put` brings
// them, in the file's order. A chunk's CRCs are sent once all of its bytes are in place; bytes from the file's end to the next multiple of
// 4 KiB are zeroed in the last chunk.
import CairnModel

public struct StagerStart: Codable, Sendable {
    public var pool: PoolShape
    /// Threads that copy at once (further ones replace those that stick, up to `stuckThreads`).
    public var threads: Int
    /// A daemon's, on a node of so many cores: more would take them from training and gain little, since memory is the limit.
    public static func threads(ofCores cores: Int) -> Int { max(1, min(4, cores / 2)) }
    public var niceness: Int
    public var lock: Bool
    /// A copy that made no progress for so long is called stuck.
    public var stuckMilliseconds: Int
    public var instance: String
    /// A further descriptor comes last: the index of what is kept, whose byte `lockByte` this process locks as long as it may write the pool.
    public var locks: Bool
    public static let mainByte = 0, lockByte = 1
    /// Never use process_vm_readv: tests of the descriptor path, and CAIRN_FORCE_MEMORY_DESCRIPTOR=1.
    public var forceDescriptor: Bool
    public init(pool: PoolShape, threads: Int, niceness: Int, lock: Bool, stuckMilliseconds: Int, instance: String, forceDescriptor: Bool, locks: Bool = false) {
        self.locks = locks
        self.pool = pool; self.threads = threads; self.niceness = niceness; self.lock = lock
        self.stuckMilliseconds = stuckMilliseconds; self.instance = instance; self.forceDescriptor = forceDescriptor
    }
}

/// A run of bytes of the file and where they are: in the rank's memory, in a memfd that it attached, or in other slots of the pool.
/// Packed as 4 words: fileOffset, address, bytes, eager + 2 * (source + 1).
public struct StageExtent: Hashable, Codable, Sendable {
    /// Memfds that one session may have attached; they are numbered below it.
    public static let sources = 64
    /// As a source: the pool itself, the address being slot * chunkBytes + offset, within one slot. What a held save's Seal takes over.
    public static let pool = sources
    /// As a source: the rank puts the bytes by way of its leases; the address says nothing, and they are not eager.
    public static let streamed = sources + 1

    /// `address`: with a source, the offset in it.
    public var fileOffset: Int, address: UInt64, bytes: Int, eager: Bool
    /// Number of an attached memfd, `pool` or `streamed`; nil: the rank's memory.
    public var source: Int?
    public init(fileOffset: Int, address: UInt64, bytes: Int, eager: Bool, source: Int? = nil) {
        self.fileOffset = fileOffset; self.address = address; self.bytes = bytes; self.eager = eager; self.source = source
    }
    public static func pack(_ extents: [StageExtent]) -> [UInt8] {
        var words: [UInt64] = []
        words.reserveCapacity(extents.count * 4)
        for extent in extents {
            words.append(UInt64(extent.fileOffset))
            words.append(extent.address)
            words.append(UInt64(extent.bytes))
            words.append((extent.eager ? 1 : 0) + 2 * UInt64((extent.source ?? -1) + 1))
        }
        return Words.pack(words)
    }
    public static func unpack(_ bytes: ArraySlice<UInt8>) -> [StageExtent] {
        let words = Words.unpack(bytes)
        var extents: [StageExtent] = []
        extents.reserveCapacity(words.count / 4)
        for at in stride(from: 0, to: words.count, by: 4) {
            let source = Int(words[at + 3] / 2) - 1
            extents.append(StageExtent(fileOffset: Int(words[at]), address: words[at + 1], bytes: Int(words[at + 2]), eager: words[at + 3] & 1 != 0,
                                       source: source < 0 ? nil : source))
        }
        return extents
    }
}

public struct BeginStaging: Codable, Sendable {
    /// Main's own number of this rank's save; never used twice by one main process.
    public var handle: Int
    public var session: String
    public var layout: Int
    public var dataStart: Int
    public var fileBytes: Int
    /// The objects' bytes: file offsets count from the file's first byte.
    public var objects: [StageExtent]
    /// Lazy bytes are read before `eagerStaged` too, and must be the same when they are copied.
    public var verify: Bool
    public init(handle: Int, session: String, layout: Int, dataStart: Int, fileBytes: Int, objects: [StageExtent], verify: Bool = false) {
        self.handle = handle; self.session = session; self.layout = layout; self.dataStart = dataStart
        self.fileBytes = fileBytes; self.objects = objects; self.verify = verify
    }
}

public struct ChunkAssignment: Hashable, Codable, Sendable {
    public var handle: Int, chunk: Int, slot: Int
    public init(handle: Int, chunk: Int, slot: Int) { self.handle = handle; self.chunk = chunk; self.slot = slot }
}

/// Where `copyOut` takes bytes from: the pool, or the read buffer of one instance of a tier worker.
public enum CopySource: Hashable, Codable, Sendable { case pool, buffer(tier: Tier, instance: String) }

public enum StagerRequest: Codable, Sendable {
    /// First message. Descriptors: the pool's segments in order, then the listening socket SOCKET.memory, then the index where it says so.
    case start(StagerStart)
    /// -> sessionOpened. `pid` is the peer's by SO_PEERCRED.
    case openSession(token: String, uid: UInt32, pid: Int32)
    /// Forget the session, its layouts and its memory descriptor. Its saves were cancelled before.
    case closeSession(token: String)
    /// Payload: StageExtent.pack, file offsets counted from the data's start, in file order.
    case layout(session: String, layout: Int)
    case forgetLayout(session: String, layout: Int)
    /// Payload: the header, exactly `dataStart` bytes.
    case begin(BeginStaging)
    /// Chunks may come in any order, those with eager bytes first; copying starts at once.
    case stage([ChunkAssignment])
    /// The rank waits for this save: its lazy chunks are copied by the threads of eager ones too, at normal priority.
    case hurry(handle: Int)
    /// Copy nothing more for this save. -> cancelled, at once, naming the slots still under a copy; slotFree for each later.
    case cancel(handle: Int)
    /// All chunks were staged and told: forget the save.
    case finish(handle: Int)
    /// Descriptor: the lease's memfd (sealed against shrinking and growing); map it and populate its pages. -> leased
    case lease(segment: Int, bytes: Int)
    case release(segment: Int)
    /// Descriptor: the read buffer of this instance of a tier worker; replaces that tier's former one.
    case buffer(tier: Tier, instance: String, bytes: Int)
    /// Payload: `verify` checks of 4 words (source offset, bytes, CRC32C, 0), then `copies` of 4 words (source offset,
    /// segment, offset in it, bytes). Source offsets in the pool: slot * chunkBytes + offset. A check is of one block, and made before a byte
    /// of that is copied. -> copiedOut, once all have passed, or copyFailed: what the leases hold then is nobody's
    case copyOut(id: Int, source: CopySource, verify: Int, copies: Int)
    /// Payload: 4 words each (file offset, segment, offset in it, bytes): streamed bytes of a save, each going on where the one before it
    /// ended. -> putDone, once all are in the pool, or putFailed: no more is taken for this save
    case put(id: Int, handle: Int)
    /// Finish and exit.
    case stop
}

public enum StageFailureKind: String, Codable, Sendable {
    /// The rank's process is gone.
    case gone
    /// An address is not (or no longer) mapped.
    case notMapped
    /// The kernel refuses to read that process and it gave no memory descriptor.
    case notPermitted
    /// No progress for `stuckMilliseconds`.
    case stuck
    case other
}

public struct ChunkStaged: Hashable, Codable, Sendable {
    public var handle: Int, chunk: Int, slot: Int
    /// How many CRCs of the payload belong to this chunk.
    public var blocks: Int
    public init(handle: Int, chunk: Int, slot: Int, blocks: Int) {
        self.handle = handle; self.chunk = chunk; self.slot = slot; self.blocks = blocks
    }
}

public enum StagerReply: Codable, Sendable {
    /// Sent once the segments are mapped.
    case ready
    /// Slots below `slots` are populated: locked, and in huge pages, so many of them. `note` says once why locking was refused.
    case filled(slots: Int, lockedSlots: Int, hugeSlots: Int, note: String?)
    /// `direct`: process_vm_readv is permitted. If not, the rank must attach a memory descriptor.
    case sessionOpened(token: String, direct: Bool)
    /// The rank attached a read-only /proc/self/mem on SOCKET.memory.
    case memoryAttached(token: String)
    /// Payload: the blocks' CRC32C, 32-bit words, one chunk's after another's.
    case staged([ChunkStaged])
    /// Every eager byte of the save is in the pool.
    case eagerStaged(handle: Int)
    /// Nothing more is copied for this save, but slots may still be under a copy: cancel tells which.
    case stageFailed(handle: Int, kind: StageFailureKind, text: String)
    /// As stageFailed: a lazy shard, the one with this byte of the file, was changed since the save began.
    case changed(handle: Int, fileOffset: Int)
    case cancelled(handle: Int, busySlots: [Int])
    /// A slot named in `cancelled` is no longer written to.
    case slotFree(slot: Int)
    case leased(segment: Int)
    case leaseFailed(segment: Int, text: String)
    case putDone(id: Int)
    case putFailed(id: Int, text: String)
    case copiedOut(id: Int)
    /// `offset` is the source offset of the block whose CRC is wrong, if that is the reason.
    case copyFailed(id: Int, offset: Int?, text: String)
}
