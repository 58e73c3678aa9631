// One step as it is read: its index by name, and each rank's file with its checksums, opened when first needed.
// The chain of proof: the commit names the manifests' rows by digest, a row its manifest, the manifest the `.crc` file, that one every block.
import CairnIO
import CairnMessages
import CairnModel
import CairnStore

/// A published file opened for reading.
struct RankFile: Sendable {
    let rank: Int
    let descriptor: Descriptor
    let path: String
    /// Of the plain file.
    let bytes: Int
    let crcs: [UInt32]
    let direct: Bool
    /// Nil: it is stored plain.
    let frames: SeekTable?
    /// As its manifest says it.
    let manifest: Manifest

    /// Where a rank's file and its records are, and what they must prove to be.
    struct Place: Sendable {
        let root: TierRoot
        /// `data`: the plain file's name, which its manifest may say to go on with `.zst`.
        let data: String, checksums: String, manifest: String
        /// The manifest's digest in its row; nil where no commit is needed.
        let digest: String?
        /// What the manifest must say that it is of: the run and save, or those of a branch's origin.
        let run: RunKey, save: SaveID
    }

    init(rank: Int, _ place: Place, folders: TierFolders) throws {
        let root = place.root
        let (manifest, record) = try folders.read(Manifest.self, root, place.manifest)
        guard place.digest == nil || manifest.rowDigest(record) == place.digest, manifest.rank == rank, manifest.runKey == place.run, manifest.save == place.save else {
            throw TierFailure(kind: .corrupt, text: "'\(root.absolute(place.manifest))' is not the manifest that the commit names", path: root.absolute(place.manifest))
        }
        let checksums = try root.readFile(place.checksums, limit: BlockChecksums.fileBytes(blocks: manifest.blockCount))
        guard manifest.matches(checksumFile: checksums) else {
            throw TierFailure(kind: .corrupt, text: "'\(root.absolute(place.checksums))' is not the checksum file that the manifest names", path: root.absolute(place.checksums))
        }
        do { crcs = try BlockChecksums.decode(checksums, fileBytes: manifest.fileBytes) } catch { throw TierFailure.corrupt(root.absolute(place.checksums), error) }
        let data = manifest.isCompressed ? Names.compressed(place.data) : place.data
        path = root.absolute(data)
        do { descriptor = try Files.open(root.folder, data, flags: root.direct ? [.read, .direct] : .read) } catch {
            // A folder refuses O_DIRECT as no file of this tier does.
            guard error.isOfThisFile || error.errno == IOFailure.invalid else { throw error }
            throw TierFailure.corrupt(path, error)
        }
        let size = try Files.stat(descriptor).bytes
        guard size == manifest.storedBytes else {
            throw TierFailure(kind: .corrupt, text: "'\(path)' has \(size) bytes, not \(manifest.storedBytes)", path: path,
                              block: manifest.isCompressed ? nil : min(size, manifest.fileBytes) / Sizes.blockBytes)
        }
        frames = try SeekTable.read(root, data, manifest)
        self.rank = rank
        self.manifest = manifest
        bytes = manifest.fileBytes
        direct = root.direct
    }

    func bytes(ofBlock block: Int) -> Int { min(Sizes.blockBytes, bytes - block * Sizes.blockBytes) }
}

final class StepFiles: Sendable {
    let catalog: StepCatalog
    /// Where a rank's file is; nil: not on this tier.
    private let place: @Sendable (Int) throws -> RankFile.Place?
    private let folders: TierFolders
    private let opened = Monitor<[Int: RankFile]>([:])

    init(_ catalog: StepCatalog, folders: TierFolders, place: @escaping @Sendable (Int) throws -> RankFile.Place?) {
        self.catalog = catalog
        self.folders = folders
        self.place = place
    }

    func file(_ rank: Int) throws -> RankFile {
        if let file = opened.withLock({ $0[rank] }) { return file }
        guard let place = try place(rank) else { throw TierFailure(kind: .notHere, text: "rank \(rank)'s file is not on this tier") }
        let file: RankFile
        do { file = try RankFile(rank: rank, place, folders: folders) } catch let failure as IOFailure where failure.isMissing {
            throw TierFailure(kind: .notHere, text: "\(failure)", path: place.root.absolute(place.data))
        }
        opened.withLock { $0[rank] = file }
        return file
    }
}
