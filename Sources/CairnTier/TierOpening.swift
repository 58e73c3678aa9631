// The start of a worker: its folders opened, proved writable, locked where they are one daemon's own, O_DIRECT tried.
import CairnIO
import CairnMessages
import CairnModel
import CairnStore

package struct TierOpening {
    var folders: TierFolders
    var notes: [String] = []
    /// Held for the worker's life.
    var locks: [Descriptor] = []

    init(_ start: TierStart) throws {
        var paths = start.paths, notes: [String] = [], locks: [Descriptor] = [], roots: [TierRoot] = [], failures: [TierFailure] = []
        guard let firstPath = paths.first else { throw TierFailure(kind: .invalid, text: "the \(start.tier) tier has no folder") }
        if start.form == .committing, paths.count > 1 {
            notes.append("a tier that commits is one folder: only '\(firstPath)' is used")
            paths = [firstPath]
        }
        for path in paths {
            do {
                let folder = try Self.open(path, mode: start.form == .beside ? 0o700 : 0o750, mayMake: !start.isRestart)
                if start.exclusive { locks.append(try Self.lock(folder, path)) }
                let direct = try Self.probe(folder, path, start, &notes)
                roots.append(TierRoot(path: path, folder: folder, direct: direct))
            } catch {
                let failure = TierFailure(error)
                guard [.unreachable, .missing, .io].contains(failure.kind) else { throw failure }
                failures.append(failure)
            }
        }
        // Of several folders those that are there carry the tier.
        if roots.isEmpty, let failure = failures.first { throw failure }
        notes += failures.map { "\($0.text); the tier's other folders are used" }
        folders = try TierFolders(start, roots: roots, absent: failures.compactMap(\.path))
        self.notes = notes
        self.locks = locks
    }

    /// The tier's own folder is made; a missing parent is a mount that is missing, and nothing is written beside it.
    private static func open(_ path: String, mode: UInt32, mayMake: Bool) throws -> Descriptor {
        do { return try Files.openRoot(path) } catch {
            guard error.isMissing else { throw TierFailure(error) }
        }
        guard mayMake else {
            throw TierFailure(kind: .missing, text: "the folder '\(path)' is not there any more: mount its filesystem, or restart cairnd to have the folder made", path: path)
        }
        let names = path.split(separator: "/").map(String.init)
        guard path.hasPrefix("/"), let name = names.last else { throw TierFailure(kind: .invalid, text: "'\(path)' is not an absolute path", path: path) }
        do {
            let parent = try Files.openRoot("/" + names.dropLast().joined(separator: "/"))
            try Files.makeFolder(parent, name, mode: mode)
            return try Files.openRoot(path)
        } catch {
            throw TierFailure(kind: .missing, text: "the folder '\(path)' cannot be made: \(error). Make it or mount its filesystem, and give it to this daemon's user", path: path)
        }
    }

    private static func failed(_ error: IOFailure, _ text: String, _ path: String) -> TierFailure {
        TierFailure(kind: TierFailure(error).kind, text: text, path: path)
    }

    private static func lock(_ folder: Descriptor, _ path: String) throws -> Descriptor {
        let lock: Descriptor, taken: Bool
        do {
            lock = try Files.open(folder, Names.lock, flags: [.read, .write, .create], mode: 0o600)
            taken = try tryLock(lock)
        } catch { throw failed(error, "'\(path)' cannot be locked: \(error)", path) }
        guard taken else {
            throw TierFailure(kind: .other, text: "another cairnd uses '\(path)': stop it, or give this one a folder of its own", path: path)
        }
        return lock
    }

    private static func tryLock(_ lock: Descriptor) throws(IOFailure) -> Bool {
        let end = Clock.monotonicNanoseconds() + TierLimits.lockMilliseconds * 1_000_000
        while true {
            if try Files.tryLock(lock) { return true }
            guard Clock.monotonicNanoseconds() < end else { return false }
            Clock.sleep(milliseconds: 10)
        }
    }

    /// Writes and removes a file; whether with O_DIRECT.
    private static func probe(_ folder: Descriptor, _ path: String, _ start: TierStart, _ notes: inout [String]) throws -> Bool {
        let name = Names.temporary(for: "probe", maker: "\(Names.node(start.node)).\(start.instance)", number: 0)
        do {
            let file = try Files.open(folder, name, flags: [.write, .create, .exclusive], mode: 0o600)
            try PositionedIO.write(file, [1], fileOffset: 0, path: name)
        } catch {
            try? Files.unlink(folder, name)
            throw failed(error, "'\(path)' is not writable: \(error). Give the folder to this daemon's user, or free space", path)
        }
        defer { try? Files.unlink(folder, name) }
        guard start.direct != .off else { return false }
        let refused: IOFailure?
        do throws(IOFailure) { refused = try directRefusal(folder, name) } catch { throw failed(error, "'\(path)': \(error)", path) }
        guard let refused else { return true }
        let refusal = "'\(path)' refuses O_DIRECT (\(errnoName(refused.errno)))"
        if start.direct == .on { throw TierFailure(kind: .invalid, text: "\(refusal); set direct: auto, or use another filesystem", path: path) }
        notes.append("\(refusal): buffered I/O is used, which is slower and fills the page cache")
        return false
    }

    /// Why this file, which is there and may be overwritten, takes no O_DIRECT; nil where it does.
    package static func directRefusal(_ folder: Descriptor, _ name: String) throws(IOFailure) -> IOFailure? {
        do throws(IOFailure) {
            let file = try Files.open(folder, name, flags: [.write, .direct])
            let map = try MemoryMap(anonymous: Sizes.alignment)
            let alignment = Files.directAlignment(file)
            guard (1...Sizes.alignment).contains(alignment) else {
                throw IOFailure(operation: "alignment of \(alignment)", errno: IOFailure.notSupported, path: name)
            }
            try PositionedIO.writeAll(file, map, mapOffset: 0, bytes: Sizes.alignment, fileOffset: 0, path: name)
            return nil
        } catch {
            guard error.isNotSupported else { throw error }
            return error
        }
    }
}
