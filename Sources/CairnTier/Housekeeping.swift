// Runs and what is left of old ones: listing, the scan at start, retention, deletion of what was renamed away.
// (1) At start a worker removes only what its own node's earlier instances left, and no file that a living worker holds locked.
// (2) Removal is a rename; what is below it is deleted ten minutes later.
import CairnIO
import CairnMessages
import CairnModel
import CairnStore

final class Housekeeping: Sendable {
    private let folders: TierFolders
    private let steps: StepFolders
    private let decisions: Decisions
    private let beside: BesideFiles
    private let attempts: Attempts
    private let reading: StepReading
    /// Undecided local saves are left alone until main has been told of them.
    private let hasScanned: Monitor<Bool>

    init(_ folders: TierFolders, steps: StepFolders, decisions: Decisions, beside: BesideFiles, attempts: Attempts, reading: StepReading) {
        self.folders = folders
        hasScanned = Monitor(folders.start.wasScanned)
        self.steps = steps
        self.decisions = decisions
        self.beside = beside
        self.attempts = attempts
        self.reading = reading
    }

    private var isBeside: Bool { folders.start.form == .beside }

    func runKeys() throws -> [RunKey] {
        var keys: Set<RunKey> = []
        for root in folders.roots {
            for user in try folders.names(root, "") where user.isFolder {
                guard let uid = UInt32(user.name), Names.userFolder(uid) == user.name else { continue }
                for run in try folders.names(root, user.name) where run.isFolder && RunKey.isValidName(run.name) { keys.insert(RunKey(uid: uid, name: run.name)) }
            }
        }
        return keys.sorted()
    }

    func list(_ run: RunKey) throws -> [StepSummary] {
        guard !isBeside else { return try beside.summaries(run) }
        try decisions.completeAll(run)
        return try steps.summaries(run)
    }

    func runs() throws -> [RunSummary] {
        try runKeys().map { run in
            let steps = try list(run)
            return RunSummary(run: run, steps: steps.count, bytes: steps.reduce(0) { $0 + $1.bytes }, newest: steps.map(\.sequence).max())
        }
    }

    func space() throws -> [PathSpace] {
        try folders.roots.map { root in
            let space = try Files.space(root.folder)
            return PathSpace(path: root.path, totalBytes: space.totalBytes, freeBytes: space.freeBytes)
        }
    }

    // MARK: scan

    func scan() throws -> [FoundRankSave] {
        var found: [FoundRankSave] = []
        for run in try runKeys() {
            try sweep(run)
            if isBeside {
                found += try scanBeside(run)
            } else {
                try decisions.completeAll(run)
                found += try scanSaving(run)
            }
        }
        hasScanned.withLock { $0 = true }
        return found
    }

    /// After a worker's death: the daemon's one scan is over.
    func sweepAll() throws {
        for run in try runKeys() { try sweep(run) }
    }

    private func sweep(_ run: RunKey) throws {
        let folder = Names.runFolder(run)
        for root in folders.roots {
            for entry in try folders.names(root, folder) {
                if Names.isTemporary(entry.name) { sweep(root, "\(folder)/\(entry.name)") }
                guard entry.isFolder, Names.saving(entry.name) != nil || entry.name == Names.attempts || entry.name == Names.decisions else { continue }
                for inner in try folders.names(root, "\(folder)/\(entry.name)") {
                    if Names.isTemporary(inner.name) { sweep(root, "\(folder)/\(entry.name)/\(inner.name)") }
                }
            }
        }
    }

    /// A temporary of this node: removed unless it is this instance's, or a living worker holds it, or it is too young to tell.
    private func sweep(_ root: TierRoot, _ path: String) {
        guard let name = path.split(separator: "/").last.map(String.init), Names.isTemporary(name, ofNode: folders.node), !name.contains(".\(folders.maker).") else { return }
        do {
            let status = try Files.stat(root.folder, path)
            if name.contains(".json.") || name.contains(".bin.") || name.contains(".crc.") || name.contains(".probe.") {
                guard Clock.utcSeconds() - status.modifiedSeconds > TierLimits.temporarySeconds else { return }
            } else {
                guard try Files.tryLock(try Files.open(root.folder, path, flags: .read)) else { return }
            }
            try Files.unlink(root.folder, path)
        } catch { return }                                     // gone meanwhile, or not to be touched: the next start looks again
    }

    private func scanSaving(_ run: RunKey) throws -> [FoundRankSave] {
        var found: [FoundRankSave] = []
        let folder = Names.runFolder(run)
        for entry in try folders.names(folders.first, folder) where entry.isFolder {
            // Files of a branch's first step are another run's.
            guard let save = Names.saving(entry.name), save.attempt >= 1 else { continue }
            let decision = try decisions.readable(run, save)?.outcome
            for inner in try folders.names(folders.first, "\(folder)/\(entry.name)") {
                guard case .manifest(let rank, _)? = Names.rankFile(inner.name),
                      let manifest = try? folders.read(Manifest.self, folders.first, "\(folder)/\(entry.name)/\(inner.name)").value,
                      manifest.rank == rank, manifest.save == save, manifest.runKey == run else { continue }
                found.append(Self.found(manifest, decision))
            }
        }
        return found
    }

    private func scanBeside(_ run: RunKey, step: Int? = nil) throws -> [FoundRankSave] {
        let decided = try beside.decisions(run)
        var found: [FoundRankSave] = [], tokens: [Int: String?] = [:]
        for (save, parts) in try beside.parts(run).sorted(by: { $0.key < $1.key }) where step == nil || save.step == step {
            let decision: DecisionOutcome? = decided[save].map { copy in
                switch copy.decision.decision {
                case .commit(let commit): .committed(sequence: commit.sequence)
                case .void(let reason): .void(reason: reason)
                }
            }
            if tokens[save.attempt] == nil { tokens[save.attempt] = .some((try? attempts.record(run, save.attempt))?.tokenHash) }
            for part in parts {
                let path = "\(Names.runFolder(run))/\(part.manifest)"
                guard let manifest = try? folders.read(Manifest.self, part.root, path).value, manifest.save == save, manifest.rank == part.rank,
                      manifest.runKey == run else { continue }
                found.append(Self.found(manifest, decision, tokenHash: tokens[save.attempt] ?? nil))
            }
        }
        return found
    }

    /// Parts here of a run's saves, but void ones: what may be restored or promoted.
    func held(_ run: RunKey, step: Int?) throws -> [FoundRankSave] {
        guard isBeside else { throw TierFailure(kind: .invalid, text: "the committing tier holds steps, not parts") }
        return try scanBeside(run, step: step).filter { found in
            // A rank's copies of others' replicas go nowhere, and are read from here as they lie.
            if case .void? = found.decision { false } else { !Copies.isCopies(found.key.rank) }
        }
    }

    private static func found(_ manifest: Manifest, _ decision: DecisionOutcome?, tokenHash: String? = nil) -> FoundRankSave {
        FoundRankSave(key: RankSaveKey(run: manifest.runKey, save: manifest.save, rank: manifest.rank), step: manifest.step, worldSize: manifest.worldSize,
                      fileBytes: manifest.fileBytes, count: manifest.count, decision: decision, upto: manifest.upto, participants: manifest.participants,
                      tokenHash: tokenHash)
    }

    // MARK: removal

    func remove(_ ref: StepRef) throws {
        defer { reading.forget(ref.run) }
        if isBeside { return try beside.remove(ref.run, try beside.save(of: ref)) }
        let step = try steps.find(ref)
        guard try steps.steps(ref.run).map(\.commit.sequence).max() != step.commit.sequence else {
            throw TierFailure(kind: .invalid, text: "step \(ref.step) is the newest committed step of run \(ref.run): it stays until a newer one is committed")
        }
        try steps.remove(ref.run, step.folder)
    }

    /// What is decided is Retention's; here are the facts, and the removal of what may go. Gives what went, or every decision.
    func retain(_ run: RunKey, _ rules: RetentionRules, _ given: RetentionGiven) throws -> [RetentionDecision] {
        let named = try namedByRestores(run)
        let saves = Set(given.protectedSaves), sequences = Set(given.protectedSequences).union(named.compactMap(\.sequence))
        let local = BesideRetention(folders: folders, beside: beside, run: run)
        let found = isBeside ? try local.steps(except: saves, countsBytes: given.explains || given.evictBytes > 0 || rules.maxBytes != nil,
                                               hasScanned: hasScanned.withLock { $0 }, isDry: given.isDry)
            : try steps.retentionSteps(run)
        let facts = found.map { step in
            var step = step
            let save = step.summary.save, sequence = step.summary.sequence
            if saves.contains(save) || sequences.contains(sequence) || named.contains(where: { $0.save == save }) {
                step.hold = .restoring
            } else if reading.isRead(run, sequence, save) { step.hold = .reading }
            return step
        }
        let situation = RetentionSituation(now: Clock.utcSeconds(), isBeside: isBeside, standing: given.standing, elsewhere: Set(given.elsewhere), evictBytes: given.evictBytes)
        let decisions = Retention.decide(facts, rules, situation)
        if !given.isDry {
            defer { if decisions.contains(where: { !$0.isKept }) { reading.forget(run) } }
            for gone in decisions where !gone.isKept {
                if isBeside { try beside.remove(run, gone.save) } else {
                    try steps.remove(run, "\(Names.runFolder(run))/\(Names.stepFolder(step: gone.step, sequence: gone.sequence))")
                }
            }
            if !isBeside { try sweepGone(run) }
        }
        return given.explains ? decisions : decisions.filter { !$0.isKept }
    }

    /// What the newest attempt's ranks agreed to restore may be loaded at this moment.
    private func namedByRestores(_ run: RunKey) throws -> [RestoreChoice] {
        let attempts = "\(Names.runFolder(run))/\(Names.attempts)"
        guard let newest = try folders.names(folders.first, attempts).compactMap({ Names.attemptFolderNumber($0.name) }).max() else { return [] }
        let folder = "\(Names.runFolder(run))/\(Names.attemptFolder(newest))"
        var named: [RestoreChoice] = []
        for entry in try folders.names(folders.first, folder) where Names.restoreNumber(entry.name) != nil {
            if let choice = try folders.readIfSound(RestoreChoice.self, folders.first, "\(folder)/\(entry.name)") { named.append(choice) }
        }
        return named
    }

    /// Void saves, and leftovers of committed ones, are renamed away; what was renamed long ago is deleted.
    private func sweepGone(_ run: RunKey) throws {
        let folder = Names.runFolder(run)
        for entry in try folders.names(folders.first, folder) where entry.isFolder {
            if let save = Names.saving(entry.name), let standing = try decisions.readable(run, save) {
                // A commit that is being completed at this moment still has this name, and keeps its files; so does one that cannot be.
                if case .commit(let commit) = standing.record.decision, try mayBeCompleted(run, commit) { continue }
                try steps.remove(run, "\(folder)/\(entry.name)")
            } else if let seconds = Names.goneSeconds(entry.name), Clock.utcSeconds() - seconds > TierLimits.goneSeconds {
                try removeBelow("\(folder)/\(entry.name)")
            }
        }
    }

    private func mayBeCompleted(_ run: RunKey, _ commit: Commit) throws -> Bool {
        do { return try decisions.isUncompleted(run, commit) } catch let failure as TierFailure where failure.kind == .corrupt { return true }
    }

    /// A step of thousands of ranks is thousands of files, each a round trip to the filesystem.
    private func removeBelow(_ path: String) throws {
        let root = folders.first
        let below: TierRoot
        do { below = TierRoot(path: root.absolute(path), folder: try Files.openFolder(root.folder, path), direct: false) } catch {
            guard error.isMissing else { throw error }
            return                                              // another daemon was quicker
        }
        let files = try folders.names(below, "").filter { !$0.isFolder }
        _ = try concurrently(files.count, threads: TierLimits.removeThreads) { [folders] in try folders.unlinkIfPresent(below, files[$0].name) }
        try Files.removeTree(root.folder, path)
    }
}
