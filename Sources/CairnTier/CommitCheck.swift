// Whether all ranks' parts of a save make a checkpoint: what a commit vouches for.
// Each manifest whole and of this save, its file there in its size, its `.crc` the one it names, the header true, the boxes
// tiling each tensor, shared objects equal. What is unsound is never committed; what cannot be read now is asked for again.
import CairnIO
import CairnMessages
import CairnModel
import CairnStore

/// A save that must not be committed: what is wrong with it.
struct Unsound: Error { let reason: String }

struct CommitCheck {
    enum Outcome {
        case missing([Int])
        case sound(manifests: [ManifestRef], tables: [RankTable], first: Manifest)
    }

    let folders: TierFolders
    let run: RunKey, save: SaveID, worldSize: Int
    /// `.saving-SAVEID`, below the root.
    let folder: String

    /// Ranks without a manifest; all of them if the folder is not there.
    func manifestNames() throws -> (names: [Int: String], missing: [Int]) {
        var names: [Int: String] = [:]
        for entry in try folders.names(folders.first, folder) {
            guard case .manifest(let rank, _)? = Names.rankFile(entry.name), names[rank] == nil else { continue }
            names[rank] = entry.name
        }
        return (names, (0..<worldSize).filter { names[$0] == nil })
    }

    func check() throws -> Outcome {
        let (names, missing) = try manifestNames()
        guard missing.isEmpty else { return .missing(missing) }
        guard names.count == worldSize else { throw Unsound(reason: "manifests of ranks outside the world of \(worldSize)") }
        var refs: [ManifestRef] = [], tables: [RankTable] = [], manifests: [Manifest] = []
        for rank in 0..<worldSize {
            guard let name = names[rank] else { return .missing([rank]) }
            let (manifest, bytes) = try manifest(rank, name)
            tables.append(try table(manifest))
            refs.append(ManifestRef(rank: rank, name: name, digest: Record.digest(bytes) ?? "", fileBytes: manifest.fileBytes, contentDigest: manifest.contentDigest))
            manifests.append(manifest)
        }
        do { try Tiling.check(tables: tables) } catch { throw Unsound(reason: error.description) }
        try checkSharedObjects(tables)
        return .sound(manifests: refs, tables: tables, first: manifests[0])
    }

    private func manifest(_ rank: Int, _ name: String) throws -> (Manifest, [UInt8]) {
        let manifest: Manifest, bytes: [UInt8]
        do { (manifest, bytes) = try folders.read(Manifest.self, folders.first, "\(folder)/\(name)") } catch let failure as TierFailure {
            throw failure.kind == .corrupt ? Unsound(reason: "rank \(rank): \(failure.text)") : failure
        }
        guard manifest.runKey == run, manifest.save == save, manifest.rank == rank, manifest.worldSize == worldSize else {
            throw Unsound(reason: "rank \(rank): its manifest is of run \(manifest.runKey), save \(manifest.save), rank \(manifest.rank) of \(manifest.worldSize)")
        }
        guard case .manifest(rank, let digest)? = Names.rankFile(name), Record.nameDigest(bytes) == digest else {
            throw Unsound(reason: "rank \(rank): the manifest '\(name)' is not what its name says")
        }
        let crc: [UInt8]
        do { crc = try Files.readAll(folders.first.folder, "\(folder)/\(Names.checksums(rank: rank))", limit: BlockChecksums.fileBytes(blocks: manifest.blockCount)) } catch {
            guard error.isMissing || error.isTooLarge else { throw error }
            throw Unsound(reason: "rank \(rank): its checksum file is missing or too large")
        }
        guard manifest.matches(checksumFile: crc) else { throw Unsound(reason: "rank \(rank): its checksum file is not the one its manifest names") }
        return (manifest, bytes)
    }

    private func table(_ manifest: Manifest) throws -> RankTable {
        let rank = manifest.rank, path = "\(folder)/\(Names.data(rank: rank))"
        let parsed: ParsedHeader
        do { parsed = try Self.header(folders.first, path, fileBytes: manifest.fileBytes) } catch let failure as TierFailure {
            throw failure.kind == .corrupt || failure.kind == .missing ? Unsound(reason: "rank \(rank): \(failure.text)") : failure
        }
        guard parsed.runName == run.name, parsed.save == save, parsed.rank == rank, parsed.worldSize == worldSize,
              parsed.layoutDigest == manifest.layoutDigest, parsed.dataStart == manifest.dataStart else {
            throw Unsound(reason: "rank \(rank): the file's header and its manifest contradict each other")
        }
        return parsed.table
    }

    /// A rank's file by its header, whose size must be what the manifest says.
    static func header(_ root: TierRoot, _ path: String, fileBytes: Int) throws -> ParsedHeader {
        let file: Descriptor
        do { file = try Files.open(root.folder, path, flags: .read) } catch { throw TierFailure(error) }
        let size = try Files.stat(file).bytes
        guard size == fileBytes else {
            throw TierFailure(kind: .corrupt, text: "'\(root.absolute(path))' has \(size) bytes, not \(fileBytes)", path: root.absolute(path))
        }
        let first8 = try PositionedIO.read(file, bytes: 8, fileOffset: 0, path: path)
        do {
            let bytes = try FileHeader.headBytes(first8: first8, fileBytes: size)
            let prefix = try PositionedIO.read(file, bytes: bytes, fileOffset: 0, path: path)
            return try FileHeader.parse(prefix: prefix, fileBytes: size)
        } catch let error as FileHeaderError { throw TierFailure.corrupt(root.absolute(path), error) }
    }

    private func checkSharedObjects(_ tables: [RankTable]) throws {
        struct Seen { let rank: Int, bytes: Int, crc: UInt32 }
        var seen: [String: Seen] = [:]
        for table in tables {
            let shared = table.objects.filter { $0.object.scope == .shared }
            guard !shared.isEmpty else { continue }
            let file = try Files.open(folders.first.folder, "\(folder)/\(Names.data(rank: table.rank))", flags: .read)
            for stored in shared {
                var crc: UInt32 = 0, at = 0
                while at < stored.object.bytes {
                    let piece = try PositionedIO.read(file, bytes: min(TierLimits.pieceBytes, stored.object.bytes - at), fileOffset: stored.fileOffset + at)
                    guard !piece.isEmpty else { throw Unsound(reason: "rank \(table.rank): its file ends within object '\(stored.object.name)'") }
                    crc = Checksum.crc32c(seed: crc, piece)
                    at += piece.count
                }
                let name = stored.object.name
                if let other = seen[name] {
                    guard other.bytes == stored.object.bytes, other.crc == crc else {
                        throw Unsound(reason: "object '\(name)' is shared, but ranks \(other.rank) and \(table.rank) gave different bytes; make its scope rank, or give equal ones")
                    }
                } else {
                    seen[name] = Seen(rank: table.rank, bytes: stored.object.bytes, crc: crc)
                }
            }
        }
    }
}
