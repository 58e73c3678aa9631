// A tier worker's beginning: folders, locks, memory, and what the filesystem and the kernel allow, tried for real.
import CairnIO
import CairnMessages
import CairnModel
import CairnStore

enum TierStarting {
    static func make(_ start: TierStart, _ frame: Frame, _ channel: BlockingFrameChannel) throws -> (TierContext, notes: [String]) {
        guard frame.descriptors.count == start.pool.segments + 1 else {
            throw TierFailure(kind: .invalid, text: "\(frame.descriptors.count) descriptors came with start, not \(start.pool.segments + 1)")
        }
        if let group = start.group, ProcessFacts.gid(ofGroup: group) == nil {
            throw TierFailure(kind: .invalid, text: "files.group: there is no group '\(group)' on this machine")
        }
        var notes: [String] = []
        var roots: [TierRoot] = []
        var direct = start.direct != .off
        if start.direct == .off { notes.append("O_DIRECT is switched off by the configuration: buffered I/O is used") }
        for path in start.paths {
            let root = try openRoot(path, start)
            roots.append(root)
            try checkWritable(root, start)
            guard direct, let refusal = refusesDirect(root, start) else { continue }
            guard start.direct == .auto else {
                throw TierFailure(kind: .other, text: "direct: on is asked for, but '\(path)' refuses O_DIRECT (\(refusal)); say direct: auto", path: path)
            }
            direct = false
            notes.append("'\(path)' refuses O_DIRECT (\(refusal)): buffered I/O is used")
        }
        let pool = try (0..<start.pool.segments).map {
            try SharedMemory(descriptor: frame.descriptors[$0], bytes: start.pool.bytes(ofSegment: $0)).map(writable: false)
        }
        let bufferBytes = (start.bufferSlots + TierStart.readBackSlots) * Sizes.chunkBytes
        let buffer = try SharedMemory(descriptor: frame.descriptors[start.pool.segments], bytes: bufferBytes).map(writable: true)
        let (data, note) = try DataEngine.make(ring: start.ring, depth: start.depth)
        if let note { notes.append(note) }
        return (TierContext(start: start, roots: roots, direct: direct, data: data, buffer: buffer, pool: pool, channel: channel), notes)
    }

    private static func openRoot(_ path: String, _ start: TierStart) throws -> TierRoot {
        let folder: Descriptor
        do {
            folder = try Files.openRoot(path)
        } catch where error.isMissing {
            // Only the last folder is made: a mount that is missing must not be written beside.
            let parts = path.split(separator: "/")
            let parent = "/" + parts.dropLast().joined(separator: "/")
            do {
                _ = try Files.makeFolder(try Files.openRoot(parent), String(parts.last ?? ""), mode: start.form == .committing ? 0o755 : 0o700)
                folder = try Files.openRoot(path)
            } catch {
                throw TierFailure(kind: .missing, text: "'\(path)' does not exist and cannot be made: \(error); create it, or mount what belongs there", path: path)
            }
        } catch {
            throw TierFailure(kind: .io, text: "'\(path)' cannot be opened: \(error)", path: path)
        }
        guard start.tier == .local else { return TierRoot(path: path, folder: folder, lock: nil) }
        do {
            let lock = try Files.open(folder, Names.lock, flags: [.read, .write, .create], mode: 0o600)
            guard try Files.tryLock(lock) else {
                throw TierFailure(kind: .other, text: "another cairnd uses '\(path)': two daemons cannot share a local folder; give each its own", path: path)
            }
            return TierRoot(path: path, folder: folder, lock: lock)
        } catch let error as IOFailure {
            throw notWritable(path, error)
        }
    }

    private static func notWritable(_ path: String, _ error: any Error) -> TierFailure {
        TierFailure(kind: .io, text: "'\(path)' is not writable for uid \(ProcessFacts.uid): \(error); change its owner or mode, or run the daemon as its owner", path: path)
    }

    private static func probeName(_ start: TierStart) -> String { Names.temporary(for: "probe", maker: "\(start.node).\(start.instance)", number: 0) }

    private static func checkWritable(_ root: TierRoot, _ start: TierStart) throws {
        do {
            let name = probeName(start)
            _ = try Files.open(root.folder, name, flags: [.read, .write, .create, .exclusive], mode: 0o600)
            try Files.unlink(root.folder, name)
        } catch {
            throw notWritable(root.path, error)
        }
    }

    /// What a real aligned write with O_DIRECT says; nil if it works.
    private static func refusesDirect(_ root: TierRoot, _ start: TierStart) -> String? {
        let name = probeName(start) + "-direct"
        defer { try? Files.unlink(root.folder, name) }
        do {
            let file = try Files.open(root.folder, name, flags: [.read, .write, .create, .exclusive, .direct], mode: 0o600)
            let memory = try MemoryMap(anonymous: Sizes.alignment)
            try PositionedIO.writeAll(file, memory, mapOffset: 0, bytes: Sizes.alignment, fileOffset: 0)
            return nil
        } catch {
            return "\(error)"
        }
    }
}
