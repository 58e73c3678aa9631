// A rank's file from its temporary name to its published one.
//   create    temporary name, exact room; write… chunks, O_DIRECT where the filesystem takes it
//   publish   exact size, fsync, link of the file, then `.crc`, then the manifest, each by link; fsync of the folder
// (1) A manifest stands only beside the whole, synced file that it describes.
// (2) A taken name is accepted only if what stands there is the same: equal `.crc`, else every block is read and checked.
// (3) A decision ends a save: no file is made for it any more, and a file whose folder was renamed away has `ended`.
import CairnIO
import CairnMessages
import CairnModel
import CairnStore

final class FileWriting: Sendable {
    private let folders: TierFolders
    private let engine: any DataEngine
    private let memory: TierMemory
    private let replies: Replies
    private let files = Monitor<[Int: OutFile]>([:])
    private let turn = Monitor(0)

    init(_ folders: TierFolders, engine: any DataEngine, memory: TierMemory, replies: Replies) {
        self.folders = folders
        self.engine = engine
        self.memory = memory
        self.replies = replies
    }

    /// On the receiving thread, so that an `abandon` which follows finds it.
    func register(number: Int, key: RankSaveKey, fileTry: Int, bytes: Int) -> OutFile {
        let file = OutFile(number: number, key: key, fileTry: fileTry, bytes: bytes)
        files.withLock { $0[number] = file }
        return file
    }

    func file(_ number: Int) throws -> OutFile {
        guard let file = files.withLock({ $0[number] }) else { throw TierFailure(kind: .other, text: "file \(number) is unknown: it was abandoned or published") }
        return file
    }

    // MARK: create

    func create(_ file: OutFile) throws {
        do {
            let opened = try open(file)
            if !file.open(opened) { try folders.unlinkIfPresent(opened.root, opened.path) }
        } catch {
            let failure = TierFailure(error)
            file.fail(failure)
            throw failure
        }
    }

    private func open(_ file: OutFile) throws -> OutFile.Opened {
        let run = Names.runFolder(file.key.run)
        let beside = folders.start.form == .beside
        if !beside { try refuseIfDecided(file.key) }
        let needed = file.bytes + folders.start.reserveBytes
        let (root, free) = try chooseRoot(needed: needed)
        guard free >= needed else {
            let reserve = folders.start.reserveBytes == 0 ? "" : ", and a reserve of \(Self.mebibytes(folders.start.reserveBytes))"
            throw TierFailure(kind: .noSpace, text: "no space on '\(root.path)': \(free >> 20) MiB are free, \(Self.mebibytes(file.bytes))\(reserve) are needed",
                              path: root.path, needed: needed, available: free)
        }
        let folder = beside ? run : "\(run)/\(Names.savingFolder(file.key.save))"
        try folders.makeFolders(root, folder)
        if !beside, file.fileTry > 1 { removeEarlierTries(root, folder, rank: file.key.rank) }
        var temporary = Names.temporaryData(rank: file.key.rank, maker: folders.maker, fileTry: file.fileTry)
        if beside { temporary = ".\(file.key.save)\(temporary)" }
        var flags: OpenFlags = [.read, .write, .create, .exclusive]
        if root.direct { flags.insert(.direct) }
        let descriptor = try Files.open(root.folder, "\(folder)/\(temporary)", flags: flags, mode: folders.start.fileMode)
        let opened = OutFile.Opened(root: root, descriptor: descriptor, folder: folder, temporary: temporary)
        do {
            try folders.setOwner(descriptor, mode: folders.start.fileMode)
            // Held while this worker lives, so that a scan of another daemon on this node leaves the file alone.
            guard try Files.tryLock(descriptor) else { throw TierFailure(kind: .io, text: "'\(root.absolute(opened.path))' was taken for a dead worker's file") }
            try Files.allocate(descriptor, bytes: DataOperation.padded(file.bytes, direct: root.direct))
        } catch {
            try? Files.unlink(root.folder, opened.path)
            var failure = TierFailure(error)
            if failure.kind == .noSpace { (failure.needed, failure.available) = (file.bytes, free) }
            throw failure
        }
        return opened
    }

    /// What workers of this daemon that are gone left of this rank's file: its folder becomes the step's, and would keep it.
    private func removeEarlierTries(_ root: TierRoot, _ folder: String, rank: Int) {
        for entry in (try? folders.names(root, folder)) ?? [] where Names.isTemporary(entry.name, rank: rank, ofNode: folders.node) {
            try? Files.unlink(root.folder, "\(folder)/\(entry.name)")
        }
    }

    /// The folders in turn, so that the files of several ranks are written by several drives at once; those that have less than
    /// half of what the roomiest has free, or too little for this file, are passed over.
    private func chooseRoot(needed: Int) throws -> (root: TierRoot, free: Int) {
        var found: [(root: TierRoot, free: Int)] = [], failure: IOFailure?
        for root in folders.roots {
            do { found.append((root, try Files.space(root.folder).freeBytes)) } catch { failure = error }
        }
        guard let roomiest = found.max(by: { $0.free < $1.free }) else { throw failure ?? IOFailure(operation: "space", errno: IOFailure.inputOutput) }
        let fitting = found.filter { $0.free >= needed && $0.free >= roomiest.free / 2 }
        guard !fitting.isEmpty else { return roomiest }
        return turn.withLock { turn in
            turn = (turn + 1) % fitting.count
            return fitting[turn]
        }
    }

    /// Rounded up: what is needed.
    private static func mebibytes(_ bytes: Int) -> String { "\((bytes + (1 << 20) - 1) >> 20) MiB" }

    private func refuseIfDecided(_ key: RankSaveKey) throws {
        let path = "\(Names.runFolder(key.run))/\(Names.decision(key.save))"
        if try Files.statIfPresent(folders.first.folder, path) != nil {
            throw TierFailure(kind: .ended, text: "save \(key.save) is decided already", path: folders.first.absolute(path))
        }
    }

    // MARK: write

    /// On the receiving thread: hands the chunk to the engine.
    func write(_ write: ChunkWrite) {
        let replies = replies
        do {
            let file = try file(write.file)
            let opened = try file.usable()
            let source = try memory.source(write.source)
            precondition(write.bytes > 0 && write.bytes <= Sizes.chunkBytes, "a chunk of \(write.bytes) bytes")
            let bytes = DataOperation.padded(write.bytes, direct: opened.root.direct)
            engine.submit(DataOperation(
                kind: .write, file: opened.descriptor, path: opened.root.absolute(opened.path), map: source.map, mapOffset: source.offset,
                fileOffset: write.chunk * Sizes.chunkBytes, bytes: bytes, least: bytes, direct: opened.root.direct) { failure in
                    guard let failure else { return replies.send(.done(id: write.id)) }
                    let reason = TierFailure(failure)
                    file.fail(reason)
                    replies.send(.failed(id: write.id, reason))
                })
        } catch { replies.send(.failed(id: write.id, TierFailure(error))) }
    }

    func sync(_ number: Int) throws {
        let file = try file(number)
        let opened = try file.usable()
        do { try Files.syncData(opened.descriptor, opened.root.absolute(opened.path)) } catch {
            file.fail(TierFailure(error))
            throw error
        }
    }

    // MARK: publish

    func publish(_ number: Int, manifestName: String, manifest: [UInt8], checksums: [UInt8]) throws {
        let file = try file(number)
        let opened = try file.usable()
        do {
            try publish(file, opened, manifestName, manifest, checksums)
            files.withLock { $0[number] = nil }
        } catch {
            var failure = TierFailure(error)
            // The folder is gone: the save was decided and renamed without this file.
            if failure.kind == .missing, folders.start.form == .committing {
                do { try refuseIfDecided(file.key) } catch { failure = TierFailure(error) }
            }
            file.fail(failure)
            throw failure
        }
    }

    private func publish(_ file: OutFile, _ opened: OutFile.Opened, _ manifestName: String, _ manifest: [UInt8], _ checksums: [UInt8]) throws {
        let root = opened.root, rank = file.key.rank, save = file.key.save, beside = folders.start.form == .beside
        guard case .manifest(rank, let digest)? = Names.rankFile(manifestName), Record.nameDigest(manifest) == digest else {
            throw TierFailure(kind: .invalid, text: "'\(manifestName)' is not the name of rank \(rank)'s manifest")
        }
        let crcs: [UInt32]
        do { crcs = try BlockChecksums.decode(checksums, fileBytes: file.bytes) } catch { throw TierFailure(kind: .invalid, text: "\(error)") }
        try Files.truncate(opened.descriptor, bytes: file.bytes)
        try Files.sync(opened.descriptor, root.absolute(opened.path))

        let data = beside ? Names.besideData(save, rank: rank) : Names.data(rank: rank)
        let crc = beside ? Names.besideChecksums(save, rank: rank) : Names.checksums(rank: rank)
        let record = beside ? Names.besideManifest(save, rank: rank, digest: digest) : manifestName
        do { try Files.link(root.folder, from: opened.path, to: "\(opened.folder)/\(data)") } catch {
            // Taken, or an unclear answer: what stands there decides.
            guard try Files.statIfPresent(root.folder, "\(opened.folder)/\(data)") != nil else { throw error }
            try accept(root, "\(opened.folder)/\(data)", "\(opened.folder)/\(crc)", file.bytes, checksums, crcs)
        }
        try folders.unlinkIfPresent(root, opened.path)
        try folders.publishExactly(root, opened.folder, crc, checksums)
        try folders.publishExactly(root, opened.folder, record, manifest)
    }

    private func accept(_ root: TierRoot, _ path: String, _ crcPath: String, _ bytes: Int, _ checksums: [UInt8], _ crcs: [UInt32]) throws {
        func taken(_ reason: String) -> TierFailure {
            TierFailure(kind: .corrupt, text: "'\(root.absolute(path))' stands there and \(reason)", path: root.absolute(path))
        }
        guard try Files.stat(root.folder, path).bytes == bytes else { throw taken("has another size") }
        if let standing = try? Files.readAll(root.folder, crcPath, limit: checksums.count) {
            guard standing == checksums else { throw taken("has other checksums") }
            return
        }
        // Its worker ended between the two links: only its bytes can say.
        let file = try Files.open(root.folder, path, flags: .read)
        for (block, crc) in crcs.enumerated() {
            let part = try PositionedIO.read(file, bytes: min(Sizes.blockBytes, bytes - block * Sizes.blockBytes), fileOffset: block * Sizes.blockBytes, path: path)
            guard Checksum.crc32c(part) == crc else { throw taken("has other bytes in block \(block)") }
        }
        try Files.sync(file, root.absolute(path))
    }

    // MARK: abandon

    /// On the receiving thread; gives what is left to be unlinked.
    func abandon(_ number: Int) -> OutFile.Opened? {
        files.withLock { $0.removeValue(forKey: number) }?.abandon()
    }
}
