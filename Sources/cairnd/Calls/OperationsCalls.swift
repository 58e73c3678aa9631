// dev.cairn.Operations: what the CLI calls. Everyone sees their own runs; operators see all and name others' as UID/RUN.
import CairnEngine
import CairnIO
import CairnMessages
import CairnModel
import CairnStore
import CairnWire

extension Daemon {
    func operations(_ request: Operations.Request, _ context: CallContext) {
        switch request {
        case .status: status(context)
        case .runs(let parameters): runs(parameters, context)
        case .describe(let parameters):
            withRun(parameters.uid, parameters.run, context) { describeStep($0, parameters.step, parameters.sequence, context) }
        case .path(let parameters): withRun(parameters.uid, parameters.run, context) { path($0, parameters.step, context) }
        case .verify(let parameters): withRun(parameters.uid, parameters.run, context) { verify($0, parameters.step, parameters.tier, context) }
        case .pin(let parameters): withRun(parameters.uid, parameters.run, context) { pin($0, parameters.step, true, context) }
        case .unpin(let parameters): withRun(parameters.uid, parameters.run, context) { pin($0, parameters.step, false, context) }
        case .delete(let parameters): withRun(parameters.uid, parameters.run, context) { delete($0, parameters.step, context) }
        case .drain(let parameters): drain(parameters, context)
        case .watch(let parameters): watch(parameters, context)
        case .metrics: context.reply(Operations.Metrics.Reply(text: metrics()))
        }
    }

    private func isOperator(_ context: CallContext) -> Bool { operators.allows(context.connection) }

    /// The run that a caller means, if they may see it. Another user's run is as if it did not exist (I8).
    private func withRun(_ uid: UInt32?, _ name: String, _ context: CallContext, _ body: (RunKey) -> Void) {
        guard RunKey.isValidName(name) else { return context.fail(.noSuchRun(run: name)) }
        let owner = uid ?? context.uid
        guard owner == context.uid || isOperator(context) else { return context.fail(.noSuchRun(run: "\(owner)/\(name)")) }
        body(RunKey(uid: owner, name: name))
    }

    // MARK: status

    private func status(_ context: CallContext) {
        let tiers = engine.tiers.filter { tierLinks[$0]?.state == .up }
        var left = tiers.count
        guard left > 0 else { return replyStatus(context) }
        for tier in tiers {
            // One second at most: a hung filesystem must not hide what status is asked for.
            askTier(tier, seconds: 1, { .space(id: $0) }) { [unowned self] reply, _ in
                if case .space(_, let paths) = reply { tierSpaces[tier] = paths }
                left -= 1
                if left == 0 { replyStatus(context) }
            }
        }
    }

    private func replyStatus(_ context: CallContext) {
        let all = isOperator(context), pool = engine.poolReport
        let saves = engine.saveReports().filter { all || $0.run.uid == context.uid }.map { report in
            Operations.SaveStatus(
                uid: report.run.uid, run: report.run.name, save: report.save.description, step: report.save.step, level: report.level,
                ranksStaged: report.stagedRanks, ranks: report.ranks.count, worldSize: report.worldSize, totalBytes: report.bytes,
                stagedBytes: report.stagedBytes, localBytes: report.localBytes, globalBytes: report.globalBytes, ageMs: report.ageNs / 1_000_000,
                reason: report.reason)
        }
        let visible = sessions.values.filter { all || $0.run.uid == context.uid }
        let perRun = Dictionary(grouping: visible, by: \.run).sorted { $0.key < $1.key }.map { run, sessions in
            Operations.RunSessions(uid: run.uid, run: run.name, sessions: sessions.count, worldSize: sessions.first?.worldSize ?? 0)
        }
        var notes = lockNote.map { [$0] } ?? []
        for tier in engine.tiers { notes += (tierLinks[tier]?.notes ?? []).map { "\(tier) tier: \($0)" } }
        context.reply(Operations.Status.Reply(
            daemon: Operations.Daemon(version: CairnVersion.text, node: node, instance: instance, pid: Int(ProcessFacts.pid),
                                      uptimeSeconds: (loop.nowNanoseconds - startedAt) / 1_000_000_000, socket: configuration.socket,
                                      configuration: configurationFile, draining: stopping),
            pool: Operations.Pool(bytes: pool.slots * Sizes.chunkBytes, filledBytes: filledSlots * Sizes.chunkBytes,
                                  lockedBytes: lockedSlots * Sizes.chunkBytes, chunks: pool.slots, free: pool.free, needed: pool.needed,
                                  cached: pool.cached, quarantined: pool.quarantined, lockNote: lockNote),
            workers: workerStatus(), tiers: engine.tierReports.map(tierStatus), saves: saves,
            sessions: Operations.Sessions(count: visible.count, runs: perRun), notes: notes))
    }

    private func workerStatus() -> [Operations.Worker] {
        ([stager] + engine.tiers.compactMap { tierLinks[$0] }).map { link in
            Operations.Worker(role: link.role, pid: link.child.map { Int($0.pid) },
                              state: link.state == .up ? .up : link.state == .starting ? .starting : .degraded,
                              io: link.io, direct: link.direct, note: link.notes.first, restarts: max(0, link.restarts))
        }
    }

    private func tierStatus(_ report: TierReport) -> Operations.TierStatus {
        let paths = tierSpaces[report.tier] ?? configuredPaths(report.tier).map { PathSpace(path: $0, totalBytes: 0, freeBytes: 0) }
        let reason = report.stalled ? "its filesystem does not answer" : report.up ? nil : report.reason ?? "starting"
        let remedy = reason.map { _ in
            report.stalled ? "check the filesystem under \(paths.first?.path ?? "the tier") (dmesg, its servers); saves go on where they can, and resume when it answers"
                : "see the daemon's log; the worker is started again by itself"
        }
        return Operations.TierStatus(tier: report.tier.rawValue,
                                     paths: paths.map { Operations.Folder(path: $0.path, totalBytes: $0.totalBytes, freeBytes: $0.freeBytes) },
                                     state: report.stalled ? .degraded : report.up ? .up : .degraded, reason: reason, remedy: remedy,
                                     queuedBytes: report.queuedBytes, writtenBytes: report.writtenBytes, compression: "none")
    }

    private func configuredPaths(_ tier: Tier) -> [String] {
        tier == .local ? configuration.tiers.local?.paths ?? [] : configuration.tiers.global.map { [$0.path] } ?? []
    }

    // MARK: runs and steps

    private func runs(_ parameters: Operations.Runs.Parameters, _ context: CallContext) {
        let all = isOperator(context)
        if let uid = parameters.uid, uid != context.uid, !all { return context.reply(Operations.Runs.Reply(runs: [])) }
        func collect(_ found: [RunSummary], from tier: Tier) {
            let keys = Set(found.map(\.run)).union(engine.knownRuns.filter { !engine.saveReports(run: $0).isEmpty })
            let wanted = keys.filter { key in
                (all || key.uid == context.uid) && (parameters.uid.map { $0 == key.uid } ?? true) && (parameters.run.map { $0 == key.name } ?? true)
            }.sorted()
            collectRuns(wanted[...], from: tier, []) { context.reply(Operations.Runs.Reply(runs: $0)) }
        }
        let committing = engine.committing
        askTier(committing, seconds: listSeconds, { .runs(id: $0) }) { [unowned self] reply, _ in
            switch reply {
            case .runs(_, let found): collect(found, from: committing)
            case .failed(_, let failure):
                guard let beside = engine.beside, failure.kind == .io else { return context.fail(wireError(failure, tier: committing)) }
                askTier(beside, { .runs(id: $0) }) { [unowned self] reply, _ in
                    guard case .runs(_, let found) = reply else { return context.fail(wireError(failure, tier: committing)) }
                    collect(found, from: beside)
                }
            default: context.fail(.failed(reason: "the \(committing) tier's worker answered with something else"))
            }
        }
    }

    private func collectRuns(_ keys: ArraySlice<RunKey>, from tier: Tier, _ done: [Operations.Run], _ handler: @escaping ([Operations.Run]) -> Void) {
        guard let key = keys.first else { return handler(done) }
        listSteps(key, from: tier) { [unowned self] result in
            let committed = (try? result.get()) ?? []
            heldBeside(key) { [unowned self] local in
                // Newest first: what is not committed yet, then by sequence.
                let known = Set(committed.map(\.save))
                let unfinished = engine.saveReports(run: key).filter { !known.contains($0.save) }.reversed().map { report in
                    Operations.Step(step: report.save.step, sequence: 0, save: report.save.description, level: report.level,
                                    ranks: report.ranks.count, worldSize: report.worldSize, bytes: report.bytes, pinned: false,
                                    superseded: false, savedAt: "", tiers: [])
                }
                let steps = unfinished + committed.sorted { $0.sequence > $1.sequence }.map { step in
                    var tiers = [engine.committing.rawValue]
                    if local.contains(step.save) { tiers.insert(Tier.local.rawValue, at: 0) }
                    if engine.resident(run: key, save: step.save) != nil { tiers.insert(Tier.memory.rawValue, at: 0) }
                    return Operations.Step(step: step.step, sequence: step.sequence.wire, save: step.save.description, level: .committed,
                                           ranks: step.worldSize, worldSize: step.worldSize, bytes: step.bytes, pinned: step.pinned,
                                           superseded: step.superseded, savedAt: step.savedAt, tiers: tiers)
                }
                let newest = committed.max { $0.sequence < $1.sequence }?.step
                let run = Operations.Run(uid: key.uid, run: key.name, steps: steps, newestCommitted: newest, bytes: committed.reduce(0) { $0 + $1.bytes })
                collectRuns(keys.dropFirst(), from: tier, done + [run], handler)
            }
        }
    }

    private func heldBeside(_ run: RunKey, _ handler: @escaping (Set<SaveID>) -> Void) {
        guard let beside = engine.beside else { return handler([]) }
        askTier(beside, { .list(id: $0, run: run) }) { reply, _ in
            if case .steps(_, let steps) = reply { handler(Set(steps.map(\.save))) } else { handler([]) }
        }
    }

    /// The newest committed step, or the newest with this number.
    private func find(_ run: RunKey, _ step: Int?, _ sequence: CommitSequence? = nil, _ context: CallContext, _ body: @escaping (StepSummary) -> Void) {
        listSteps(run) { result in
            switch result {
            case .failure(let error): context.fail(error)
            case .success(let steps):
                guard !steps.isEmpty else { return context.fail(.noSuchRun(run: run.name)) }
                let fitting = steps.filter { (step == nil || $0.step == step) && (sequence == nil || $0.sequence == sequence) && (step != nil || !$0.superseded) }
                guard let newest = fitting.max(by: { $0.sequence < $1.sequence }) else { return context.fail(.noSuchStep(step: step)) }
                body(newest)
            }
        }
    }

    private func ref(_ run: RunKey, _ step: StepSummary) -> StepRef { StepRef(run: run, step: step.step, sequence: step.sequence, save: step.save) }

    private func stepFolder(_ run: RunKey, _ step: StepSummary) -> String {
        let root = configuredPaths(engine.committing).first ?? ""
        return "\(root)/\(Names.runFolder(run))/\(Names.stepFolder(step: step.step, sequence: step.sequence))"
    }

    private func describeStep(_ run: RunKey, _ step: Int, _ sequence: Int?, _ context: CallContext) {
        find(run, step, sequence.map(CommitSequence.init(wire:)), context) { [unowned self] summary in
            index(run, step: step, sequence: summary.sequence) { [unowned self] result in
                switch result {
                case .failure(let error): context.fail(error)
                case .success(let index):
                    heldBeside(run) { [unowned self] local in
                        var tiers = [engine.committing.rawValue]
                        if local.contains(summary.save) { tiers.insert(Tier.local.rawValue, at: 0) }
                        let folder = stepFolder(run, summary)
                        context.reply(Operations.Describe.Reply(
                            uid: run.uid, run: run.name, step: summary.step, sequence: summary.sequence.wire, save: summary.save.description,
                            parent: summary.parent?.wire, level: .committed, worldSize: summary.worldSize, bytes: summary.bytes, pinned: summary.pinned,
                            superseded: summary.superseded, savedAt: summary.savedAt, metadata: index.metadata,
                            files: index.ranks.map { table in
                                Operations.RankFile(rank: table.rank, node: nil, fileBytes: table.fileBytes, tensors: table.shards.count,
                                                    objects: table.objects.count, tiers: tiers, path: "\(folder)/\(Names.data(rank: table.rank))")
                            },
                            tensors: index.ranks.flatMap { table in table.shards.map { Operations.Tensor($0, rank: table.rank) } },
                            objects: index.ranks.flatMap { table in table.objects.map { Operations.Object($0.object, rank: table.rank) } }))
                    }
                }
            }
        }
    }

    private func path(_ run: RunKey, _ step: Int?, _ context: CallContext) {
        find(run, step, nil, context) { [unowned self] summary in
            context.reply(Operations.Path.Reply(path: stepFolder(run, summary), step: summary.step, sequence: summary.sequence.wire))
        }
    }

    private func pin(_ run: RunKey, _ step: Int, _ pinned: Bool, _ context: CallContext) {
        find(run, step, nil, context) { [unowned self] summary in
            askTier(engine.committing, { .pin(id: $0, ref: self.ref(run, summary), pinned: pinned) }) { [unowned self] reply, _ in
                if case .failed(_, let failure) = reply { return context.fail(wireError(failure, tier: engine.committing, step: step)) }
                context.reply(Nothing())
            }
        }
    }

    /// I3: the newest committed step stays until a newer one is committed.
    private func delete(_ run: RunKey, _ step: Int, _ context: CallContext) {
        listSteps(run) { [unowned self] result in
            guard case .success(let steps) = result else {
                if case .failure(let error) = result { context.fail(error) }
                return
            }
            guard let summary = steps.filter({ $0.step == step }).max(by: { $0.sequence < $1.sequence }) else { return context.fail(.noSuchStep(step: step)) }
            guard summary.sequence != steps.map(\.sequence).max() else {
                return context.fail(.notPermitted(reason: "step \(step) is the newest committed step of this run; it can be deleted once a newer one is committed"))
            }
            guard !summary.pinned else { return context.fail(.notPermitted(reason: "step \(step) is pinned: `cairn unpin \(run.name) \(step)` first")) }
            guard !engine.isNamedByRestore(run: run, sequence: summary.sequence) else {
                return context.fail(.notPermitted(reason: "step \(step) is being restored by the attempt that runs now"))
            }
            let ref = ref(run, summary)
            askTier(engine.committing, { .remove(id: $0, ref: ref) }) { [unowned self] reply, _ in
                if case .failed(_, let failure) = reply { return context.fail(wireError(failure, tier: engine.committing, step: step)) }
                guard let beside = engine.beside else { return context.reply(Nothing()) }
                askTier(beside, { .remove(id: $0, ref: ref) }) { reply, _ in
                    // The local copy may be gone already (retention): then there is nothing to remove.
                    context.reply(Nothing())
                }
            }
        }
    }

    // MARK: verify

    private func verify(_ run: RunKey, _ step: Int?, _ tierName: String?, _ context: CallContext) {
        let tiers: [Tier]
        if let tierName {
            guard let tier = Tier(rawValue: tierName), tier != .memory else { return context.fail(.invalidParameter(parameter: "tier")) }
            guard engine.tiers.contains(tier) else {
                return context.fail(.failed(reason: "this daemon has no \(tier) tier; its \(engine.committing) tier holds all"))
            }
            tiers = [tier]
        } else {
            tiers = engine.tiers
        }
        find(run, step, nil, context) { [unowned self] summary in
            heldBeside(run) { [unowned self] local in
                let held = tierName != nil ? tiers : tiers.filter { $0 == engine.committing || local.contains(summary.save) }
                verify(run, summary, held[...], [], context)
            }
        }
    }

    private func verify(_ run: RunKey, _ summary: StepSummary, _ tiers: ArraySlice<Tier>, _ bad: [Operations.BadBlock], _ context: CallContext) {
        guard let tier = tiers.first else { return }
        var found: [Operations.BadBlock] = []
        var last = VerifyProgress(rank: 0, doneBytes: 0, totalBytes: 0)
        func event(_ bad: [Operations.BadBlock], finished: Bool) -> Operations.Verify.Reply {
            Operations.Verify.Reply(step: summary.step, sequence: summary.sequence.wire, rank: last.rank, tier: tier.rawValue, doneBytes: last.doneBytes,
                                    totalBytes: last.totalBytes, bad: bad, finished: finished)
        }
        // As long as it takes: the bound is the tier's own stall detection, and the client's going away.
        askTier(tier, seconds: 24 * 3600, { .verify(id: $0, ref: self.ref(run, summary)) }) { [unowned self] reply, _ in
            switch reply {
            case .verifyProgress(_, let progress):
                last = progress
                var news: [Operations.BadBlock] = []
                if let path = progress.badPath {
                    news = [Operations.BadBlock(path: path, block: progress.badBlock ?? -1, reason: progress.reason ?? "")]
                    found += news
                }
                context.push(event(news, finished: false))
            case .done:
                if tiers.count > 1 {
                    context.push(event([], finished: false))
                    verify(run, summary, tiers.dropFirst(), bad + found, context)
                } else {
                    context.reply(event([], finished: true))
                }
            case .failed(_, let failure): context.fail(wireError(failure, tier: tier, step: summary.step))
            default: context.fail(.failed(reason: "the \(tier) tier's worker answered with something else"))
            }
        }
    }

    // MARK: drain, watch

    private func drain(_ parameters: Operations.Drain.Parameters, _ context: CallContext) {
        let key: RunKey?
        if let run = parameters.run {
            let uid = parameters.uid ?? context.uid
            guard uid == context.uid || isOperator(context) else { return context.fail(.noSuchRun(run: "\(uid)/\(run)")) }
            key = RunKey(uid: uid, name: run)
        } else {
            guard isOperator(context) else { return context.fail(.notPermitted(reason: "draining all runs is for operators (`operators:` in the configuration); name a run of your own")) }
            key = nil
        }
        let deadline = parameters.timeoutMs.map { loop.nowNanoseconds + min(max(0, $0), 1 << 40) * 1_000_000 }
        var timer: LoopTimer?
        func look() {
            let reports = engine.saveReports(run: key)
            let left = reports.reduce(0) { $0 + max(0, $1.bytes - (engine.committing == .global ? $1.globalBytes : $1.localBytes)) }
            if reports.isEmpty {
                timer?.stop()
                return context.reply(Operations.Drain.Reply(saves: 0, bytes: 0, finished: true))
            }
            if let deadline, loop.nowNanoseconds >= deadline {
                timer?.stop()
                // The last reply, with what remains.
                return context.reply(Operations.Drain.Reply(saves: reports.count, bytes: left, finished: true))
            }
            if !context.isLive { timer?.stop() } else { context.push(Operations.Drain.Reply(saves: reports.count, bytes: left, finished: false)) }
        }
        timer = loop.timer(afterMilliseconds: 200, repeatMilliseconds: 200) { look() }
        look()
    }

    private func watch(_ parameters: Operations.Watch.Parameters, _ context: CallContext) {
        let uid = parameters.uid ?? (isOperator(context) && parameters.run == nil ? nil : context.uid)
        guard uid == context.uid || isOperator(context) else { return context.fail(.noSuchRun(run: (uid.map { "\($0)/" } ?? "") + (parameters.run ?? ""))) }
        let run = parameters.run.map { RunKey(uid: uid ?? context.uid, name: $0) }
        let watcher = Watcher(context: context, run: run, uid: uid, rank: nil) { context, notice in
            context.push(Operations.Watch.Reply(event: Operations.Event(
                uid: notice.run.uid, run: notice.run.name, save: notice.save.description, step: notice.save.step, rank: notice.rank, level: notice.level,
                bytes: notice.bytes, totalBytes: notice.totalBytes, monotonicNs: notice.at, reason: notice.reason)))
        }
        watchers[context.connection.id] = watcher
        for key in engine.knownRuns where run == nil || run == key {
            // What has ended is no news, though the pool may still hold it.
            for notice in engine.notices(run: key, rank: nil) where notice.level != .committed && notice.level != .failed { watcher.tell(notice) }
        }
    }

    // MARK: metrics

    /// Prometheus' text form: names with units, totals as counters.
    private func metrics() -> String {
        var lines: [String] = []
        func metric(_ name: String, _ kind: String, _ help: String, _ values: [(labels: String, value: Double)]) {
            lines.append("# HELP cairn_\(name) \(help)")
            lines.append("# TYPE cairn_\(name) \(kind)")
            for (labels, value) in values { lines.append("cairn_\(name)\(labels) \(value == value.rounded() ? String(Int(value)) : String(value))") }
        }
        let pool = engine.poolReport
        metric("pool_bytes", "gauge", "Bytes of the staging pool by state.", [
            ("{state=\"free\"}", Double(pool.free * Sizes.chunkBytes)), ("{state=\"needed\"}", Double(pool.needed * Sizes.chunkBytes)),
            ("{state=\"cached\"}", Double(pool.cached * Sizes.chunkBytes)), ("{state=\"quarantined\"}", Double(pool.quarantined * Sizes.chunkBytes))])
        metric("saves_total", "counter", "Rank saves by the level that they reached.", [
            ("{level=\"accepted\"}", Double(counters.saves)), ("{level=\"staged\"}", Double(counters.staged)),
            ("{level=\"committed\"}", Double(counters.committed)), ("{level=\"failed\"}", Double(counters.failed))])
        metric("staged_bytes_total", "counter", "Bytes copied into the pool.", [("", Double(counters.stagedBytes))])
        metric("loaded_bytes_total", "counter", "Bytes handed back to ranks.", [("", Double(counters.loadedBytes))])
        let tiers = engine.tierReports
        metric("tier_up", "gauge", "Whether the tier answers.", tiers.map { ("{tier=\"\($0.tier.rawValue)\"}", $0.up && !$0.stalled ? 1 : 0) })
        metric("tier_queued_bytes", "gauge", "Bytes that wait to be written.", tiers.map { ("{tier=\"\($0.tier.rawValue)\"}", Double($0.queuedBytes)) })
        metric("tier_written_bytes_total", "counter", "Bytes written.", tiers.map { ("{tier=\"\($0.tier.rawValue)\"}", Double($0.writtenBytes)) })
        metric("sessions", "gauge", "Ranks that are connected.", [("", Double(sessions.count))])
        metric("saves_in_flight", "gauge", "Saves that have not ended.", [("", Double(engine.unfinishedCount))])
        metric("last_commit_age_seconds", "gauge", "Seconds since the last commit of a run that this daemon serves.", engine.knownRuns.compactMap { run in
            engine.lastCommit(run: run).map { ("{uid=\"\(run.uid)\",run=\"\(run.name)\"}", Double(loop.nowNanoseconds - $0.at) / 1e9) }
        })
        return lines.joined(separator: "\n") + "\n"
    }
}
