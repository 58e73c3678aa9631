// What a tier should hold of a step by its records, for a verify: read anew, not from what was kept, and going on past what is damaged.
import CairnIO
import CairnMessages
import CairnModel
import CairnStore

struct WrittenStep: Sendable {
    struct File: Sendable {
        let rank: Int, bytes: Int
        let place: RankFile.Place
    }

    /// Each is proved by its manifest, that one by the commit's rows; no layout is needed to check them.
    var files: [File] = []
    /// Records that are not what was written.
    var bad: [BadBlock] = []

    /// Reads a record: what is wrong with it is noted.
    mutating func check(_ root: TierRoot, _ path: String, _ body: () throws -> Void) {
        do { try body() } catch { bad.append(BadBlock(file: root, path, TierFailure(error))) }
    }

    /// A file whose own manifest says how large it is.
    mutating func add(_ rank: Int, _ place: RankFile.Place, _ folders: TierFolders) {
        var bytes: Int?
        check(place.root, place.manifest) { bytes = try folders.read(Manifest.self, place.root, place.manifest).value.fileBytes }
        if let bytes { files.append(File(rank: rank, bytes: bytes, place: place)) }
    }
}

extension StepReading {
    func written(_ ref: StepRef) throws -> WrittenStep {
        folders.start.form == .committing ? try writtenFolder(ref) : try writtenBeside(ref)
    }

    private func writtenFolder(_ ref: StepRef) throws -> WrittenStep {
        let step = try steps.find(ref), commit = step.commit, root = folders.first
        var written = WrittenStep()
        // The commit and its copy: either serves where the other is damaged.
        for path in ["\(step.folder)/\(Names.checkpoint)", "\(Names.runFolder(ref.run))/\(Names.decision(commit.save))"] {
            written.check(root, path) {
                let record = try folders.read(DecisionRecord.self, root, path).value
                guard record.runKey == ref.run, record.decision == .commit(commit) else {
                    throw TierFailure.corrupt(root.absolute(path), RecordError.inconsistent(reason: "it is not the commit of this step"))
                }
            }
        }
        written.check(root, "\(step.folder)/\(commit.layoutFile)") { _ = try layout(step) }
        var rows: [ManifestRow]?
        written.check(root, "\(step.folder)/\(commit.manifestsFile)") { rows = try StepRows.all(root, folder: step.folder, commit) }
        if let rows {
            written.files = rows.map { WrittenStep.File(rank: $0.rank, bytes: $0.fileBytes, place: place($0.rank, $0.name, $0.digest, step, ref.run)) }
        } else {
            for (rank, name) in try CommitCheck.manifestNames(folders, step.folder).sorted(by: { $0.key < $1.key }) {
                written.add(rank, place(rank, name, nil, step, ref.run), folders)
            }
        }
        return written
    }

    private func writtenBeside(_ ref: StepRef) throws -> WrittenStep {
        let save = try beside.save(of: ref), run = Names.runFolder(ref.run)
        var written = WrittenStep()
        let known = try beside.decisions(ref.run)[save], commit = known?.commit
        for root in folders.roots {
            let copy = "\(run)/\(Names.besideDecision(save))"
            guard try Files.statIfPresent(root.folder, copy) != nil else { continue }
            written.check(root, copy) {
                let record = try folders.read(DecisionCopy.self, root, copy).value.decision
                guard record.runKey == ref.run, record.save == save else {
                    throw TierFailure.corrupt(root.absolute(copy), RecordError.inconsistent(reason: "it is the decision of another save"))
                }
            }
        }
        let parts = try beside.parts(ref.run)[save] ?? []
        for part in parts.sorted(by: { $0.rank < $1.rank }) {
            guard commit == nil || commit?.row(of: part.rank) != nil || Copies.isCopies(part.rank) else { continue }
            written.add(part.rank, beside.place(ref.run, save, part, digest: known?.row(of: part.rank)?.digest), folders)
        }
        // A manifest is published last and removed first.
        for (root, rank) in try beside.dataFiles(ref.run, save) where !parts.contains(where: { $0.rank == rank }) {
            guard let row = known?.row(of: rank) else { continue }
            written.bad.append(BadBlock(path: root.absolute("\(run)/\(save).\(row.name)"), block: -1, reason: "it is not there"))
        }
        guard !written.files.isEmpty || !written.bad.isEmpty else { throw TierFailure(kind: .notHere, text: "save \(save) is not on this tier") }
        return written
    }
}
