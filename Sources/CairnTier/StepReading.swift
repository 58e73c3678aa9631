// From a reference to a step's index and files, on both forms of a tier; the last few are kept.
import CairnIO
import CairnMessages
import CairnModel
import CairnStore

final class StepReading: Sendable {
    private struct Kept: Sendable {
        let run: RunKey, sequence: CommitSequence, save: SaveID
        let undecided: Bool
        let files: StepFiles
    }

    let folders: TierFolders
    let steps: StepFolders
    let beside: BesideFiles
    private let kept = Monitor<[Kept]>([])
    private let reads = Monitor<[StepRef]>([])
    private let openFiles = Monitor<[(key: RankSaveKey, file: RankFile)]>([])

    init(_ folders: TierFolders, steps: StepFolders, beside: BesideFiles) {
        self.folders = folders
        self.steps = steps
        self.beside = beside
    }

    func files(_ ref: StepRef, undecided: Bool) throws -> StepFiles {
        let known = kept.withLock { kept -> StepFiles? in
            guard let at = kept.firstIndex(where: { $0.run == ref.run && $0.sequence == ref.sequence && $0.undecided == undecided && (ref.save == nil || $0.save == ref.save) }) else { return nil }
            let entry = kept.remove(at: at)
            kept.append(entry)
            return entry.files
        }
        if let known { return known }
        let files = folders.start.form == .committing ? try committed(ref) : try besideGlobal(ref, undecided: undecided)
        kept.withLock { kept in
            kept.append(Kept(run: ref.run, sequence: ref.sequence, save: files.catalog.save, undecided: undecided, files: files))
            if kept.count > TierLimits.cachedSteps { kept.removeFirst() }
        }
        return files
    }

    /// Retention leaves the step alone meanwhile.
    func reading<Result>(_ ref: StepRef, _ body: () throws -> Result) rethrows -> Result {
        reads.withLock { $0.append(ref) }
        defer { reads.withLock { reads in if let place = reads.firstIndex(of: ref) { reads.remove(at: place) } } }
        return try body()
    }

    func isRead(_ run: RunKey, _ sequence: CommitSequence, _ save: SaveID) -> Bool {
        reads.withLock { $0.contains { $0.run == run && ($0.save.map { $0 == save } ?? ($0.sequence == sequence)) } }
    }

    /// After something of a run was removed.
    func forget(_ run: RunKey) {
        kept.withLock { $0.removeAll { $0.run == run } }
        openFiles.withLock { $0.removeAll { $0.key.run == run } }
    }

    private func committed(_ ref: StepRef) throws -> StepFiles {
        let step = try steps.find(ref), commit = step.commit
        let catalog = StepCatalog(step: commit.step, sequence: commit.sequence, save: commit.save, metadata: commit.metadata, layout: try layout(step))
        let rows = try StepRows(folders.first, folder: step.folder, commit)
        return StepFiles(catalog, folders: folders) { [self] rank in try rows.row(of: rank).map { place(rank, $0.name, $0.digest, step, ref.run) } }
    }

    func layout(_ step: StepFolders.Step) throws -> StoredLayout {
        let commit = step.commit, root = folders.first, path = "\(step.folder)/\(commit.layoutFile)"
        let bytes = try root.readFile(path, limit: StoreLimits.layoutFileBytes)
        do {
            let layout = try LayoutFile.decode(bytes)
            guard Names.layout(digest: Record.nameDigest(bytes)) == commit.layoutFile, layout.worldSize == commit.worldSize,
                  layout.ranks == commit.ranks else { throw RecordError.inconsistent(reason: "it is not the layout that the commit names") }
            return layout
        } catch { throw TierFailure.corrupt(root.absolute(path), error) }
    }

    /// A rank's file in a step's folder; `digest` nil: what the commit says of its manifest is not known.
    func place(_ rank: Int, _ manifest: String, _ digest: String?, _ step: StepFolders.Step, _ run: RunKey) -> RankFile.Place {
        let written = step.commit.written(in: run)
        return RankFile.Place(root: folders.first, data: "\(step.folder)/\(Names.data(rank: rank))", checksums: "\(step.folder)/\(Names.checksums(rank: rank))",
                              manifest: "\(step.folder)/\(manifest)", digest: digest, run: written.run, save: written.save)
    }

    /// Only the ranks that are here, each by its own header.
    private func besideGlobal(_ ref: StepRef, undecided: Bool) throws -> StepFiles {
        let save = try beside.save(of: ref)
        let copy = try beside.decisions(ref.run)[save], commit = copy?.commit
        guard undecided || commit != nil else { throw TierFailure(kind: .notHere, text: "save \(save) is not known to be committed") }
        guard let parts = try beside.parts(ref.run)[save] else { throw TierFailure(kind: .notHere, text: "save \(save) is not on this tier") }
        var places: [Int: RankFile.Place] = [:], tables: [RankTable] = [], metadata: [String: String] = commit?.metadata ?? [:], worldSize = commit?.worldSize ?? 0
        for part in parts.sorted(by: { $0.rank < $1.rank }) {
            let expected = copy?.row(of: part.rank)
            // No commit lists copies: their own records say that they are of this save.
            if let commit, expected == nil, !Copies.isCopies(part.rank) {
                guard commit.row(of: part.rank) == nil else { throw TierFailure(kind: .notHere, text: "what proves rank \(part.rank)'s part of save \(save) is not on this tier") }
                continue
            }
            let place = beside.place(ref.run, save, part, digest: expected?.digest)
            let (manifest, _) = try folders.read(Manifest.self, part.root, place.manifest)
            guard manifest.runKey == ref.run, manifest.save == save, manifest.rank == part.rank, worldSize == 0 || manifest.worldSize == worldSize else {
                throw TierFailure(kind: .corrupt, text: "'\(part.root.absolute(place.manifest))' is of another save", path: part.root.absolute(place.manifest))
            }
            worldSize = manifest.worldSize
            if commit == nil, let own = manifest.metadata { metadata = own }
            let header = try CommitCheck.header(try SmallReads(part.root, place.data, manifest))
            guard header.save == save, header.rank == Copies.rank(part.rank), header.layoutDigest == manifest.layoutDigest else {
                throw TierFailure(kind: .corrupt, text: "'\(part.root.absolute(place.data))' and its manifest contradict each other", path: part.root.absolute(place.data))
            }
            places[part.rank] = place
            var table = header.table
            table.rank = part.rank
            tables.append(table)
        }
        // Nobody has checked an undecided save as a commit does.
        let own = tables.filter { !Copies.isCopies($0.rank) }
        if commit == nil, own.count == worldSize { try Tiling.check(tables: own) }
        let index = StepIndex(step: save.step, sequence: commit?.sequence ?? ref.sequence, save: save, worldSize: worldSize, metadata: metadata, ranks: tables)
        let here = places
        return StepFiles(StepCatalog(index), folders: folders) { here[$0] }
    }

    /// Ranks of a committed step whose file is stored as frames; where both forms lie there, either may be read.
    func compressed(_ ref: StepRef) throws -> [Int] {
        guard folders.start.form == .committing else { return [] }
        let files = Set(try folders.names(folders.first, steps.find(ref).folder).compactMap { Names.rankFile($0.name) })
        return files.compactMap { file in
            if case .compressed(let rank) = file, !files.contains(.data(rank: rank)) { rank } else { nil }
        }.sorted()
    }

    // MARK: one rank's file, for reading back

    func file(_ key: RankSaveKey) throws -> RankFile {
        if let file = openFiles.withLock({ $0.first { $0.key == key }?.file }) { return file }
        let file = try RankFile(rank: key.rank, place(key), folders: folders)
        openFiles.withLock { files in
            files.append((key, file))
            if files.count > TierLimits.cachedFiles { files.removeFirst() }
        }
        return file
    }

    private func place(_ key: RankSaveKey) throws -> RankFile.Place {
        if folders.start.form == .beside { return beside.place(key.run, key.save, try beside.part(key), digest: nil) }
        let run = Names.runFolder(key.run)
        var folder = "\(run)/\(Names.savingFolder(key.save))", written = (run: key.run, save: key.save)
        if let step = try steps.steps(key.run).first(where: { $0.commit.save == key.save }) { (folder, written) = (step.folder, step.commit.written(in: key.run)) }
        for entry in try folders.names(folders.first, folder) {
            guard case .manifest(key.rank, _)? = Names.rankFile(entry.name) else { continue }
            return RankFile.Place(root: folders.first, data: "\(folder)/\(Names.data(rank: key.rank))", checksums: "\(folder)/\(Names.checksums(rank: key.rank))",
                                  manifest: "\(folder)/\(entry.name)", digest: nil, run: written.run, save: written.save)
        }
        throw TierFailure(kind: .notHere, text: "\(key) is not on this tier")
    }

    /// The manifest's name without a save id, its record, and the `.crc` file.
    func sidecars(_ key: RankSaveKey) throws -> (name: String, manifest: [UInt8], checksums: [UInt8]) {
        let place = try place(key)
        let (manifest, record) = try folders.read(Manifest.self, place.root, place.manifest)
        let checksums = try place.root.readFile(place.checksums, limit: BlockChecksums.fileBytes(blocks: manifest.blockCount))
        guard manifest.matches(checksumFile: checksums), manifest.rank == key.rank, manifest.save == place.save else {
            throw TierFailure(kind: .corrupt, text: "'\(place.root.absolute(place.manifest))' and its checksum file contradict each other", path: place.root.absolute(place.manifest))
        }
        return (Names.manifest(rank: key.rank, digest: Record.nameDigest(record)), record, checksums)
    }
}

extension Commit {
    /// The run and save that its ranks' files name.
    func written(in run: RunKey) -> (run: RunKey, save: SaveID) {
        writtenAs.map { (RunKey(uid: run.uid, name: $0.run), $0.save) } ?? (run, save)
    }
}
