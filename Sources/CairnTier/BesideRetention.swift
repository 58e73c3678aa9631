// What a tier beside holds that retention decides on: the committed steps and the saves that were to stay here, counted together, since
// both are what a restart comes back to. (1) A save that was to be committed and is not decided is never removed: it may be in flight.
// (2) Void saves' files go; the copies of their decisions stay until their attempt is well past, for a file of one may still be written.
import CairnIO
import CairnMessages
import CairnModel
import CairnStore

struct BesideRetention {
    let folders: TierFolders
    let beside: BesideFiles
    let run: RunKey

    /// `countsBytes`: what is held here of each save, for which every part's manifest is read; else the bytes of all ranks.
    /// `hasScanned`: until main has been told of the undecided saves here, none of them is dropped, nor counted.
    func steps(except protected: Set<SaveID>, countsBytes: Bool, hasScanned: Bool, isDry: Bool) throws -> [RetentionStep] {
        let parts = try beside.parts(run), pins = try beside.pinned(run), decided = try beside.decisions(run)
        let committed = decided.compactMap { save, copy -> RetentionStep? in
            guard let commit = copy.commit, let here = parts[save] else { return nil }
            return RetentionStep(commit, pinned: pins.contains(save), bytes: countsBytes ? manifests(here).reduce(0) { $0 + $1.fileBytes } : nil)
        }
        guard hasScanned else { return committed }
        if !isDry { try dropVoid(parts, decided, except: protected) }
        return committed + parts.compactMap { save, here in
            guard decided[save] == nil, !protected.contains(save) else { return nil }
            let manifests = manifests(here)
            // Where nothing can be read nothing is known of it: it is left alone.
            guard let first = manifests.first, manifests.allSatisfy({ $0.upto <= .local }) else { return nil }
            let count = manifests.lazy.compactMap(\.count).first, bytes = manifests.reduce(0) { $0 + $1.fileBytes }
            let summary = StepSummary(step: save.step, sequence: CommitSequence(attempt: save.attempt, count: count ?? 0), save: save, parent: nil, ranks: here.count,
                                      worldSize: first.worldSize, bytes: bytes, pinned: pins.contains(save), superseded: false, savedAt: first.savedAt)
            return RetentionStep(summary, isCommitted: false, isOrdered: count != nil, savedAtSeconds: Clock.utcSeconds(iso8601: first.savedAt))
        }
    }

    private func manifests(_ parts: [BesideFiles.Part]) -> [Manifest] {
        parts.compactMap { try? folders.read(Manifest.self, $0.root, "\(Names.runFolder(run))/\($0.manifest)").value }
    }

    private func dropVoid(_ parts: [SaveID: [BesideFiles.Part]], _ decided: [SaveID: DecisionCopy], except protected: Set<SaveID>) throws {
        for save in parts.keys where !protected.contains(save) && decided[save].map({ $0.commit == nil }) ?? false { try beside.removeFiles(run, save) }
        let newest = try beside.highestAttempt(run)
        for save in decided.keys where parts[save] == nil && save.attempt < newest - 1 && !protected.contains(save) { try beside.removeCopy(run, save) }
    }
}
