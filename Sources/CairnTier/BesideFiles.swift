// A local tier beside a global one: rank files with the save id in their names, on one or several folders, and copies of the
// decisions that this daemon has seen, which prove commitment while the global tier is down.
import CairnIO
import CairnMessages
import CairnModel
import CairnStore

final class BesideFiles: Sendable {
    struct Part: Sendable {
        let root: TierRoot
        let rank: Int
        /// File name in the run's folder.
        let manifest: String
    }

    private let folders: TierFolders
    private let copies = Monitor<[RunKey: [SaveID: DecisionCopy]]>([:])

    init(_ folders: TierFolders) { self.folders = folders }

    /// Published parts by save.
    func parts(_ run: RunKey) throws -> [SaveID: [Part]] {
        var found: [SaveID: [Part]] = [:]
        for root in folders.roots {
            for entry in try folders.names(root, Names.runFolder(run)) where !entry.isFolder {
                guard let (save, file) = Names.besideFile(entry.name), case .manifest(let rank, _) = file,
                      found[save]?.contains(where: { $0.rank == rank }) != true else { continue }
                found[save, default: []].append(Part(root: root, rank: rank, manifest: entry.name))
            }
        }
        return found
    }

    /// Where a rank's data file is, whatever else there is of it.
    func dataFiles(_ run: RunKey, _ save: SaveID) throws -> [(root: TierRoot, rank: Int)] {
        var found: [(root: TierRoot, rank: Int)] = []
        for root in folders.roots {
            for entry in try folders.names(root, Names.runFolder(run)) {
                if let (own, file) = Names.besideFile(entry.name), own == save, case .data(let rank) = file { found.append((root, rank)) }
            }
        }
        return found
    }

    func place(_ run: RunKey, _ save: SaveID, _ part: Part, digest: String?) -> RankFile.Place {
        let folder = Names.runFolder(run)
        return RankFile.Place(root: part.root, data: "\(folder)/\(Names.besideData(save, rank: part.rank))",
                              checksums: "\(folder)/\(Names.besideChecksums(save, rank: part.rank))", manifest: "\(folder)/\(part.manifest)", digest: digest,
                              run: run, save: save)
    }

    /// All decisions of a run that were copied here.
    func decisions(_ run: RunKey) throws -> [SaveID: DecisionCopy] {
        var found: [SaveID: DecisionCopy] = [:]
        for root in folders.roots {
            for entry in try folders.names(root, "\(Names.runFolder(run))/\(Names.decisions)") where !entry.isFolder {
                guard let save = Names.decidedSave(entry.name), found[save] == nil else { continue }
                if let known = copies.withLock({ $0[run]?[save] }) {
                    found[save] = known
                } else if let copy = try? folders.read(DecisionCopy.self, root, "\(Names.runFolder(run))/\(Names.besideDecision(save))").value,
                          copy.decision.runKey == run, copy.decision.save == save {
                    // A damaged copy proves nothing: the save then counts as undecided.
                    found[save] = copy
                }
            }
        }
        let all = found
        copies.withLock { $0[run] = all }
        return found
    }

    /// The highest attempt that a file or a decision's copy is of; 0: none.
    func highestAttempt(_ run: RunKey) throws -> Int {
        var highest = 0
        for root in folders.roots {
            for entry in try folders.names(root, Names.runFolder(run)) { highest = max(highest, Names.besideFile(entry.name)?.save.attempt ?? 0) }
            for entry in try folders.names(root, "\(Names.runFolder(run))/\(Names.decisions)") { highest = max(highest, Names.decidedSave(entry.name)?.attempt ?? 0) }
        }
        return highest
    }

    /// Keeps the copy of a decision; whether it is void. A void save's files go, and its copy stays: what is still being written of it
    /// comes too late then.
    func record(_ run: RunKey, _ save: SaveID, _ bytes: [UInt8]) throws -> Bool {
        let copy: DecisionCopy
        do { copy = try Record.decode(DecisionCopy.self, from: bytes) } catch { throw TierFailure(kind: .invalid, text: "the decision of save \(save): \(error)") }
        guard copy.decision.runKey == run, copy.decision.save == save else { throw TierFailure(kind: .invalid, text: "the decision of save \(save) is one of save \(copy.decision.save)") }
        try keep(run, save, copy, bytes)
        guard copy.commit == nil else { return false }
        try removeFiles(run, save)
        return true
    }

    private func keep(_ run: RunKey, _ save: SaveID, _ copy: DecisionCopy, _ bytes: [UInt8]) throws {
        let folder = "\(Names.runFolder(run))/\(Names.decisions)"
        var failure: (any Error)?
        for root in folders.roots {
            do {
                try folders.makeFolders(root, folder)
                // An earlier copy stands, though it may be of other ranks: what it lacks of them comes from the other tier.
                guard case .stood(let other) = try folders.publish(root, folder, "\(save).json", bytes) else { return }
                guard (try? Record.decode(DecisionCopy.self, from: other))?.decision == copy.decision else {
                    throw TierFailure.corrupt(root.absolute("\(folder)/\(save).json"), RecordError.inconsistent(reason: "it is no copy of this save's decision"))
                }
                return
            } catch { failure = error }                        // the next drive may work
        }
        if let failure { throw failure }
    }

    /// Committed saves of which something is here, or the whole.
    func summaries(_ run: RunKey, wholeOnly: Bool = false) throws -> [StepSummary] {
        let parts = try parts(run), pins = try pinned(run)
        let held = try decisions(run).compactMap { save, copy -> StepSummary? in
            guard let commit = copy.commit, let here = parts[save] else { return nil }
            guard !wholeOnly || Set(commit.ranks).isSubset(of: Set(here.map(\.rank)).intersection(copy.rows.map(\.rank))) else { return nil }
            return commit.summary(pinned: pins.contains(save))
        }
        return Lineage.markSuperseded(held.sorted { $0.sequence < $1.sequence })
    }

    func pinned(_ run: RunKey) throws -> Set<SaveID> {
        var pins: Set<SaveID> = []
        for root in folders.roots {
            for entry in try folders.names(root, Names.runFolder(run)) { if let save = Names.isBesidePin(entry.name) { pins.insert(save) } }
        }
        return pins
    }

    func pin(_ run: RunKey, _ save: SaveID, _ pinned: Bool) throws {
        let folder = Names.runFolder(run), path = "\(folder)/\(Names.besidePin(save))", root = folders.first
        if pinned {
            try folders.makeFolders(root, folder)
            do { try Files.writeNew(root.folder, path, [], mode: folders.start.fileMode) } catch {
                if !error.exists { throw error }
            }
        } else {
            try folders.unlinkIfPresent(root, path)
        }
        try Files.syncFolder(root.folder, folder)
    }

    /// The save that a reference means: by its id, else by the commit's sequence.
    func save(of ref: StepRef) throws -> SaveID {
        if let save = ref.save { return save }
        for (save, copy) in try decisions(ref.run) {
            if let commit = copy.commit, commit.sequence == ref.sequence, commit.step == ref.step { return save }
        }
        throw TierFailure(kind: .notHere, text: "no commit of step \(ref.step), sequence \(ref.sequence), is recorded here")
    }

    /// The files, then the decision's copy.
    func remove(_ run: RunKey, _ save: SaveID) throws {
        try removeFiles(run, save)
        try removeCopy(run, save)
    }

    func removeCopy(_ run: RunKey, _ save: SaveID) throws {
        for root in folders.roots { try folders.unlinkIfPresent(root, "\(Names.runFolder(run))/\(Names.besideDecision(save))") }
        copies.withLock { $0[run]?[save] = nil }
    }

    /// Manifests first: what has none is nothing.
    func removeFiles(_ run: RunKey, _ save: SaveID) throws {
        let folder = Names.runFolder(run)
        for root in folders.roots {
            let names = try folders.names(root, folder).map(\.name).filter { Names.besideFile($0)?.save == save || Names.isBesidePin($0) == save }
            guard !names.isEmpty else { continue }
            for name in names.sorted(by: { $0.hasSuffix(".json") && !$1.hasSuffix(".json") }) { try folders.unlinkIfPresent(root, "\(folder)/\(name)") }
            try Files.syncFolder(root.folder, folder)
        }
    }

    /// One rank's published part.
    func part(_ key: RankSaveKey) throws -> Part {
        guard let part = try parts(key.run)[key.save]?.first(where: { $0.rank == key.rank }) else {
            throw TierFailure(kind: .notHere, text: "\(key) is not on this tier")
        }
        return part
    }
}
