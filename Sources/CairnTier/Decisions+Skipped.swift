// Saves that some rank went on without: its manifest of a later save says which save it made before that one (`previous`), so that
// whatever lies between will never have a part of it. Such a save is voided as soon as the later one is committed.
// (1) Exact: a rank is a reason only if it takes part in the save, its manifest of it is not there, and another rank, whose manifest
//     of it is there, made it before the later one: who saves an earlier step after a later one skips nothing.
// (2) Looks only at the folders that are there, of this attempt and between the two saves.
import CairnIO
import CairnMessages
import CairnModel
import CairnStore

extension Decisions {
    func voidSkipped(_ run: RunKey, _ save: SaveID, by parts: [CommitCheck.Part]) throws {
        let previous = parts.compactMap { part in part.previous.map { (rank: part.row.rank, save: $0) } }
        guard let earliest = previous.map(\.save).min() else { return }
        for entry in try folders.names(folders.first, Names.runFolder(run)) where entry.isFolder {
            guard let skipped = Names.saving(entry.name), skipped.attempt == save.attempt, skipped > earliest, skipped < save,
                  try standing(run, skipped) == nil else { continue }
            let names = try CommitCheck.manifestNames(folders, savingFolder(run, skipped))
            guard previous.contains(where: { names[$0.rank] != nil && $0.save >= skipped }) else { continue }
            let participants = try participants(run, skipped, names)
            let without = previous.filter { $0.save < skipped && names[$0.rank] == nil && participants?.contains($0.rank) ?? true }.map(\.rank)
            guard !without.isEmpty else { continue }
            _ = try void(run, skipped, reason: "ranks \(TilingError.listed(without)) went on to save \(save) without it")
        }
    }

    /// Who takes part, as the first readable manifest says; nil: all ranks, also where no manifest is there to say otherwise.
    private func participants(_ run: RunKey, _ save: SaveID, _ names: [Int: String]) throws -> [Int]? {
        for (_, name) in names.sorted(by: { $0.key < $1.key }) {
            if let manifest = try manifest(run, save, name) { return manifest.participants }
        }
        return nil
    }

    /// One that is there, whole and of this save.
    func manifest(_ run: RunKey, _ save: SaveID, _ name: String) throws -> Manifest? {
        do {
            guard let manifest = try folders.readIfPresent(Manifest.self, folders.first, "\(savingFolder(run, save))/\(name)")?.value,
                  manifest.runKey == run, manifest.save == save else { return nil }
            return manifest
        } catch {
            // A damaged one says nothing; its save is found unsound when it is decided.
            if let failure = error as? TierFailure, failure.kind == .corrupt { return nil }
            throw error
        }
    }
}
