// A branch: a committed step of one run becomes the first step of another, without a copy of its bytes where the filesystem can share them.
//   1  its files linked (else cloned, else copied) into the branch's `.saving-0-STEP-1`, the folder synced
//   2  the commit, sequence 0-1, linked as `attempts/000000/branch.json`: the one name decides between branchings at once
//   3  `checkpoint.json`, rename to `step-STEP.0-1`: as for every commit, by whoever sees it next
// (1) Before 2 nothing is visible, and a repeat goes on with what is there; after it everything follows from the record alone.
// (2) The files' own records name the run that wrote them; the commit says which (`writtenAs`), and readers check it.
// (3) Removing the step from either run only takes one of its names away.
import CairnIO
import CairnMessages
import CairnModel
import CairnStore

final class Branching: Sendable {
    private let folders: TierFolders
    private let steps: StepFolders
    private let decisions: Decisions
    /// Off only in tests: how it is where hard links are refused.
    private let usesLinks: Bool

    init(_ folders: TierFolders, steps: StepFolders, decisions: Decisions, usesLinks: Bool = true) {
        self.folders = folders
        self.steps = steps
        self.decisions = decisions
        self.usesLinks = usesLinks
    }

    func branch(_ run: RunKey, from: RunKey, step: Int?, sequence: CommitSequence?) throws -> (step: Int, sequence: CommitSequence) {
        guard folders.start.form == .committing, RunKey.isValidName(run.name), RunKey.isValidName(from.name), run.uid == from.uid, run != from else {
            throw TierFailure(kind: .invalid, text: "run \(run) cannot be a branch of run \(from): a branch is another run of the same user, on the tier that commits")
        }
        if let standing = try standing(run) { return try answer(run, standing, from, step, sequence) }
        try refuseIfBegun(run)
        let source = try source(from, step, sequence)
        let commit = source.commit.branched(from: from.name)
        do {
            try share(source, in: decisions.savingFolder(run, commit.save))
            let standing = try decisions.decide(run, commit.save, .commit(commit))
            try tidy(run, standing, commit.save)
            return try answer(run, standing, from, step, sequence)
        } catch {
            // Another daemon's branching was decided meanwhile, or the step was removed while its files were linked.
            if let standing = try standing(run) {
                try tidy(run, standing, commit.save)
                return try answer(run, standing, from, step, sequence)
            }
            if try Files.statIfPresent(folders.first.folder, source.folder) == nil { throw noSuchStep(from, step ?? source.commit.step, sequence) }
            throw error
        }
    }

    private func standing(_ run: RunKey) throws -> StandingDecision? {
        let any = SaveID(attempt: 0, step: 0, attemptTry: 1)
        if let standing = try decisions.standing(run, any) {
            try decisions.complete(run, standing)
            return standing
        }
        // Where the record is lost the first step's copy brings it back, for as long as that stands.
        guard let copy = try decisions.copyInFolder(run, any), case .commit(let commit) = copy.record.decision else { return nil }
        return try decisions.decide(run, commit.save, .commit(commit))
    }

    /// What was linked for another step, or for this one after it had got its last name.
    private func tidy(_ run: RunKey, _ standing: StandingDecision, _ save: SaveID) throws {
        guard case .commit(let commit) = standing.record.decision else { return }
        let root = folders.first.folder, folder = decisions.savingFolder(run, save)
        guard try Files.statIfPresent(root, "\(Names.runFolder(run))/\(commit.folder)") != nil, try Files.statIfPresent(root, folder) != nil else { return }
        try steps.remove(run, folder)
    }

    /// A branch that stands is the answer to whoever asks for it, also when its first step has long been removed.
    private func answer(_ run: RunKey, _ standing: StandingDecision, _ from: RunKey, _ step: Int?, _ sequence: CommitSequence?) throws -> (step: Int, sequence: CommitSequence) {
        guard case .commit(let commit) = standing.record.decision, let origin = commit.origin else {
            throw TierFailure(kind: .corrupt, text: "what stands for the branching of run \(run) is no branch's first step")
        }
        guard origin.run == from.name, step ?? origin.step == origin.step, sequence ?? origin.sequence == origin.sequence else {
            let asked = "step \(step.map(String.init) ?? "?") of run \(from.name)"
            throw TierFailure(kind: .invalid, text: "run \(run.name) began as a branch of run \(origin.run) at step \(origin.step), sequence \(origin.sequence), and cannot begin at \(asked) too: choose another name for the new run")
        }
        return (commit.step, commit.sequence)
    }

    private func refuseIfBegun(_ run: RunKey) throws {
        let begun = try folders.names(folders.first, Names.runFolder(run)).filter(\.isFolder).compactMap { Names.step($0.name) }
        guard let newest = begun.max(by: { $0.sequence < $1.sequence }) else { return }
        throw TierFailure(kind: .invalid, text: "run \(run.name) has \(begun.count) committed steps already (the newest is step \(newest.step)) and cannot begin as a branch: choose a name without steps, or leave the branch out")
    }

    private func source(_ from: RunKey, _ step: Int?, _ sequence: CommitSequence?) throws -> StepFolders.Step {
        try decisions.completeAll(from)
        let fitting = try steps.steps(from).filter { (step ?? $0.commit.step) == $0.commit.step && (sequence ?? $0.commit.sequence) == $0.commit.sequence }
        guard let newest = fitting.max(by: { $0.commit.sequence < $1.commit.sequence }) else { throw noSuchStep(from, step, sequence) }
        return newest
    }

    private func noSuchStep(_ from: RunKey, _ step: Int?, _ sequence: CommitSequence?) -> TierFailure {
        let which = step.map { " \($0)" } ?? "", of = sequence.map { ", sequence \($0)," } ?? ""
        return TierFailure(kind: .noSuchStep, text: "run \(from.name) has no committed step\(which)\(of) to branch from")
    }

    // MARK: the files

    private func share(_ source: StepFolders.Step, in folder: String) throws {
        try folders.makeFolders(folders.first, folder)
        let commit = source.commit
        let rows = try StepRows.all(folders.first, folder: source.folder, commit)
        let present = Set(try folders.names(folders.first, source.folder).map(\.name))
        let names = rows.flatMap { row in
            // In the form that its manifest says; seldom both lie there.
            let data = Names.data(rank: row.rank), forms = [data, Names.compressed(data)].filter(present.contains)
            return (forms.isEmpty ? [data] : forms) + [Names.checksums(rank: row.rank), row.name]
        } + [commit.layoutFile, commit.manifestsFile] + present.filter(Names.isFile).sorted()
        // By its descriptor, so that nothing unfinished is left in it if another daemon gives it its last name meanwhile.
        let into = try Files.openFolder(folders.first.folder, folder)
        _ = try concurrently(names.count, threads: TierLimits.commitThreads) { [self] index in
            try share("\(source.folder)/\(names[index])", folder, into, names[index])
        }
        try Files.syncFolder(into, ".")
    }

    private func share(_ path: String, _ folder: String, _ into: Descriptor, _ name: String) throws {
        let root = folders.first.folder, target = "\(folder)/\(name)"
        if usesLinks {
            do { return try Files.link(root, from: path, to: target) } catch {
                if error.exists { return try accept(path, target) }
                guard error.refusesLink else { throw error }
            }
        }
        if try Files.statIfPresent(root, target) != nil { return try accept(path, target) }
        let temporary = folders.temporary(for: name)
        let from = try Files.open(root, path, flags: .read)
        let to = try Files.open(into, temporary, flags: [.read, .write, .create, .exclusive], mode: folders.start.fileMode)
        defer { try? Files.unlink(into, temporary) }
        // Held while it is written, so that a scan of another daemon on this node leaves it alone.
        guard try Files.tryLock(to) else { throw TierFailure(kind: .io, text: "'\(folders.first.absolute(folder))/\(temporary)' was taken for a dead worker's file") }
        try folders.setOwner(to, mode: folders.start.fileMode)
        try Files.copy(from, to: to, temporary)
        try Files.sync(to, temporary)
        do { try Files.link(into, from: temporary, to: name) } catch {
            guard error.exists else { throw error }
            try accept(path, target)
        }
    }

    /// Put there by an earlier try or another daemon: the same file, or a copy that was whole before it got this name.
    private func accept(_ path: String, _ target: String) throws {
        let source = try Files.stat(folders.first.folder, path), found = try Files.stat(folders.first.folder, target)
        guard found.inode == source.inode && found.device == source.device || found.bytes == source.bytes else {
            throw TierFailure(kind: .corrupt, text: "'\(folders.first.absolute(target))' stands there and is not '\(path)'", path: folders.first.absolute(target))
        }
    }
}
