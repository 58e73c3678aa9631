// What a tier beside keeps: the newest `keep` of the committed steps and of the saves that were to stay here, counted together, since
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

    private struct LocalSave {
        let save: SaveID
        /// Rank 0's count, where its part is here.
        let count: Int?
    }

    func apply(keep: Int?, keepPeriod: Int?, protected: Set<CommitSequence>, saves protectedSaves: Set<SaveID>, hasScanned: Bool) throws -> (steps: [CommitSequence], saves: Int) {
        let committed = try beside.summaries(run)
        let ended = hasScanned ? try dropVoid(except: protectedSaves) : []
        guard let keep else { return ([], 0) }
        let kept = newest(committed, ended, keep: max(1, keep))
        let removed = Retention.decide(steps: committed, keep: committed.count { kept.contains($0.save) }, keepPeriod: keepPeriod, protected: protected)
        for step in committed where removed.contains(step.sequence) { try beside.remove(run, step.save) }
        let dropped = ended.filter { !kept.contains($0.save) }
        for local in dropped { try beside.remove(run, local.save) }
        return (removed, removed.count + dropped.count)
    }

    /// By sequence; on a node without rank 0's parts, which does not know them all, by save id, the same order unless a job went back within an attempt.
    private func newest(_ committed: [StepSummary], _ local: [LocalSave], keep: Int) -> Set<SaveID> {
        if local.allSatisfy({ $0.count != nil }) {
            let order = committed.map { ($0.sequence, $0.save) } + local.map { (CommitSequence(attempt: $0.save.attempt, count: $0.count ?? 0), $0.save) }
            return Set(order.sorted { $0.0 > $1.0 }.prefix(keep).map(\.1))
        }
        return Set((committed.map(\.save) + local.map(\.save)).sorted(by: >).prefix(keep))
    }

    /// Removes what is void; gives the saves that were to stay here.
    private func dropVoid(except protected: Set<SaveID>) throws -> [LocalSave] {
        let decided = try beside.decisions(run), parts = try beside.parts(run)
        var local: [LocalSave] = []
        for (save, parts) in parts where !protected.contains(save) {
            if let copy = decided[save] {
                if copy.commit == nil { try beside.removeFiles(run, save) }
                continue
            }
            let manifests = parts.compactMap { try? folders.read(Manifest.self, $0.root, "\(Names.runFolder(run))/\($0.manifest)").value }
            // Where nothing can be read nothing is known of it: it is left alone.
            guard !manifests.isEmpty, manifests.allSatisfy({ $0.upto <= .local }) else { continue }
            local.append(LocalSave(save: save, count: manifests.lazy.compactMap(\.count).first))
        }
        let newest = try beside.highestAttempt(run)
        for save in decided.keys where parts[save] == nil && save.attempt < newest - 1 && !protected.contains(save) { try beside.removeCopy(run, save) }
        return local
    }
}
