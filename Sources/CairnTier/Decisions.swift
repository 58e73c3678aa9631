// Commit or void: one file decides, `attempts/000017/SAVEID.json`, and its first link has the last word.
//   1  all manifests seen and sound            CommitCheck
//   2  the layout file into the save's folder, then the record written and synced, linked, its folder synced
//   3  `checkpoint.json` (the same bytes) into the save's folder, both synced
//   4  that folder renamed to `step-1200.17-41`, the run's folder synced
//   5  told
// (1) Each part may be repeated by anyone, in any order of crashes: 3 and 4 follow from the record alone.
// (2) What is told is what stands there, never what this worker meant to write.
import CairnIO
import CairnMessages
import CairnModel
import CairnStore
import Synchronization

struct StandingDecision: Sendable {
    let record: DecisionRecord
    let bytes: [UInt8]
    var outcome: DecisionOutcome {
        switch record.decision {
        case .commit(let commit): .committed(sequence: commit.sequence)
        case .void(let reason): .void(reason: reason)
        }
    }
}

enum Looked: Sendable {
    case decided(StandingDecision)
    /// Ranks without a manifest.
    case undecided(missing: [Int])
}

final class Decisions: Sendable {
    private let folders: TierFolders
    private let completing = Mutex(())

    init(_ folders: TierFolders) { self.folders = folders }

    private func savingFolder(_ run: RunKey, _ save: SaveID) -> String { "\(Names.runFolder(run))/\(Names.savingFolder(save))" }

    func standing(_ run: RunKey, _ save: SaveID) throws -> StandingDecision? {
        guard let (record, bytes) = try folders.readIfPresent(DecisionRecord.self, folders.first, "\(Names.runFolder(run))/\(Names.decision(save))") else { return nil }
        return try checked(record, bytes, run, save)
    }

    private func checked(_ record: DecisionRecord, _ bytes: [UInt8], _ run: RunKey, _ save: SaveID) throws -> StandingDecision {
        guard record.runKey == run, record.save == save else {
            throw TierFailure(kind: .corrupt, text: "the decision of run \(run), save \(save) is one of run \(record.runKey), save \(record.save)")
        }
        return StandingDecision(record: record, bytes: bytes)
    }

    /// Links a decision; gives the one that stands, whoever's it is, after completing it.
    private func decide(_ run: RunKey, _ save: SaveID, _ decision: Decision) throws -> StandingDecision {
        let folder = "\(Names.runFolder(run))/\(Names.attemptFolder(save.attempt))"
        try folders.makeFolders(folders.first, folder)
        let own = Record.encode(DecisionRecord(run: run, save: save, decision))
        let bytes: [UInt8]
        switch try folders.publish(folders.first, folder, "\(save).json", own) {
        case .linked: bytes = own
        case .stood(let other): bytes = other
        }
        let record: DecisionRecord
        do { record = try Record.decode(DecisionRecord.self, from: bytes) } catch {
            throw TierFailure.corrupt(folders.first.absolute("\(folder)/\(save).json"), error)
        }
        let standing = try checked(record, bytes, run, save)
        try complete(run, standing)
        return standing
    }

    /// Parts 3 and 4 of a commit, as far as they lack.
    func complete(_ run: RunKey, _ standing: StandingDecision) throws {
        guard case .commit(let commit) = standing.record.decision else { return }
        let root = folders.first, runFolder = Names.runFolder(run)
        let from = savingFolder(run, commit.save), to = "\(runFolder)/\(commit.folder)"
        if try isUncompleted(run, commit) {
            // Whoever linked the decision may have died before its sync: the step's last name must not outlive its decision.
            try Files.syncFolder(root.folder, "\(runFolder)/\(Names.attemptFolder(commit.save.attempt))")
            // One thread at a time: a second one's temporary would be renamed along and stay.
            try completing.withLock { _ in
                guard try isUncompleted(run, commit) else { return }
                do {
                    try folders.publishExactly(root, from, Names.checkpoint, standing.bytes)
                    try Files.rename(root.folder, from: from, to: to)
                } catch {
                    // Another daemon renamed it meanwhile, or retention removed the step since: both are past this point.
                    if try Files.statIfPresent(root.folder, to) == nil, try Files.statIfPresent(root.folder, from) != nil { throw error }
                }
            }
        }
        try Files.syncFolder(root.folder, runFolder)
    }

    /// Whether a commit's files still lie in the folder that has the save's first name. A folder of that name which lacks some
    /// was made by a latecomer after the rename, and is no step.
    func isUncompleted(_ run: RunKey, _ commit: Commit) throws -> Bool {
        let root = folders.first
        guard try Files.statIfPresent(root.folder, "\(Names.runFolder(run))/\(commit.folder)") == nil else { return false }
        let names = Set(try folders.names(root, savingFolder(run, commit.save)).map(\.name))
        return commit.manifests.allSatisfy { names.contains($0.name) }
    }

    func void(_ run: RunKey, _ save: SaveID, reason: String) throws -> StandingDecision {
        if let standing = try standing(run, save) {
            try complete(run, standing)
            return standing
        }
        return try decide(run, save, .void(reason: reason))
    }

    func look(_ run: RunKey, _ save: SaveID, worldSize: Int) throws -> Looked {
        if let standing = try standing(run, save) {
            try complete(run, standing)
            return .decided(standing)
        }
        let check = CommitCheck(folders: folders, run: run, save: save, worldSize: worldSize, folder: savingFolder(run, save))
        let missing = try check.manifestNames().missing
        // Decided and renamed between the two looks.
        if !missing.isEmpty, let standing = try standing(run, save) {
            try complete(run, standing)
            return .decided(standing)
        }
        return .undecided(missing: missing)
    }

    func decide(_ run: RunKey, _ save: SaveID, worldSize: Int, parent: CommitSequence?) throws -> Looked {
        let looked = try look(run, save, worldSize: worldSize)
        guard case .undecided(let missing) = looked, missing.isEmpty else { return looked }
        let folder = savingFolder(run, save)
        let check = CommitCheck(folders: folders, run: run, save: save, worldSize: worldSize, folder: folder)
        do {
            switch try check.check() {
            case .missing(let missing): return .undecided(missing: missing)
            case .sound(let manifests, let tables, let first):
                let layout = LayoutFile.encode(worldSize: worldSize, tables: tables)
                let layoutName = Names.layout(digest: Record.nameDigest(layout))
                try folders.publishExactly(folders.first, folder, layoutName, layout, limit: StoreLimits.layoutFileBytes)
                let sequence = CommitSequence(attempt: save.attempt, count: first.count ?? 0)
                let commit = Commit(sequence: sequence, parent: (first.parent ?? parent).flatMap { $0 < sequence ? $0 : nil }, step: save.step, save: save,
                                    worldSize: worldSize, manifests: manifests, layoutFile: layoutName, metadata: first.metadata ?? [:], savedAt: first.savedAt)
                return .decided(try decide(run, save, .commit(commit)))
            }
        } catch let unsound as Unsound {
            return .decided(try decide(run, save, .void(reason: unsound.reason)))
        } catch {
            // The folder may have been renamed by another daemon's commit while it was read here.
            if let standing = try standing(run, save) {
                try complete(run, standing)
                return .decided(standing)
            }
            throw error
        }
    }

    /// Commits of a run whose folder still has its first name.
    func completeAll(_ run: RunKey) throws {
        for entry in try folders.names(folders.first, Names.runFolder(run)) where entry.isFolder {
            guard let save = Names.saving(entry.name), let standing = try standing(run, save) else { continue }
            try complete(run, standing)
        }
    }
}
