// What every part of a tier worker shares: the tier's folders, the mapped memory, the data engine and the way back to main.
import CairnIO
import CairnMessages
import CairnModel
import CairnStore
import Synchronization

/// One folder of the tier. A committing tier has one; a local tier beside a global one may have one per drive.
struct TierRoot: Sendable {
    let path: String
    let folder: Descriptor
    /// Held while this worker lives, where the tier may have only one daemon.
    let lock: Descriptor?
}

final class TierContext: Sendable {
    let start: TierStart
    let roots: [TierRoot]
    let gid: UInt32?
    let direct: Bool
    let data: DataEngine
    let buffer: MemoryMap
    private let pool: [MemoryMap]
    private let channel: BlockingFrameChannel
    private let peer = Mutex<(instance: String, map: MemoryMap)?>(nil)
    private let numbers = Atomic<Int>(1)

    init(start: TierStart, roots: [TierRoot], direct: Bool, data: DataEngine, buffer: MemoryMap, pool: [MemoryMap], channel: BlockingFrameChannel) {
        self.start = start
        self.roots = roots
        self.direct = direct
        self.data = data
        self.buffer = buffer
        self.pool = pool
        self.channel = channel
        gid = start.group.flatMap { ProcessFacts.gid(ofGroup: $0) }
    }

    var isCommitting: Bool { start.form == .committing }
    /// The folder of attempts, decisions and steps.
    var main: Descriptor { roots[0].folder }
    /// Makes temporary names this worker's own.
    var maker: String { "\(start.node).\(start.instance)" }
    var fileMode: UInt32 { isCommitting ? start.fileMode : 0o600 }
    /// A folder may be entered by whoever may read its files.
    var folderMode: UInt32 { isCommitting ? 0o700 | (start.fileMode & 0o044) | (start.fileMode & 0o044) >> 2 : 0o700 }

    /// Part of temporary names: never the same twice in this worker.
    func nextNumber() -> Int { numbers.add(1, ordering: .relaxed).newValue }

    // MARK: folders

    func path(_ run: RunKey, _ name: String = "") -> String { Names.runFolder(run) + (name.isEmpty ? "" : "/" + name) }

    /// The run's folder, made where missing; each folder that was made is synced into its parent.
    func makeRunFolder(_ root: TierRoot, _ run: RunKey) throws {
        for (parent, path) in [("", Names.userFolder(run.uid)), (Names.userFolder(run.uid), Names.runFolder(run))] {
            try makeFolder(root, path, parent: parent)
        }
    }

    func makeFolder(_ root: TierRoot, _ path: String, parent: String) throws {
        if try Files.statIfPresent(root.folder, path)?.isFolder == true { return }
        guard try Files.makeFolder(root.folder, path, mode: folderMode) else { return }
        if let gid {
            let folder = try Files.openFolder(root.folder, path)
            try Files.setGroup(folder, gid: gid)
        }
        if parent.isEmpty { try Files.sync(root.folder) } else { try Files.syncFolder(root.folder, parent) }
    }

    /// Writes under a temporary name, syncs, links to `path`. False: the name was taken; what stands there stays.
    /// The caller syncs the folder.
    @discardableResult
    func publish(_ bytes: [UInt8], as path: String, root: TierRoot) throws -> Bool {
        let slash = path.lastIndex(of: "/")
        let folder = slash.map { String(path[..<$0]) + "/" } ?? "", name = slash.map { String(path[path.index(after: $0)...]) } ?? path
        let temporary = folder + Names.temporary(for: name, maker: maker, number: nextNumber())
        try Files.writeNew(root.folder, temporary, bytes, mode: fileMode)
        defer { try? Files.unlink(root.folder, temporary) }
        if let gid, isCommitting {
            let file = try Files.open(root.folder, temporary, flags: .read)
            try Files.setGroup(file, gid: gid)
        }
        do {
            try Files.link(root.folder, from: temporary, to: path)
            return true
        } catch let error where error.exists {
            return false
        }
    }

    // MARK: memory

    /// Where a chunk to write lies.
    func source(_ source: ChunkSource) throws -> (map: MemoryMap, offset: Int) {
        switch source {
        case .pool(let slot):
            guard slot >= 0, slot < start.pool.slots else { throw TierFailure(kind: .invalid, text: "there is no slot \(slot)") }
            return (pool[PoolShape.segment(ofSlot: slot)], PoolShape.offset(ofSlot: slot))
        case .peer(let instance, let slot):
            let peer = peer.withLock { $0 }
            guard let peer, peer.instance == instance, (slot + 1) * Sizes.chunkBytes <= peer.map.bytes, slot >= 0 else {
                throw TierFailure(kind: .other, text: "the local tier's read buffer of instance \(instance) is not known here: its worker was started anew")
            }
            return (peer.map, slot * Sizes.chunkBytes)
        }
    }

    func setPeer(instance: String, map: MemoryMap) { peer.withLock { $0 = (instance, map) } }

    // MARK: replies

    func reply(_ reply: TierReply, payload: [UInt8] = []) {
        // A reply that cannot be sent has no reader: the main process is gone, and the frame loop ends this one.
        try? channel.send(Frame(json: MessageCoding.encode(reply), payload: payload))
    }

    func fail(_ id: Int, _ error: any Error) { reply(.failed(id: id, Self.failure(error))) }

    static func failure(_ error: any Error) -> TierFailure {
        switch error {
        case let failure as TierFailure: failure
        case let failure as IOFailure:
            TierFailure(kind: failure.isNoSpace ? .noSpace : failure.isMissing ? .missing : .io, text: "\(failure)", path: failure.path)
        case let error as RecordError: TierFailure(kind: .corrupt, text: "\(error)")
        case let error as SliceError:
            switch error {
            case .noSuchTensor(let name, _): TierFailure(kind: .noSuchTensor, text: "\(error)", path: name)
            case .notCovered: TierFailure(kind: .notHere, text: "\(error)")
            case .tooLarge(let bytes, let available): TierFailure(kind: .tooLarge, text: "\(error)", needed: bytes, available: available)
            default: TierFailure(kind: .invalid, text: "\(error)")
            }
        default: TierFailure(kind: .other, text: "\(error)")
        }
    }
}
