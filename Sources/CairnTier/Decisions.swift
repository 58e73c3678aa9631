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
    /// Participants without a manifest; nil: not looked for.
    case undecided(missing: [Int]?)
}

final class Decisions: Sendable {
    let folders: TierFolders
    private let completing = Mutex(())
    /// Runs of which equal copies were looked for: once is enough.
    private let examined = Mutex<Set<RunKey>>([])

    init(_ folders: TierFolders) { self.folders = folders }

    func savingFolder(_ run: RunKey, _ save: SaveID) -> String { "\(Names.runFolder(run))/\(Names.savingFolder(save))" }

    func standing(_ run: RunKey, _ save: SaveID) throws -> StandingDecision? {
        guard let (record, bytes) = try folders.readIfPresent(DecisionRecord.self, folders.first, "\(Names.runFolder(run))/\(Names.decision(save))") else { return nil }
        return try checked(record, bytes, run, save)
    }

    /// Nil also where what stands cannot be read any more: for lists of a whole run, which one damaged file must not end.
    func readable(_ run: RunKey, _ save: SaveID) throws -> StandingDecision? {
        do { return try standing(run, save) } catch {
            if let failure = error as? TierFailure, failure.kind == .corrupt { return nil }
            throw error
        }
    }

    private func checked(_ record: DecisionRecord, _ bytes: [UInt8], _ run: RunKey, _ save: SaveID) throws -> StandingDecision {
        // A branch has one decision, whichever step was asked for.
        guard record.runKey == run, record.save == save || (save.attempt == 0 && record.save.attempt == 0) else {
            throw TierFailure(kind: .corrupt, text: "the decision of run \(run), save \(save) is one of run \(record.runKey), save \(record.save)")
        }
        return StandingDecision(record: record, bytes: bytes)
    }

    /// Links a decision; gives the one that stands, whoever's it is, after completing it.
    func decide(_ run: RunKey, _ save: SaveID, _ decision: Decision) throws -> StandingDecision {
        let folder = "\(Names.runFolder(run))/\(Names.attemptFolder(save.attempt))"
        try folders.makeFolders(folders.first, folder)
        let own = Record.encode(DecisionRecord(run: run, save: save, decision))
        let bytes: [UInt8]
        let name = Names.decisionName(save)
        switch try folders.publish(folders.first, folder, name, own) {
        case .linked: bytes = own
        case .stood(let other): bytes = other
        }
        let record: DecisionRecord
        do { record = try Record.decode(DecisionRecord.self, from: bytes) } catch {
            throw TierFailure.corrupt(folders.first.absolute("\(folder)/\(name)"), error)
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
        // Nothing is synced for a step that stands: its decision was synced before it got this name, and brings it back if a crash undoes the rename.
        guard try isUncompleted(run, commit) else { return }
        // Whoever linked the decision may have died before its sync: the step's last name must not outlive its decision.
        try Files.syncFolder(root.folder, "\(runFolder)/\(Names.attemptFolder(commit.save.attempt))")
        // One thread at a time: a second one's temporary would be renamed along and stay.
        try completing.withLock { _ in
            guard let names = try uncompleted(run, commit) else { return }
            do {
                try folders.publishExactly(root, from, Names.checkpoint, standing.bytes)
                // Of workers that died: the step would keep them. Whoever still writes one comes too late for this decision.
                for name in names where Names.isTemporaryOfRank(name) && commit.save.attempt >= 1 { try folders.unlinkIfPresent(root, "\(from)/\(name)") }
                try Files.rename(root.folder, from: from, to: to)
            } catch {
                // Another daemon renamed it meanwhile, or retention removed the step since: both are past this point.
                if try Files.statIfPresent(root.folder, to) == nil, try Files.statIfPresent(root.folder, from) != nil { throw error }
            }
        }
        try Files.syncFolder(root.folder, runFolder)
    }

    func isUncompleted(_ run: RunKey, _ commit: Commit) throws -> Bool { try uncompleted(run, commit) != nil }

    /// The names in the folder that has the save's first name, if the commit's files still lie there. A folder of that name which
    /// lacks some was made by a latecomer after the rename, and is no step.
    private func uncompleted(_ run: RunKey, _ commit: Commit) throws -> Set<String>? {
        let root = folders.first
        guard try Files.statIfPresent(root.folder, "\(Names.runFolder(run))/\(commit.folder)") == nil else { return nil }
        let names = Set(try folders.names(root, savingFolder(run, commit.save)).map(\.name))
        return commit.manifests.allSatisfy { names.contains($0.name) } ? names : nil
    }

    func void(_ run: RunKey, _ save: SaveID, reason: String) throws -> StandingDecision {
        if let standing = try standing(run, save) {
            try complete(run, standing)
            return standing
        }
        return try decide(run, save, .void(reason: reason))
    }

    /// Without `lists`: one open of the decision's name, whatever the world's size.
    func look(_ run: RunKey, _ save: SaveID, worldSize: Int, participants: [Int]?, lists: Bool) throws -> Looked {
        if let standing = try standing(run, save) {
            try complete(run, standing)
            return .decided(standing)
        }
        guard lists else { return .undecided(missing: nil) }
        let check = CommitCheck(folders: folders, run: run, save: save, worldSize: worldSize, participants: participants, folder: savingFolder(run, save))
        let missing = try check.manifestNames().missing
        // Decided and renamed between the two looks.
        if !missing.isEmpty, let standing = try standing(run, save) {
            try complete(run, standing)
            return .decided(standing)
        }
        return .undecided(missing: missing)
    }

    func decide(_ run: RunKey, _ save: SaveID, worldSize: Int, participants: [Int]?, parent: CommitSequence?) throws -> Looked {
        let looked = try look(run, save, worldSize: worldSize, participants: participants, lists: true)
        guard case .undecided(let missing) = looked, missing?.isEmpty == true else { return looked }
        let folder = savingFolder(run, save)
        let check = CommitCheck(folders: folders, run: run, save: save, worldSize: worldSize, participants: participants, folder: folder)
        do {
            switch try check.check() {
            case .missing(let missing): return .undecided(missing: missing)
            case .sound(let manifests, let tables, let stored, let ranks):
                let first = ranks[0]                           // rank 0 takes part in every save
                let layout = LayoutFile.encode(stored)
                let layoutName = Names.layout(digest: Record.nameDigest(layout))
                try folders.publishExactly(folders.first, folder, layoutName, layout, limit: StoreLimits.layoutFileBytes)
                let sequence = CommitSequence(attempt: save.attempt, count: first.count ?? 0)
                let commit = Commit(sequence: sequence, parent: (first.parent ?? parent).flatMap { $0 < sequence ? $0 : nil }, step: save.step, save: save,
                                    worldSize: worldSize, manifests: manifests, layoutFile: layoutName, metadata: first.metadata ?? [:], savedAt: first.savedAt)
                let standing = try decide(run, save, .commit(commit))
                if case .commit(let commit) = standing.record.decision {
                    // A save that this misses ends by its timeout, or with the attempt.
                    try? voidSkipped(run, save, by: ranks)
                    pointOutEqualCopies(run, commit, tables)
                }
                return .decided(standing)
            }
        } catch {
            if let unsound = error as? Unsound { return .decided(try decide(run, save, .void(reason: unsound.reason))) }
            // The folder may have been renamed by another daemon's commit while it was read here.
            if let standing = try standing(run, save) {
                try complete(run, standing)
                return .decided(standing)
            }
            throw error
        }
    }

    private func pointOutEqualCopies(_ run: RunKey, _ commit: Commit, _ tables: [RankTable]) {
        guard examined.withLock({ $0.insert(run).inserted }) else { return }
        // It may be gone by now, and it is only a hint.
        if let note = try? EqualCopies(folders: folders, folder: "\(Names.runFolder(run))/\(commit.folder)").note(tables) {
            StandardStreams.write(to: 2, "cairnd tier worker: run \(run): \(note)\n")
        }
    }

    /// Commits of a run whose folder still has its first name.
    func completeAll(_ run: RunKey) throws {
        for entry in try folders.names(folders.first, Names.runFolder(run)) where entry.isFolder {
            guard let save = Names.saving(entry.name), let standing = try readable(run, save) else { continue }
            try complete(run, standing)
        }
    }
}
