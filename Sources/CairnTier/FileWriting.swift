// A rank's file from its temporary name to its published one.
//   create    temporary name, exact room; write… chunks, O_DIRECT where the filesystem takes it
//             a tier that compresses: frames, packed in order (PackedFile), or chunks as the file turns out (Compressing)
//   publish   exact size, fsync, link of the file, then `.crc`, then the files that stand beside it, then the manifest, each by link; fsync of the folder
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
    /// Nil: files are plain.
    private let compressing: Compressing?
    private let files = Monitor<[Int: OutFile]>([:])
    private let turn = Monitor(0)

    init(_ folders: TierFolders, engine: any DataEngine, memory: TierMemory, replies: Replies, compressing: Compressing? = nil) {
        self.folders = folders
        self.compressing = compressing
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
            if let compressing {
                return compressing.submit(Compressing.Job(write: write, file: file, opened: opened, chunk: Compressing.Chunk(map: source.map, offset: source.offset, bytes: write.bytes)))
            }
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
            let storedBytes = try publish(file, opened, manifestName, manifest, checksums)
            files.withLock { $0[number] = nil }
            compressing?.published(file, storedBytes: storedBytes, isCompressed: file.frames != nil)
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

    private func publish(_ file: OutFile, _ opened: OutFile.Opened, _ manifestName: String, _ manifest: [UInt8], _ checksums: [UInt8]) throws -> Int {
        let root = opened.root, rank = file.key.rank, save = file.key.save, beside = folders.start.form == .beside
        guard case .manifest(rank, let digest)? = Names.rankFile(manifestName), Record.nameDigest(manifest) == digest else {
            throw TierFailure(kind: .invalid, text: "'\(manifestName)' is not the name of rank \(rank)'s manifest")
        }
        let crcs: [UInt32]
        do { crcs = try BlockChecksums.decode(checksums, fileBytes: file.bytes) } catch { throw TierFailure(kind: .invalid, text: "\(error)") }
        var compression: Manifest.Compression?
        if let frames = file.frames {
            let packed = try frames.finish()
            compression = .zstd(storedBytes: packed.bytes, table: packed.table)
        }
        try Files.truncate(opened.descriptor, bytes: compression?.storedBytes ?? file.bytes)
        try synced(opened)

        let data = beside ? Names.besideData(save, rank: rank) : Names.data(rank: rank)
        let crc = beside ? Names.besideChecksums(save, rank: rank) : Names.checksums(rank: rank)
        let standing = Standing(root: root, folder: opened.folder, data: data, crc: crc, bytes: file.bytes, checksums: checksums, crcs: crcs)
        let isCompressed = compression != nil
        if compressing != nil, try standing.isSound(isCompressed: !isCompressed) {
            // The other form of it, by a worker before this one.
            compression = try standing.accept(isCompressed: !isCompressed)
        } else {
            let name = "\(opened.folder)/\(standing.name(isCompressed: isCompressed))"
            do { try Files.link(root.folder, from: opened.path, to: name) } catch {
                // Taken, or an unclear answer: what stands there decides.
                guard try Files.statIfPresent(root.folder, name) != nil else { throw error }
                compression = try standing.accept(isCompressed: isCompressed)
            }
        }
        try folders.unlinkIfPresent(root, opened.path)
        try folders.publishExactly(root, opened.folder, crc, checksums)
        if !beside { try publishFiles(root, opened.folder, data, manifest, compression, crcs) }
        try publishManifest(root, opened.folder, beside ? Names.besideManifest(save, rank: rank, digest: digest) : manifestName, manifest, compression, standing)
        return compression?.storedBytes ?? file.bytes
    }

    /// Two ranks that bring files of one name must bring the same.
    private func publishFiles(_ root: TierRoot, _ folder: String, _ data: String, _ manifest: [UInt8], _ compression: Manifest.Compression?, _ crcs: [UInt32]) throws {
        var said = try folders.decode(Manifest.self, manifest, root, "\(folder)/\(data)")
        guard let files = said.files else { return }
        said.compression = compression
        let reads = try SmallReads(root, "\(folder)/\(data)", said)
        for file in files {
            try folders.publishExactly(root, folder, file.name, try reads.content(of: file, crcs: crcs), limit: StoreLimits.besideFileBytes)
        }
    }

    /// `manifest`: the record as it is where the file is plain; it has its name and its row in either form.
    private func publishManifest(_ root: TierRoot, _ folder: String, _ name: String, _ manifest: [UInt8], _ compression: Manifest.Compression?,
                                 _ standing: Standing) throws {
        var record = manifest
        if let compression {
            var said = try folders.decode(Manifest.self, manifest, root, "\(folder)/\(name)")
            said.compression = compression
            record = Record.encode(said)
            precondition(said.rowDigest(record) == Record.digest(manifest), "the manifest of a file of frames is not that of the plain file")
        }
        guard case .stood(let stood) = try folders.publish(root, folder, name, record) else { return }
        // A worker before this one stored the file in the other form, and had got as far as its manifest.
        let other = try folders.decode(Manifest.self, stood, root, "\(folder)/\(name)")
        guard other.rowDigest(stood) == Record.digest(manifest), other.isCompressed != (compression != nil),
              try standing.accept(isCompressed: other.isCompressed) == other.compression else {
            throw TierFailure(kind: .corrupt, text: "'\(root.absolute(folder))/\(name)' stands there with other bytes", path: "\(root.absolute(folder))/\(name)")
        }
    }

    /// Its time counts as writing's.
    private func synced(_ opened: OutFile.Opened) throws {
        compressing?.speed.begin()
        defer { compressing?.speed.end(bytes: 0) }
        try Files.sync(opened.descriptor, opened.root.absolute(opened.path))
    }

    // MARK: abandon

    /// On the receiving thread; gives what is left to be unlinked.
    func abandon(_ number: Int) -> OutFile.Opened? {
        files.withLock { $0.removeValue(forKey: number) }?.abandon()
    }
}
