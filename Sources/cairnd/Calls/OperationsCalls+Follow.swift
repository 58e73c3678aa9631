// Calls that stream: verify, drain, watch.
import CairnEngine
import CairnIO
import CairnMessages
import CairnModel
import CairnStore
import CairnWire

extension Daemon {
    func verify(_ run: RunKey, _ step: Int?, _ tierName: String?, _ context: CallContext) {
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
            verify(run, summary, tiers[...], isNamed: tierName != nil, context)
        }
    }

    /// `isNamed`: the caller asked for this tier; else one that has nothing of the step is passed over, and one that is down does not hide the others.
    private func verify(_ run: RunKey, _ summary: StepSummary, _ tiers: ArraySlice<Tier>, isNamed: Bool, _ context: CallContext) {
        guard let tier = tiers.first else { return }
        var last = VerifyProgress(rank: 0, doneBytes: 0, totalBytes: 0)
        func event(_ bad: [Operations.BadBlock], finished: Bool) -> Operations.Verify.Reply {
            Operations.Verify.Reply(step: summary.step, sequence: summary.sequence.wire, rank: last.rank, tier: tier.rawValue, doneBytes: last.doneBytes,
                                    totalBytes: last.totalBytes, bad: bad, finished: finished)
        }
        func finish(_ bad: [Operations.BadBlock]) {
            guard tiers.count > 1 else { return context.reply(event(bad, finished: true)) }
            context.push(event(bad, finished: false))
            verify(run, summary, tiers.dropFirst(), isNamed: isNamed, context)
        }
        // As long as it takes: the bound is the tier's own stall detection, and the client's going away.
        askTier(tier, seconds: 24 * 3600, { .verify(id: $0, ref: self.ref(run, summary)) }) { [unowned self] reply, _ in
            switch reply {
            case .verifyProgress(_, let progress):
                last = progress
                var news: [Operations.BadBlock] = []
                if let path = progress.badPath {
                    news = [Operations.BadBlock(path: path, block: progress.badBlock ?? -1, reason: progress.reason ?? "")]
                }
                context.push(event(news, finished: false))
            case .done: finish([])
            case .failed(_, let failure) where isNamed || tier == engine.committing && failure.isOfNothing: context.fail(wireError(failure, tier: tier, step: summary.step))
            case .failed(_, let failure) where failure.isOfNothing: verify(run, summary, tiers.dropFirst(), isNamed: false, context)
            case .failed(_, let failure): finish([Operations.BadBlock(path: failure.path ?? configuredPaths(tier).first ?? "", block: -1, reason: failure.text)])
            default: context.fail(.failed(reason: "the \(tier) tier's worker answered with something else"))
            }
        }
    }

    func drain(_ parameters: Operations.Drain.Parameters, _ context: CallContext) {
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

    func watch(_ parameters: Operations.Watch.Parameters, _ context: CallContext) {
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
}

extension TierFailure {
    /// The tier answered that it has no such step.
    fileprivate var isOfNothing: Bool { kind == .notHere || kind == .noSuchStep || kind == .missing }
}
