// Commit or void: one file decides, `attempts/000017/SAVEID.json`, and its first link has the last word.
//   1  all manifests seen and sound            CommitCheck
//   2  the layout file and the manifests' rows into the save's folder, synced; then the record written and synced, linked, its folder synced
//   3  `checkpoint.json` (the same bytes) into the save's folder, both synced
//   4  that folder renamed to `step-1200.17-41`, the run's folder synced
//   5  told
// (1) Each part may be repeated by anyone, in any order of crashes: 3 and 4 follow from the record alone.
// (2) What is told is what stands there, never what this worker meant to write.
// (3) What a commit names by digest is on disk before the record is: a power cut leaves no commit without its rows.
import CairnIO
import CairnMessages
import CairnModel
import CairnStore

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
    let ahead = ReadAhead()
    private let completing = Monitor(true)
    /// Runs of which equal copies were looked for: once is enough.
    private let examined = Monitor<Set<RunKey>>([])

    init(_ folders: TierFolders) { self.folders = folders }

    func savingFolder(_ run: RunKey, _ save: SaveID) -> String { "\(Names.runFolder(run))/\(Names.savingFolder(save))" }

    func standing(_ run: RunKey, _ save: SaveID) throws -> StandingDecision? {
        do { return try standing(run, save, at: "\(Names.runFolder(run))/\(Names.decision(save))") } catch let failure as TierFailure where failure.kind == .corrupt {
            guard let copy = try copyInFolder(run, save) else { throw failure }
            return copy
        }
    }

    private func standing(_ run: RunKey, _ save: SaveID, at path: String) throws -> StandingDecision? {
        guard let (record, bytes) = try folders.readIfPresent(DecisionRecord.self, folders.first, path) else { return nil }
        return try checked(record, bytes, run, save, at: path)
    }

    /// Part 3 of a commit: the same bytes, put into the save's folder only after they had been linked.
    func copyInFolder(_ run: RunKey, _ save: SaveID) throws -> StandingDecision? {
        let folder = Names.runFolder(run)
        for entry in try folders.names(folders.first, folder) where entry.isFolder {
            let step = Names.step(entry.name).map { (step: $0.step, attempt: $0.sequence.attempt) } ?? Names.saving(entry.name).map { (step: $0.step, attempt: $0.attempt) }
            // A branch has one decision, whichever step was asked for.
            guard let step, step.attempt == save.attempt, save.attempt == 0 || step.step == save.step else { continue }
            do {
                if let copy = try standing(run, save, at: "\(folder)/\(entry.name)/\(Names.checkpoint)") { return copy }
            } catch let failure as TierFailure where failure.kind == .corrupt { continue }   // another save's, or damaged too
        }
        return nil
    }

    /// Nil also where what stands cannot be read any more: for lists of a whole run, which one damaged file must not end.
    func readable(_ run: RunKey, _ save: SaveID) throws -> StandingDecision? {
        do { return try standing(run, save) } catch {
            if let failure = error as? TierFailure, failure.kind == .corrupt { return nil }
            throw error
        }
    }

    private func checked(_ record: DecisionRecord, _ bytes: [UInt8], _ run: RunKey, _ save: SaveID, at path: String) throws -> StandingDecision {
        // A branch has one decision, whichever step was asked for.
        guard record.runKey == run, record.save == save || (save.attempt == 0 && record.save.attempt == 0) else {
            throw TierFailure.corrupt(folders.first.absolute(path), RecordError.inconsistent(reason: "it is the decision of run \(record.runKey), save \(record.save)"))
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
        let record = try folders.decode(DecisionRecord.self, bytes, folders.first, "\(folder)/\(name)")
        let standing = try checked(record, bytes, run, save, at: "\(folder)/\(name)")
        try complete(run, standing)
        return standing
    }

    /// Parts 3 and 4 of a commit, as far as they lack.
    func complete(_ run: RunKey, _ standing: StandingDecision) throws {
        guard case .commit(let commit) = standing.record.decision else { return }
        let root = folders.first, runFolder = Names.runFolder(run)
        let from = savingFolder(run, commit.save), to = "\(runFolder)/\(commit.folder)"
        // Nothing is synced for a step that stands: its decision was synced before it got this name, and brings it back if a crash undoes the rename.
        guard try Files.statIfPresent(root.folder, to) == nil, try Files.statIfPresent(root.folder, from) != nil else { return }
        // Whoever linked the decision may have died before its sync: the step's last name must not outlive its decision.
        try Files.syncFolder(root.folder, "\(runFolder)/\(Names.attemptFolder(commit.save.attempt))")
        // One thread at a time: a second one's temporary would be renamed along and stay.
        try completing.withLock { _ in
            guard let names = try uncompleted(run, commit) else { return }
            do {
                try folders.publishExactly(root, from, Names.checkpoint, standing.bytes)
                // Of workers that died: the step would keep them. Whoever still writes one comes too late for this decision, and finds what
                // it links under its last name; but for a branch (attempt 0), whose folder several daemons fill at once.
                if commit.save.attempt >= 1 {
                    for name in names where Names.isTemporary(name) { try folders.unlinkIfPresent(root, "\(from)/\(name)") }
                }
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
        let root = folders.first, folder = savingFolder(run, commit.save)
        guard try Files.statIfPresent(root.folder, "\(Names.runFolder(run))/\(commit.folder)") == nil else { return nil }
        let names = Set(try folders.names(root, folder).map(\.name))
        guard names.contains(commit.layoutFile), names.contains(commit.manifestsFile) else { return nil }
        do { return try StepRows.all(root, folder: folder, commit).allSatisfy { names.contains($0.name) } ? names : nil } catch let failure as IOFailure where failure.isMissing {
            return nil                                         // renamed since it was listed
        }
    }

    /// The commits and voids of a run's folder may be many: what is damaged in one is no reason to leave the others.
    func completeIfSound(_ run: RunKey, _ standing: StandingDecision) throws {
        do { try complete(run, standing) } catch let failure as TierFailure where failure.kind == .corrupt { return }
    }

    /// A decision for a node that serves these ranks.
    func copy(_ run: RunKey, _ standing: StandingDecision, ranks: [Int]) throws -> DecisionCopy {
        guard case .commit(let commit) = standing.record.decision, !ranks.isEmpty else { return DecisionCopy(standing.record, rows: []) }
        for folder in ["\(Names.runFolder(run))/\(commit.folder)", savingFolder(run, commit.save)] {
            do {
                let rows = try StepRows(folders.first, folder: folder, commit)
                return DecisionCopy(standing.record, rows: try ranks.sorted().compactMap(rows.row))
            } catch {
                // The step may be removed already, or damaged: the decision stands all the same, and is told.
                guard [.missing, .corrupt].contains(TierFailure(error).kind) else { throw error }
            }
        }
        return DecisionCopy(standing.record, rows: [])
    }

    func void(_ run: RunKey, _ save: SaveID, reason: String) throws -> StandingDecision {
        defer { ahead.drop(run, save) }
        return try completed(run, save) ?? decide(run, save, .void(reason: reason))
    }

    /// The decision that stands, after completing it.
    private func completed(_ run: RunKey, _ save: SaveID) throws -> StandingDecision? {
        guard let standing = try standing(run, save) else { return nil }
        try complete(run, standing)
        ahead.drop(run, save)
        return standing
    }

    /// Without `lists`: one open of the decision's name, whatever the world's size.
    func look(_ run: RunKey, _ save: SaveID, worldSize: Int, participants: [Int]?, lists: Bool) throws -> Looked {
        if let standing = try completed(run, save) { return .decided(standing) }
        guard lists else { return .undecided(missing: nil) }
        return try listed(check(run, save, worldSize, participants)).looked
    }

    func check(_ run: RunKey, _ save: SaveID, _ worldSize: Int, _ participants: [Int]?) -> CommitCheck {
        CommitCheck(folders: folders, run: run, save: save, worldSize: worldSize, participants: participants, folder: savingFolder(run, save),
                    known: ahead.parts(run, save, worldSize, participants))
    }

    /// Which manifests are there; where some are not, the save may have been decided and renamed between the two looks.
    private func listed(_ check: CommitCheck) throws -> (looked: Looked, names: [Int: String]) {
        let (names, missing) = try check.manifestNames()
        if !missing.isEmpty, let standing = try completed(check.run, check.save) { return (.decided(standing), names) }
        return (.undecided(missing: missing), names)
    }

    func decide(_ run: RunKey, _ save: SaveID, worldSize: Int, participants: [Int]?, parent: CommitSequence?) throws -> Looked {
        if let standing = try completed(run, save) { return .decided(standing) }
        let check = check(run, save, worldSize, participants)
        let (looked, names) = try listed(check)
        guard case .undecided(let missing) = looked, missing?.isEmpty == true else { return looked }
        do {
            switch try check.check(names) {
            case .missing(let missing): return .undecided(missing: missing)
            case .sound(let sound):
                let standing = try decide(run, save, .commit(try commit(check, sound, parent)))
                ahead.drop(run, save)
                if case .commit(let commit) = standing.record.decision {
                    // A save that this misses ends by its timeout, or with the attempt.
                    try? voidSkipped(run, save, by: sound.parts)
                    pointOutEqualCopies(run, commit, sound.parts)
                }
                return .decided(standing)
            }
        } catch {
            if let unsound = error as? Unsound {
                ahead.drop(run, save)
                return .decided(try decide(run, save, .void(reason: unsound.reason)))
            }
            // The folder may have been renamed by another daemon's commit while it was read here.
            if let standing = try completed(run, save) { return .decided(standing) }
            throw error
        }
    }

    /// The commit of what was found sound; what it names by digest is on disk and synced with it.
    private func commit(_ check: CommitCheck, _ sound: CommitCheck.Sound, _ parent: CommitSequence?) throws -> Commit {
        let save = check.save, rows = sound.parts.map(\.row)
        guard let first = sound.parts.first?.manifest else { throw Unsound(reason: "rank 0 does not take part") }
        let layout = LayoutFile.encode(sound.layout), layoutName = Names.layout(digest: Record.nameDigest(layout))
        try folders.publishExactly(folders.first, check.folder, layoutName, layout, limit: StoreLimits.layoutFileBytes)
        let manifests = ManifestRows.encode(rows), sequence = CommitSequence(attempt: save.attempt, count: first.count ?? 0)
        let commit = Commit(sequence: sequence, parent: (first.parent ?? parent).flatMap { $0 < sequence ? $0 : nil }, step: save.step, save: save,
                            worldSize: check.worldSize, rows: rows, manifestsDigest: manifests.digest, layoutFile: layoutName, metadata: first.metadata ?? [:],
                            savedAt: first.savedAt)
        try folders.publishExactly(folders.first, check.folder, commit.manifestsFile, manifests.bytes, limit: StoreLimits.manifestRowsBytes)
        return commit
    }

    private func pointOutEqualCopies(_ run: RunKey, _ commit: Commit, _ parts: [CommitCheck.Part]) {
        guard examined.withLock({ $0.insert(run).inserted }) else { return }
        // It may be gone by now, and it is only a hint.
        if let note = try? EqualCopies(folders: folders, folder: "\(Names.runFolder(run))/\(commit.folder)").note(parts.prefix(2).map(\.table.table)) {
            StandardStreams.write(to: 2, "cairnd tier worker: run \(run): \(note)\n")
        }
    }

    /// Commits of a run whose folder still has its first name.
    func completeAll(_ run: RunKey) throws {
        for entry in try folders.names(folders.first, Names.runFolder(run)) where entry.isFolder {
            guard let save = Names.saving(entry.name), let standing = try readable(run, save) else { continue }
            try completeIfSound(run, standing)
        }
    }
}
