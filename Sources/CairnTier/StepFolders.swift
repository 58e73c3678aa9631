// The committed steps of a committing tier: `step-…` folders, each with its commit inside.
// A commit whose folder still has its `.saving-` name (a daemon ended between the two) is completed by whoever sees it.
import CairnIO
import CairnMessages
import CairnModel
import CairnStore

final class StepFolders: Sendable {
    struct Step: Sendable {
        let commit: Commit
        /// Below the root.
        let folder: String
        var pinned: Bool
    }

    private let folders: TierFolders
    /// By folder; a commit never changes.
    private let commits = Monitor<[String: Commit]>([:])

    init(_ folders: TierFolders) { self.folders = folders }

    func steps(_ run: RunKey) throws -> [Step] {
        let runFolder = Names.runFolder(run)
        let names = try folders.names(folders.first, runFolder)
        var steps: [Step] = []
        for entry in names where entry.isFolder {
            guard let (number, sequence) = Names.step(entry.name) else { continue }
            let folder = "\(runFolder)/\(entry.name)"
            guard let commit = try commit(run, folder), commit.step == number, commit.sequence == sequence else { continue }
            let pinned = try Files.statIfPresent(folders.first.folder, "\(folder)/\(Names.pin)") != nil
            steps.append(Step(commit: commit, folder: folder, pinned: pinned))
        }
        let present = Set(steps.map(\.folder)), prefix = "\(runFolder)/"
        commits.withLock { $0 = $0.filter { present.contains($0.key) || !$0.key.hasPrefix(prefix) } }
        return steps
    }

    func summaries(_ run: RunKey) throws -> [StepSummary] {
        Lineage.markSuperseded(try steps(run).map { $0.commit.summary(pinned: $0.pinned) })
    }

    /// Nil where the folder vanished, or its record is damaged and the decision that it is a copy of too: it is no checkpoint then.
    private func commit(_ run: RunKey, _ folder: String) throws -> Commit? {
        if let commit = commits.withLock({ $0[folder] }) { return commit }
        guard let (step, sequence) = Names.step(String(folder.dropFirst(Names.runFolder(run).count + 1))) else { return nil }
        func commit(_ path: String) throws -> Commit? {
            guard let record = try folders.readIfPresent(DecisionRecord.self, folders.first, path)?.value, record.runKey == run,
                  case .commit(let commit) = record.decision, commit.step == step, commit.sequence == sequence else { return nil }
            return commit
        }
        var found: Commit?, failure: (any Error)?
        do { found = try commit("\(folder)/\(Names.checkpoint)") } catch { failure = error }
        if found == nil, try Files.statIfPresent(folders.first.folder, folder) != nil {
            let decisions = "\(Names.runFolder(run))/\(Names.attemptFolder(sequence.attempt))"
            for entry in try folders.names(folders.first, decisions) where found == nil && Names.isDecision(entry.name, ofStep: step) {
                found = try? commit("\(decisions)/\(entry.name)")
            }
        }
        if let found {
            commits.withLock { $0[folder] = found }
        } else if let failure, TierFailure(failure).kind != .corrupt {
            throw failure
        }
        return found
    }

    func find(_ ref: StepRef) throws -> Step {
        let folder = "\(Names.runFolder(ref.run))/\(Names.stepFolder(step: ref.step, sequence: ref.sequence))"
        guard let commit = try commit(ref.run, folder), try Files.statIfPresent(folders.first.folder, folder) != nil else { throw TierFailure.noSuchStep(ref) }
        if let save = ref.save, save != commit.save { throw TierFailure.noSuchStep(ref) }
        return Step(commit: commit, folder: folder, pinned: try Files.statIfPresent(folders.first.folder, "\(folder)/\(Names.pin)") != nil)
    }

    /// What retention decides on.
    func retentionSteps(_ run: RunKey) throws -> [RetentionStep] {
        try steps(run).map { RetentionStep($0.commit, pinned: $0.pinned) }
    }

    func pin(_ ref: StepRef, _ pinned: Bool) throws {
        let step = try find(ref)
        guard pinned != step.pinned else { return }
        let path = "\(step.folder)/\(Names.pin)"
        if pinned {
            do { try Files.writeNew(folders.first.folder, path, [], mode: folders.start.fileMode) } catch {
                if !error.exists { throw error }
            }
        } else {
            try folders.unlinkIfPresent(folders.first, path)
        }
        try Files.syncFolder(folders.first.folder, step.folder)
    }

    /// Renamed away at once; its files are deleted later, when nobody can be reading there any more.
    func remove(_ run: RunKey, _ folder: String) throws {
        let runFolder = Names.runFolder(run), name = String(folder.dropFirst(runFolder.count + 1))
        do { try Files.rename(folders.first.folder, from: folder, to: "\(runFolder)/\(Names.gone(name, seconds: Clock.utcSeconds()))") } catch {
            if !error.isMissing { throw error }              // another daemon was first
        }
        try Files.syncFolder(folders.first.folder, runFolder)
    }
}

extension RetentionStep {
    /// `bytes` nil: all ranks' files.
    init(_ commit: Commit, pinned: Bool, bytes: Int? = nil) {
        self.init(commit.summary(pinned: pinned), savedAtSeconds: Clock.utcSeconds(iso8601: commit.savedAt), bytes: bytes, metadata: commit.metadata)
    }
}
