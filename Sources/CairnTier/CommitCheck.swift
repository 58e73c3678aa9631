// Whether all participants' parts of a save make a checkpoint: what a commit vouches for.
// Each manifest whole and of this save, naming the same participants as all others, its file there in its size, its `.crc` the one it
// names, the header true, the boxes tiling each tensor, shared objects equal. What is unsound is never committed; what cannot be read
// now is asked for again.
import CairnIO
import CairnMessages
import CairnModel
import CairnStore

/// A save that must not be committed: what is wrong with it.
struct Unsound: Error { let reason: String }

struct CommitCheck: Sendable {
    enum Outcome {
        case missing([Int])
        case sound(Sound)
    }

    struct Sound: Sendable {
        /// Ascending by rank.
        let parts: [Part]
        let layout: StoredLayout
    }

    let folders: TierFolders
    let run: RunKey, save: SaveID, worldSize: Int
    /// Nil: all ranks.
    let participants: [Int]?
    /// `.saving-SAVEID`, below the root.
    let folder: String
    /// What was read of it before, and is kept for the next time.
    let known: KnownParts

    private var expected: [Int] { participants ?? Array(0..<worldSize) }

    /// Participants without a manifest; all of them if the folder is not there.
    func manifestNames() throws -> (names: [Int: String], missing: [Int]) {
        let names = try Self.manifestNames(folders, folder)
        return (names, expected.filter { names[$0] == nil })
    }

    /// Names of manifests by rank: one listing.
    static func manifestNames(_ folders: TierFolders, _ folder: String) throws -> [Int: String] {
        var names: [Int: String] = [:]
        for entry in try folders.names(folders.first, folder) {
            guard case .manifest(let rank, _)? = Names.rankFile(entry.name), names[rank] == nil else { continue }
            names[rank] = entry.name
        }
        return names
    }

    /// One rank's part, read and found sound by itself.
    struct Part: Sendable {
        let row: ManifestRow
        /// Of the manifest's file.
        let name: String
        /// The save that the rank made before.
        let previous: SaveID?
        /// Rank 0's, which speaks for all.
        let manifest: Manifest?
        let table: PlacedTable
        fileprivate let shared: [SharedObject]

        var memoryBytes: Int { 512 + table.memoryBytes + shared.count * 64 }
    }
    fileprivate struct SharedObject: Sendable { let name: String, bytes: Int, crc: UInt32 }

    /// Opened once: the ranks' files are then one name away, also when another daemon renames the folder meanwhile.
    func opened() throws -> TierRoot {
        TierRoot(path: folders.first.absolute(folder), folder: try Files.openFolder(folders.first.folder, folder), direct: false)
    }

    /// `names`: manifests by rank, of which none is missing.
    func check(_ names: [Int: String]) throws -> Outcome {
        let ranks = expected
        if names.count != ranks.count {
            let others = Set(names.keys).subtracting(ranks).sorted()
            throw Unsound(reason: "ranks \(Self.listed(others)) saved too and do not take part: participants are \(Self.listed(ranks))")
        }
        let root: TierRoot
        do { root = try opened() } catch let failure as IOFailure {
            guard failure.isMissing else { throw failure }
            return .missing(ranks)
        }
        known.setEnough(true)
        defer { known.setEnough(false) }
        let parts = try concurrently(ranks.count, threads: TierLimits.commitThreads) { index in
            let name = names[ranks[index]] ?? ""
            return try known.part(ranks[index], name) ?? part(ranks[index], name, root)
        }
        let layout = StoredLayout(worldSize: worldSize, placed: parts.map(\.table))
        do { try Tiling.check(layout) } catch { throw Unsound(reason: error.description) }
        try checkSharedObjects(parts)
        return .sound(Sound(parts: parts, layout: layout))
    }

    private static func listed(_ ranks: [Int]) -> String { TilingError.listed(ranks, atMost: 20) }

    /// Reads it, and keeps it for who asks again.
    func part(_ rank: Int, _ name: String, _ root: TierRoot) throws -> Part {
        let manifest: Manifest, bytes: [UInt8]
        do { (manifest, bytes) = try folders.read(Manifest.self, root, name) } catch {
            if let failure = error as? TierFailure, failure.kind == .corrupt { throw Unsound(reason: "rank \(rank): \(failure.text)") }
            throw error
        }
        guard manifest.runKey == run, manifest.save == save, manifest.rank == rank, manifest.worldSize == worldSize else {
            throw Unsound(reason: "rank \(rank): its manifest is of run \(manifest.runKey), save \(manifest.save), rank \(manifest.rank) of \(manifest.worldSize)")
        }
        let row = ManifestRow(rank: rank, fileBytes: manifest.fileBytes, digest: manifest.rowDigest(bytes) ?? "", contentDigest: manifest.contentDigest)
        guard row.name == name else {
            throw Unsound(reason: "rank \(rank): the manifest '\(name)' is not what its name says")
        }
        // Said by each, compared here: a list of all ranks is not kept for each of them.
        let said = manifest.participants
        guard said == participants || (said ?? Array(0..<worldSize)) == expected else {
            throw Unsound(reason: "the ranks disagree on who takes part: rank \(rank) says \(Self.listed(said ?? Array(0..<worldSize))), others say \(Self.listed(expected)); pass equal participants on all of them")
        }
        let crc: [UInt8]
        do { crc = try root.readFile(Names.checksums(rank: rank), limit: BlockChecksums.fileBytes(blocks: manifest.blockCount)) } catch {
            let failure = TierFailure(error)
            guard failure.kind == .corrupt || failure.kind == .missing else { throw error }
            throw Unsound(reason: "rank \(rank): its checksum file: \(failure.text)")
        }
        guard manifest.matches(checksumFile: crc) else { throw Unsound(reason: "rank \(rank): its checksum file is not the one its manifest names") }
        let (table, shared) = try header(manifest, root)
        let part = Part(row: row, name: name, previous: manifest.previous, manifest: rank == 0 ? manifest : nil, table: known.kinds.place(table), shared: shared)
        known.keep(part, bytesLimit: TierLimits.aheadBytes)
        return part
    }

    private func header(_ manifest: Manifest, _ root: TierRoot) throws -> (RankTable, [SharedObject]) {
        let rank = manifest.rank, name = Names.data(rank: rank)
        let parsed: ParsedHeader, file: SmallReads
        do {
            file = try SmallReads(root, name, manifest)
            parsed = try Self.header(file)
        } catch {
            if let failure = error as? TierFailure, failure.kind == .corrupt || failure.kind == .missing { throw Unsound(reason: "rank \(rank): \(failure.text)") }
            throw error
        }
        guard parsed.runName == run.name, parsed.save == save, parsed.rank == rank, parsed.worldSize == worldSize,
              parsed.layoutDigest == manifest.layoutDigest, parsed.dataStart == manifest.dataStart else {
            throw Unsound(reason: "rank \(rank): the file's header and its manifest contradict each other")
        }
        var shared: [SharedObject] = []
        for stored in parsed.table.objects where stored.object.scope == .shared {
            let known = manifest.objects?[stored.object.name]
            shared.append(SharedObject(name: stored.object.name, bytes: stored.object.bytes, crc: try known ?? crc(of: stored, file, rank)))
        }
        return (parsed.table, shared)
    }

    private func crc(of stored: StoredObject, _ file: SmallReads, _ rank: Int) throws -> UInt32 {
        var crc: UInt32 = 0, at = 0
        while at < stored.object.bytes {
            let piece = try file.read(min(TierLimits.pieceBytes, stored.object.bytes - at), at: stored.fileOffset + at)
            guard !piece.isEmpty else { throw Unsound(reason: "rank \(rank): its file ends within object '\(stored.object.name)'") }
            crc = Checksum.crc32c(seed: crc, piece)
            at += piece.count
        }
        return crc
    }

    /// An object that all ranks share must be equal on all of them.
    private func checkSharedObjects(_ parts: [Part]) throws {
        var seen: [String: (rank: Int, object: SharedObject)] = [:]
        for part in parts {
            for object in part.shared {
                guard let other = seen[object.name] else {
                    seen[object.name] = (part.row.rank, object)
                    continue
                }
                guard other.object.bytes == object.bytes, other.object.crc == object.crc else {
                    throw Unsound(reason: "object '\(object.name)' is shared, but ranks \(other.rank) and \(part.row.rank) gave different bytes; make its scope rank, or give equal ones")
                }
            }
        }
    }

    static func header(_ file: SmallReads) throws -> ParsedHeader {
        // Most headers are that small: one read then is enough.
        var prefix = try file.read(min(file.bytes, TierLimits.headerGuessBytes), at: 0)
        do {
            let bytes = try FileHeader.headBytes(first8: Array(prefix.prefix(8)), fileBytes: file.bytes)
            if bytes > prefix.count { prefix = try file.read(bytes, at: 0) } else { prefix.removeLast(prefix.count - bytes) }
            return try FileHeader.parse(prefix: prefix, fileBytes: file.bytes)
        } catch {
            if let header = error as? FileHeaderError { throw TierFailure.corrupt(file.path, header) }
            throw error
        }
    }
}
