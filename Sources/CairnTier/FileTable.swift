// The files being written: one per rank's save and try, under a temporary name until it is whole and synced.
//   committing: .saving-SAVEID/.rank-00003.MAKER.TRY.part -> .saving-SAVEID/rank-00003.safetensors, .crc, -DIGEST.json
//   beside:     .rank-00003.…part (with the save's id)    -> SAVEID.rank-00003.safetensors, .crc, -DIGEST.json
// (1) An error on a file voids it: nothing is tried twice on it, main makes a new one under a new name.
// (2) A manifest is linked only after the data file and its checksums are linked and synced.
// (3) A name that is taken is accepted only if what stands there is the same save's same bytes.
import CairnIO
import CairnMessages
import CairnModel
import CairnStore
import Synchronization

final class OpenFile: Sendable {
    let key: RankSaveKey
    let root: TierRoot
    /// Relative to the root: the folder, and the temporary's name in it.
    let folder: String, temporary: String
    let file: Descriptor
    let bytes: Int

    init(key: RankSaveKey, root: TierRoot, folder: String, temporary: String, file: Descriptor, bytes: Int) {
        self.key = key
        self.root = root
        self.folder = folder
        self.temporary = temporary
        self.file = file
        self.bytes = bytes
    }
    var temporaryPath: String { "\(folder)/\(temporary)" }
    var shownPath: String { "\(root.path)/\(temporaryPath)" }
}

final class FileTable: Sendable {
    private let context: TierContext
    private let open = Mutex<[Int: OpenFile]>([:])
    private let reading = Mutex<[RankSaveKey: (file: Descriptor, path: String, crcs: [UInt32], bytes: Int)]>([:])

    init(_ context: TierContext) { self.context = context }

    private func file(_ number: Int) throws -> OpenFile {
        guard let file = open.withLock({ $0[number] }) else { throw TierFailure(kind: .other, text: "file \(number) is not open: it was given up") }
        return file
    }

    // MARK: writing

    func create(_ number: Int, _ key: RankSaveKey, fileTry: Int, bytes: Int) throws {
        let root = try chooseRoot(bytes)
        try context.makeRunFolder(root, key.run)
        let run = context.path(key.run), folder: String, temporary: String
        if context.isCommitting {
            if try Files.statIfPresent(root.folder, "\(run)/\(Names.decision(key.save))") != nil {
                throw TierFailure(kind: .ended, text: "save \(key.save) was decided already")
            }
            folder = "\(run)/\(Names.savingFolder(key.save))"
            try context.makeFolder(root, folder, parent: run)
            temporary = Names.temporaryData(rank: key.rank, maker: context.maker, fileTry: context.nextNumber())
        } else {
            folder = run
            temporary = Names.temporary(for: Names.besideData(key.save, rank: key.rank), maker: context.maker, number: context.nextNumber())
        }
        let path = "\(folder)/\(temporary)"
        var flags: OpenFlags = [.read, .write, .create, .exclusive]
        if context.direct { flags.insert(.direct) }
        let file = try Files.open(root.folder, path, flags: flags, mode: context.fileMode)
        do {
            if let gid = context.gid, context.isCommitting { try Files.setGroup(file, gid: gid) }
            _ = try Files.allocate(file, bytes: roundUp(bytes))
        } catch {
            try? Files.unlink(root.folder, path)
            throw error.isNoSpace ? noSpace(root, bytes) : TierContext.failure(error)
        }
        open.withLock { $0[number] = OpenFile(key: key, root: root, folder: folder, temporary: temporary, file: file, bytes: bytes) }
    }

    private func roundUp(_ bytes: Int) -> Int { (bytes + Sizes.alignment - 1) / Sizes.alignment * Sizes.alignment }

    /// The folder with the most room beside what is being written there already.
    private func chooseRoot(_ bytes: Int) throws -> TierRoot {
        let promised = open.withLock { Array($0.values) }
        var best: (root: TierRoot, free: Int)?
        for root in context.roots {
            let space = try Files.space(root.folder)
            let free = space.freeBytes - context.start.reserveBytes
            // Files that are preallocated count already; several drives with equal room take turns by what is open on them.
            let turn = promised.reduce(0) { $0 + ($1.root.path == root.path ? $1.bytes : 0) }
            if best.map({ free - turn > $0.free }) ?? true { best = (root, free - turn) }
        }
        guard let best else { throw TierFailure(kind: .other, text: "the tier has no folder") }
        let free = try Files.space(best.root.folder).freeBytes - context.start.reserveBytes
        guard free >= bytes else { throw noSpace(best.root, bytes) }
        return best.root
    }

    private func noSpace(_ root: TierRoot, _ bytes: Int) -> TierFailure {
        let free = (try? Files.space(root.folder).freeBytes) ?? 0
        let reserve = context.start.reserveBytes
        return TierFailure(kind: .noSpace, text: "'\(root.path)' has \(free) bytes free" + (reserve > 0 ? " (\(reserve) are reserved)" : "") + ", \(bytes) are needed; "
            + "delete steps (`cairn delete`), lower retention, or enlarge the filesystem", path: root.path, needed: bytes, available: max(0, free - reserve))
    }

    func write(_ write: ChunkWrite) {
        let context = context
        do {
            let file = try file(write.file)
            let (map, offset) = try context.source(write.source)
            let at = write.chunk * Sizes.chunkBytes
            guard write.bytes > 0, write.bytes <= Sizes.chunkBytes, at + write.bytes <= file.bytes else {
                throw TierFailure(kind: .invalid, text: "chunk \(write.chunk) of \(write.bytes) bytes is not in a file of \(file.bytes)")
            }
            // The stager zeroed the last chunk up to the alignment; publish cuts the file to its size.
            let bytes = context.direct ? roundUp(write.bytes) : write.bytes
            context.data.submit(Transfer(kind: .write, file: file.file, path: file.shownPath, map: map, mapOffset: offset, bytes: bytes, needed: bytes,
                                         fileOffset: at) { failure in
                context.reply(failure.map { .failed(id: write.id, $0) } ?? .done(id: write.id))
            })
        } catch {
            context.fail(write.id, error)
        }
    }

    func sync(_ number: Int) throws {
        let file = try file(number)
        try Files.syncData(file.file, file.shownPath)
    }

    func publish(_ number: Int, manifestName: String, manifest: [UInt8], checksums: [UInt8]) throws {
        let file = try file(number)
        let key = file.key, root = file.root
        try Files.truncate(file.file, bytes: file.bytes)
        try Files.sync(file.file, file.shownPath)
        let data: String, sums: String, record: String
        if context.isCommitting {
            data = Names.data(rank: key.rank)
            sums = Names.checksums(rank: key.rank)
            record = manifestName
        } else {
            data = Names.besideData(key.save, rank: key.rank)
            sums = Names.besideChecksums(key.save, rank: key.rank)
            record = "\(key.save).\(manifestName)"
        }
        do {
            try Files.link(root.folder, from: file.temporaryPath, to: "\(file.folder)/\(data)")
        } catch where error.exists {
            try acceptStanding(file, data: data, sums: sums, checksums: checksums)
        } catch where error.isMissing && context.isCommitting {
            throw TierFailure(kind: .ended, text: "the folder of save \(key.save) is gone: it was decided")
        }
        try context.publish(checksums, as: "\(file.folder)/\(sums)", root: root)
        // (2) What the manifest speaks of is on disk before the manifest's name is.
        try Files.syncFolder(root.folder, file.folder)
        try context.publish(manifest, as: "\(file.folder)/\(record)", root: root)
        try Files.syncFolder(root.folder, file.folder)
        try? Files.unlink(root.folder, file.temporaryPath)
        open.withLock { $0[number] = nil }
    }

    /// (3) An earlier try of this very save got so far.
    private func acceptStanding(_ file: OpenFile, data: String, sums: String, checksums: [UInt8]) throws {
        let path = "\(file.folder)/\(data)", shown = "\(file.root.path)/\(path)"
        guard try Files.stat(file.root.folder, path).bytes == file.bytes else {
            throw TierFailure(kind: .other, text: "'\(shown)' stands already, with another size", path: shown)
        }
        if let standing = try? Files.readAll(file.root.folder, "\(file.folder)/\(sums)", limit: checksums.count + 1) {
            guard standing == checksums else { throw TierFailure(kind: .other, text: "'\(shown)' stands already, with other checksums", path: shown) }
        }
        let crcs = try BlockChecksums.decode(checksums, fileBytes: file.bytes)
        let standing = try Files.open(file.root.folder, path, flags: .read)
        for (block, crc) in crcs.enumerated() {
            let at = block * Sizes.blockBytes, count = min(Sizes.blockBytes, file.bytes - at)
            guard Checksum.crc32c(try PositionedIO.read(standing, bytes: count, fileOffset: at, path: shown)) == crc else {
                throw TierFailure(kind: .corrupt, text: "'\(shown)' stands already, with another block \(block)", path: shown, block: block)
            }
        }
        try Files.sync(standing, shown)
    }

    func abandon(_ number: Int) {
        guard let file = open.withLock({ $0.removeValue(forKey: number) }) else { return }
        // Writes in flight keep the descriptor; they land in a file without a name.
        try? Files.unlink(file.root.folder, file.temporaryPath)
    }

    // MARK: reading back

    /// A published file of this tier and its checksums; a few are kept open.
    private func published(_ key: RankSaveKey) throws -> (file: Descriptor, path: String, crcs: [UInt32], bytes: Int) {
        if let known = reading.withLock({ $0[key] }) { return known }
        guard !context.isCommitting else { throw TierFailure(kind: .invalid, text: "only a local tier beside a global one is read back") }
        for root in context.roots {
            let path = context.path(key.run, Names.besideData(key.save, rank: key.rank))
            guard let status = try Files.statIfPresent(root.folder, path) else { continue }
            let shown = "\(root.path)/\(path)"
            let sums = try Files.readAll(root.folder, context.path(key.run, Names.besideChecksums(key.save, rank: key.rank)),
                                         limit: BlockChecksums.fileBytes(blocks: Sizes.blocks(ofFile: status.bytes)) + 1)
            let crcs: [UInt32]
            do { crcs = try BlockChecksums.decode(sums, fileBytes: status.bytes) } catch {
                throw TierFailure(kind: .corrupt, text: "the checksums of '\(shown)': \(error)", path: shown)
            }
            let file = try Files.open(root.folder, path, flags: context.direct ? [.read, .direct] : .read)
            let found = (file, shown, crcs, status.bytes)
            reading.withLock { if $0.count >= 8 { $0.removeAll() }; $0[key] = found }
            return found
        }
        throw TierFailure(kind: .missing, text: "this tier does not hold \(key)")
    }

    func readBack(_ id: Int, _ key: RankSaveKey, chunk: Int, bytes: Int, slot: Int) {
        let context = context
        do {
            let (file, path, crcs, fileBytes) = try published(key)
            guard bytes == Sizes.bytes(ofChunk: chunk, fileBytes: fileBytes), bytes > 0, (slot + 1) * Sizes.chunkBytes <= context.buffer.bytes else {
                throw TierFailure(kind: .invalid, text: "'\(path)' has no chunk \(chunk) of \(bytes) bytes")
            }
            let offset = slot * Sizes.chunkBytes, aligned = roundUp(bytes)
            context.data.read(file: file, path: path, into: context.buffer, at: offset, bytes: context.direct ? aligned : bytes, needed: bytes,
                              fileOffset: chunk * Sizes.chunkBytes) { failure in
                if let failure { return context.reply(.failed(id: id, failure)) }
                for block in 0..<(bytes + Sizes.blockBytes - 1) / Sizes.blockBytes {
                    let at = block * Sizes.blockBytes, number = chunk * Sizes.blocksPerChunk + block
                    guard context.buffer.crc32c(offset: offset + at, bytes: min(Sizes.blockBytes, bytes - at)) == crcs[number] else {
                        return context.reply(.failed(id: id, TierFailure(
                            kind: .corrupt, text: "'\(path)': block \(number) is not what was staged", path: path, block: number)))
                    }
                }
                if aligned > bytes { context.buffer.zero(offset: offset + bytes, bytes: aligned - bytes) }
                context.reply(.done(id: id))
            }
        } catch {
            context.fail(id, error)
        }
    }

    func sidecars(_ id: Int, _ key: RankSaveKey) throws -> (TierReply, [UInt8]) {
        let prefix = "\(key.save)."
        for root in context.roots {
            guard try Files.statIfPresent(root.folder, context.path(key.run)) != nil else { continue }
            for entry in try Files.list(root.folder, context.path(key.run)) where entry.name.hasPrefix(prefix) {
                let name = String(entry.name.dropFirst(prefix.count))
                guard name.hasPrefix(Names.data(rank: key.rank).replacing(".safetensors", with: "-")), name.hasSuffix(".json") else { continue }
                let manifest = try Files.readAll(root.folder, context.path(key.run, entry.name), limit: StoreLimits.recordBytes)
                let sums = try Files.readAll(root.folder, context.path(key.run, Names.besideChecksums(key.save, rank: key.rank)), limit: 1 << 30)
                return (.sidecars(id: id, manifestName: name, manifestBytes: manifest.count), manifest + sums)
            }
        }
        throw TierFailure(kind: .missing, text: "this tier has no manifest of \(key)")
    }
}
