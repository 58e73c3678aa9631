// What must hold of the disks after every event, and what the simulation remembers of what was said.
import CairnEngine
import CairnMessages
import CairnModel

/// A rank's save of one launch (two launches may come to the same number while they cannot see each other).
struct Told: Hashable { var key: RankSaveKey, token: String }
struct Telling { var level: Level, finalLevel: Level, daemon: Int }

extension World {
    func ledger(_ record: SaveRecord, at daemon: Daemon) {
        tellings[Told(key: record.key, token: record.token)] = Telling(level: record.level, finalLevel: record.finalLevel, daemon: daemon.index)
    }

    /// I11: a decision was linked just now. Checked with what stands, not with what its worker believed.
    func linked(_ decision: Decision, _ save: SaveID, by daemon: Daemon) {
        note("d\(daemon.index): \(save) is decided: \(decision.outcome)")
        disk.damaged.remove(save)
        if damages.once(in: 12), may(.damage) {
            note("the decision of \(save) is damaged")
            mark(.decisionDamaged)
            disk.damaged.insert(save)
        }
        guard let sequence = decision.sequence else { return mark(save.attempt < newestNumber ? .leftoverVoided : .voided) }
        commits += 1
        var tokens: Set<String> = []
        for rank in decision.members {
            guard let file = disk.files[disk.key(save, rank)] else { fail("I2: \(save) is committed though rank \(rank)'s file is not there"); continue }
            tokens.insert(file.token)
            if file.participants != decision.participants || file.worldSize != decision.worldSize { fail("I11: \(save) is committed with manifests of different worlds") }
            if toldFailed.contains(Told(key: disk.key(save, rank), token: file.token)) { fail("I11: \(save) is committed though rank \(rank) was told that it failed") }
        }
        if tokens.count > 1 { fail("I11: \(save) is committed of files of launches \(tokens.sorted())") }
        if let other = everCommitted[sequence], other != save { fail("I11: sequence \(sequence) is given to \(other) and to \(save)") }
        everCommitted[sequence] = save
        let job = jobs.first { tokens.contains($0.token) }
        mark(job?.ranks.first?.daemon === daemon ? .committedByRankZero : .committedByStandIn)
        if decision.participants != nil { mark(.participantsCommitted) }
        if save.attemptTry > 1 { mark(.retryCommitted) }
        if let number = job?.number, number < newestNumber { mark(.leftoverFinished) }
        for rank in decision.members where tellings[Told(key: disk.key(save, rank), token: tokens.first ?? "")]?.finalLevel == .committed {
            if jobs.first(where: { tokens.contains($0.token) }).map({ settings.finalLevel($0.upto(save.step)) != .committed }) == true { mark(.promotedCommitted) }
        }
    }

    /// I2, I3 and I11, where a disk has changed.
    func checkDisk() {
        guard disk.hasChanged else { return }
        disk.hasChanged = false
        for (sequence, save) in disk.steps.entries {
            guard disk.decisions[save.value]?.sequence == sequence else { return fail("I2: step \(sequence) is visible though no decision says so") }
            guard let decision = disk.decisions[save.value], disk.isWhole(save.value, members: decision.members) else { return fail("I2: step \(sequence) is visible and not whole") }
            newestNamed = max(newestNamed ?? sequence, sequence)
        }
        if let newest = newestNamed, disk.steps[newest] == nil { fail("I3: the newest committed step, \(newest), is gone") }
    }

    /// I4: a save whose parts all stand is decided within rank 0's daemon's time and then another's, where a daemon that serves it is sound.
    func planDecisionCheck() {
        after(500 * Self.ms) { [self] in
            let bound = (settings.limits.standInMs + settings.limits.listsMs + 2_500) * Self.ms
            for whole in disk.undecidedWhole {
                for daemon in daemons where daemon.up && daemon.workers[settings.committing] != nil {
                    guard daemon.recordsByKey.values.contains(where: { $0.key.save == whole.save && !$0.ended && $0.level == .global }) else { continue }
                    if now - max(whole.since, daemon.healthySince) > bound, outageUntil < now {
                        fail("I4: all parts of \(whole.save) have stood for \((now - whole.since) / Self.ms) ms and nobody decides, not daemon \(daemon.index) either")
                    }
                }
            }
            planDecisionCheck()
        }
    }

    /// I1: what an older attempt's ranks had all published is decided before a restore is chosen, unless it takes too long.
    func checkChoice(_ best: Candidate?, _ name: RestoreName, by daemon: Daemon) {
        let bound = (settings.limits.leftoverMs + settings.limits.leftoverFinishMs) * Self.ms
        guard let job = jobs.first(where: { $0.number == name.attempt }), now - job.launchedAt < bound else { return }
        for whole in disk.undecidedWhole where whole.save.attempt < name.attempt && now - whole.since > 1_500 * Self.ms {
            let sequence = CommitSequence(attempt: whole.save.attempt, count: whole.count)
            if best.map({ $0.sequence < sequence }) ?? true {
                fail("I1: restore \(name.attempt).\(name.restore) chooses \(best.map { "\($0.sequence)" } ?? "nothing") while all parts of \(whole.save) stand undecided")
            }
        }
    }

    func removing(_ sequence: CommitSequence) {
        if sequence == everCommitted.keys.max() { fail("I3: retention removes the newest committed step, \(sequence)") }
    }

    /// I1 after a node's crash: what was told `local` or more there is still on a disk.
    func checkTold(at daemon: Daemon) {
        for (told, telling) in tellings where telling.daemon == daemon.index && telling.level >= .local && telling.level != .failed {
            let key = told.key
            if let decision = disk.decisions[key.save] {
                guard telling.level == .committed || decision.sequence != nil else { continue }
            } else if telling.level == .committed { return fail("I1: \(key) was told committed and the decision is lost") }
            if telling.level == .local, telling.finalLevel == .local { continue }   // retention's, once it has ended
            if daemon.localDisk.retired.contains(key) { continue }   // taken by the engine itself, which had not told yet
            if let sequence = disk.decisions[key.save]?.sequence, disk.removed.contains(sequence) { continue }
            guard disk.files[key] == nil, daemon.localDisk.files[key] == nil || telling.level == .global else { continue }
            return fail("I1: \(key) was told \(telling.level) and is on no disk after its node's crash")
        }
    }

    /// I4 at the end: a file decides on all that was durable and was to be committed.
    func checkAllDecided() {
        for key in disk.files.entries.keys.sorted(by: { ($0.save, $0.rank) < ($1.save, $1.rank) }) where disk.decisions[key.save] == nil {
            // Its promotion was lost with the daemon that knew of it; the save itself has ended where its manifest says.
            if let file = disk.files[key], settings.finalLevel(file.upto) != .committed { continue }
            return fail("I4: \(key) stands on the committing tier and nobody decides")
        }
        for (told, telling) in tellings where telling.finalLevel == .committed && telling.level >= .local && disk.decisions[told.key.save] == nil {
            if telling.level == .failed || daemons[telling.daemon].localDisk.retired.contains(told.key) { continue }
            return fail("I4: \(told.key) of \(told.token) was told \(telling.level) and nobody decides")
        }
    }

    // MARK: restores

    func chose(_ best: Candidate?, _ name: RestoreName, at worker: TierModel) {
        guard jobs.contains(where: { $0.number == name.attempt || $0.number == 0 }) else { return }
        if worker.isCommitting, name.restore == 1 { checkChoice(best, name, by: worker.daemon) } else if !worker.isCommitting { mark(.chosenBeside) }
        if let job = jobs.first(where: { $0.number == name.attempt }), job.ranks[0].daemon !== worker.daemon { mark(.chosenByStandIn) }
        guard let best else { return mark(.restoredNothing) }
        if best.level != .committed { mark(.restoredUncommitted) }
        let steps = worker.summaries()
        if jobs.first(where: { $0.number == name.attempt })?.restoreStep == nil || name.restore > 1, steps.contains(where: { $0.sequence == best.sequence && $0.superseded }) {
            fail("I12: restore \(name.attempt).\(name.restore) chooses \(best.sequence), which a later line has left behind")
        }
    }

    /// What stands as this restore's choice, on the committing tier or beside.
    func chosen(_ name: RestoreName, by daemon: Daemon) -> Candidate? {
        let beside: Candidate?? = settings.hasBeside ? daemon.localDisk.choices[name] : nil
        return (disk.choices[name] ?? beside) ?? nil
    }

    struct SaveOfSequence { var id: SaveID, worldSize: Int, members: [Int] }
    func save(of sequence: CommitSequence, by daemon: Daemon) -> SaveOfSequence? {
        let candidates = (disk.choices.entries.values.map(\.value) + daemon.localDisk.choices.entries.values.map(\.value)).compactMap { $0 }
        guard let id = everCommitted[sequence] ?? candidates.first(where: { $0.sequence == sequence })?.save else { return nil }
        if let decision = disk.decisions[id], decision.sequence != nil { return SaveOfSequence(id: id, worldSize: decision.worldSize, members: decision.members) }
        guard let job = jobs.first(where: { $0.number == id.attempt }) else { return nil }
        return SaveOfSequence(id: id, worldSize: job.worldSize, members: job.participants(id.step) ?? Array(0..<job.worldSize))
    }

    /// I12 and I7: a restore has returned to a rank. What it names is committed, or was agreed on uncommitted.
    func returned(_ sequence: CommitSequence?, _ name: RestoreName, to rank: Rank) {
        guard let sequence else { return }
        let chosen = chosen(name, by: rank.daemon)
        if chosen?.sequence != sequence { fail("I12: rank \(rank.rank) returns from restore \(name.attempt).\(name.restore) with \(sequence); the choice that stands is \(String(describing: chosen?.sequence))") }
        mark(.restoredCommitted)
        if rank.job.restoreStep != nil, sequence != disk.steps.entries.keys.max() { mark(.restoredOlder) }
        if let save = save(of: sequence, by: rank.daemon), save.worldSize != rank.job.worldSize { mark(.restoredElastic) }
    }

    // MARK: coverage

    /// The abstract situation in which an event met a daemon: what came, how far its save is, how the tiers are, what is decided, where
    /// the restore stands.
    func cover(_ event: Event, _ daemon: Daemon) {
        var state = UInt64(event.kindNumber)
        func add(_ value: Int, _ values: UInt64) { state = state * values + UInt64(value) }
        if case .tierLost = event, daemon.engine.poolReport.quarantined > 0 { mark(.slotsRested) }
        if case .tier(let tier, let reply) = event {
            add(tier == .local ? 1 : 2, 3)
            let subject = reply.id.flatMap { daemon.subjects.removeValue(forKey: $0) }
            let levels = subject.map { save in daemon.recordsByKey.values.filter { $0.key.save == save }.map { $0.level.number } } ?? []
            add(levels.min().map { $0 + 1 } ?? 0, 8)
            add(levels.max().map { $0 + 1 } ?? 0, 8)
            let decision = subject.flatMap { disk.decisions[$0] }
            add(decision.map { $0.sequence == nil ? 2 : 1 } ?? 0, 3)
        } else {
            add(0, 3 * 8 * 8 * 3)
        }
        for report in daemon.engine.tierReports { add(report.up ? report.stalled ? 2 : 1 : 0, 3) }
        add(daemon.stager == nil ? 0 : 1, 2)
        add(min(3, daemon.engine.unfinishedCount), 4)
        let ranks = daemon.sessions.values
        add(ranks.isEmpty ? 0 : ranks.contains { $0.restoring != nil } ? 1 : ranks.contains { !$0.restored } ? 2 : 3, 4)
        add(now < outageUntil ? 1 : 0, 2)
        coverage.states.insert(state)
    }
}

extension Level {
    var number: Int { Level.allCases.firstIndex(of: self) ?? 0 }
}

extension Event {
    /// Which kind of event, and of reply.
    var kindNumber: Int {
        switch self {
        case .open: 1
        case .sessionEnded: 2
        case .save: 3
        case .hungUp: 4
        case .wait: 5
        case .choose: 6
        case .settle: 7
        case .promote: 8
        case .discard: 47
        case .put: 48
        case .kept: 49
        case .callGone: 9
        case .stagerReady: 10
        case .stagerLost: 11
        case .tierReady: 12
        case .tierLost: 13
        case .slotsHeld: 14
        case .slotsReleased: 15
        case .drain: 16
        case .tick: 17
        case .stager(let reply):
            switch reply {
            case .staged: 18
            case .eagerStaged: 19
            case .stageFailed: 20
            case .cancelled: 21
            case .slotFree: 22
            default: 23
            }
        case .tier(_, let reply):
            switch reply {
            case .done: 24
            case .failed(_, let failure): failure.kind == .io ? 25 : failure.kind == .noSpace ? 26 : 27
            case .attempt(_, let number): number == nil ? 28 : 29
            case .decision(_, .committed): 30
            case .decision(_, .void): 31
            case .missing(_, let ranks): ranks == nil ? 32 : ranks?.isEmpty == true ? 33 : 34
            case .leftovers(_, _, let left): left.isEmpty ? 35 : 36
            case .choice(_, let chosen, let step, _, _, _): chosen ? step == nil ? 37 : 38 : 39
            case .verdict(_, let ok, _): ok.map { $0 ? 40 : 41 } ?? 42
            case .steps: 43
            case .removed: 44
            case .scanned: 45
            default: 46
            }
        }
    }
}
