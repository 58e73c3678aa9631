// One rank's record of one save: `rank-00003-DIGEST.json`, published after the whole, synced file that it describes.
// A manifest alone proves nothing about the other ranks: the commit names the manifests that belong together.
import CairnIO
import CairnModel

public struct Manifest: RecordValue, Hashable {
    public var format: String
    public var uid: UInt32
    public var run: String
    public var attempt: Int
    public var step: Int
    public var save: SaveID
    public var rank: Int
    public var worldSize: Int
    /// Of the rank's registered shards.
    public var layoutDigest: String
    public var fileBytes: Int
    public var dataStart: Int
    public var blockCount: Int
    /// SHA-256 of the `.crc` file.
    public var crcDigest: String
    /// SHA-256 of the layout digest and the plain file's CRCs: equal on every tier, also where a tier compresses.
    public var contentDigest: String
    /// Rank 0's own count of `save()` calls in this attempt: with the attempt it is the commit's sequence. Nil on other ranks.
    public var count: Int?
    /// The step that the attempt restored, said by rank 0: the commit's parent, whichever daemon commits.
    public var parent: CommitSequence?
    /// The save that this rank made before this one in its attempt, if that is known: earlier saves that lie between will never
    /// have a part of it.
    public var previous: SaveID?
    /// The ranks that take part, ascending, rank 0 among them; nil: all. Equal in all manifests of a save.
    public var participants: [Int]?
    /// How far the save was to go: what a start finishes of it.
    public var upto: Level
    /// CRC32C of shared objects' bytes where known, so that a commit compares them without reading.
    public var objects: [String: UInt32]?
    /// What the caller gave; rank 0's goes into the commit.
    public var metadata: [String: String]?
    /// Files that stand beside the data file on the committing tier: each is these bytes of it, where the block checksums cover them.
    public var files: [File]?
    /// How the data file is stored; nil: plain. All else is the same on every tier: what a row and the manifest's name say is the digest
    /// of the record without this (`rowDigest`).
    public var compression: Compression?
    /// UTC, ISO 8601 with seconds.
    public var savedAt: String
    public var node: String

    public struct File: Codable, Hashable, Sendable {
        public var name: String, offset: Int, bytes: Int
        public init(name: String, offset: Int, bytes: Int) { self.name = name; self.offset = offset; self.bytes = bytes }
    }

    public struct Compression: Codable, Hashable, Sendable {
        public enum Method: String, Codable, Sendable {
            /// Frames and a seek table (`SeekTable`), in a file whose name goes on with `.zst`.
            case zstd
        }
        public var method: Method
        /// Of the file as it is stored.
        public var storedBytes: Int
        /// SHA-256 of its seek table.
        public var tableDigest: String

        public init(method: Method, storedBytes: Int, tableDigest: String) {
            self.method = method; self.storedBytes = storedBytes; self.tableDigest = tableDigest
        }

        public static func zstd(storedBytes: Int, table: [UInt8]) -> Compression {
            Compression(method: .zstd, storedBytes: storedBytes, tableDigest: Digests.full(table))
        }

        func problem(fileBytes: Int) -> String? {
            let table = SeekTable.bytes(plainBytes: fileBytes)
            if storedBytes <= table || storedBytes - table > StoreLimits.fileBytes * 2 { return "\(storedBytes) stored bytes of \(fileBytes)" }
            return Digests.isFull(tableDigest) ? nil : "a digest is not one"
        }
    }

    public init(run: RunKey, save: SaveID, rank: Int, worldSize: Int, layoutDigest: String, fileBytes: Int, dataStart: Int,
                crcs: [UInt32], count: Int?, parent: CommitSequence? = nil, previous: SaveID? = nil, participants: [Int]? = nil, upto: Level = .committed, objects: [String: UInt32]? = nil, metadata: [String: String]? = nil,
                files: [File]? = nil, savedAt: String, node: String) {
        format = FileHeader.format
        uid = run.uid
        self.run = run.name
        attempt = save.attempt
        step = save.step
        self.save = save
        self.rank = rank
        self.worldSize = worldSize
        self.layoutDigest = layoutDigest
        self.fileBytes = fileBytes
        self.dataStart = dataStart
        blockCount = crcs.count
        crcDigest = Digests.full(BlockChecksums.encode(crcs))
        contentDigest = Self.contentDigest(layoutDigest: layoutDigest, crcs: crcs)
        self.count = count
        self.parent = parent
        self.previous = previous
        self.participants = participants
        self.upto = upto
        self.objects = objects
        self.metadata = metadata
        self.files = files
        self.savedAt = savedAt
        self.node = node
    }

    /// Frames and a seek table, not the plain file.
    public var isCompressed: Bool { compression != nil }
    /// Of the data file.
    public var storedBytes: Int { compression?.storedBytes ?? fileBytes }

    public var runKey: RunKey { RunKey(uid: uid, name: run) }

    public static func contentDigest(layoutDigest: String, crcs: [UInt32]) -> String {
        var bytes = Array(layoutDigest.utf8)
        bytes.reserveCapacity(bytes.count + crcs.count * 4)
        for crc in crcs { BlockChecksums.append(crc, to: &bytes) }
        return Digests.full(bytes)
    }

    public func problem() -> String? {
        if !RunKey.isValidName(run) { return "the run's name '\(run)' is not valid" }
        if save.attempt != attempt || save.step != step { return "save \(save) is not of attempt \(attempt) and step \(step)" }
        if attempt < 1 || step < 0 || save.attemptTry < 1 { return "save \(save) has an attempt or try below 1" }
        if !(1...StoreLimits.worldSize).contains(worldSize) || !(0..<worldSize).contains(Copies.rank(rank)) { return "rank \(rank) of \(worldSize)" }
        if (count != nil) != (rank == 0) { return "rank 0, and no other, says its count of saves" }
        if parent != nil && rank != 0 { return "rank 0, and no other, says the parent" }
        if let previous, previous.attempt != attempt || previous >= save { return "save \(previous) is not before \(save) in its attempt" }
        if let participants {
            if participants.first != 0 || !participants.contains(Copies.rank(rank)) { return "rank 0 and rank \(rank) are not among the participants" }
            if zip(participants, participants.dropFirst()).contains(where: { $0 >= $1 }) || (participants.last ?? 0) >= worldSize {
                return "the participants are not ascending ranks of a world of \(worldSize)"
            }
        }
        if upto == .failed || upto == .accepted { return "a save up to '\(upto)'" }
        if let count, count < 1 || count > Int(UInt32.max) { return "a count of \(count) saves" }
        if dataStart < Sizes.alignment || !dataStart.isMultiple(of: Sizes.alignment) || dataStart > fileBytes || fileBytes > StoreLimits.fileBytes {
            return "data begins at \(dataStart) of \(fileBytes) bytes"
        }
        if blockCount != Sizes.blocks(ofFile: fileBytes) { return "\(blockCount) blocks for \(fileBytes) bytes" }
        if !Digests.isHex(layoutDigest, digits: StoreLimits.nameDigestDigits) || !Digests.isFull(crcDigest) || !Digests.isFull(contentDigest) {
            return "a digest is not one"
        }
        if let files {
            if !(1...StoreLimits.files).contains(files.count) || Set(files.map(\.name)).count != files.count { return "\(files.count) files, or two of one name" }
            for file in files where !Names.isFile(file.name) || file.offset < dataStart || !(0...StoreLimits.besideFileBytes).contains(file.bytes) || file.offset > fileBytes - file.bytes {
                return "a file '\(file.name)' of \(file.bytes) bytes at \(file.offset)"
            }
        }
        return compression?.problem(fileBytes: fileBytes)
    }

    /// What a row and its file's name say of it; `record`: this one's.
    public func rowDigest(_ record: [UInt8]) -> String? {
        guard compression != nil else { return Record.digest(record) }
        var plain = self
        plain.compression = nil
        return Record.digest(Record.encode(plain))
    }

    /// Whether this is the seek table that the data file was written with.
    public func matches(seekTable: [UInt8]) -> Bool { Digests.full(seekTable) == compression?.tableDigest }

    /// Whether this is the `.crc` file that the manifest was written with.
    public func matches(checksumFile: [UInt8]) -> Bool { Digests.full(checksumFile) == crcDigest }
}
