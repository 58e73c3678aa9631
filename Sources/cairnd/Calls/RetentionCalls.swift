// Retention when it is asked for (`cairn gc`), and when the local tier is too full. After a commit it is the engine's; all three ask the
// tiers' workers the same question, with what the engine knows must stay, and `dryRun` is the same question without the removal.
// (1) Eviction goes over all runs, those without a rank here first, and stops when enough has gone: a dry run of one run asks about the others
//     too, so that it tells what would happen.
// (2) What may be evicted is what the committing tier was seen to hold and its own rules keep.
import CairnEngine
import CairnIO
import CairnMessages
import CairnModel
import CairnStore
import CairnWire

extension Daemon {
    func retain(_ parameters: Operations.Retain.Parameters, _ context: CallContext) {
        let all = isOperator(context), uid = parameters.uid ?? (parameters.run == nil && all ? nil : context.uid)
        guard uid == context.uid || all else { return context.reply(Operations.Retain.Reply(runs: [], evictBytes: 0)) }
        retain(isDry: parameters.dryRun, { key in (uid.map { $0 == key.uid } ?? true) && (parameters.run.map { $0 == key.name } ?? true) }) { result in
            switch result {
            case .failure(let error): context.fail(error)
            case .success(let reply): context.reply(reply)
            }
        }
    }

    /// Once, when the daemon starts: looks at the local tier's space from then on.
    func watchWatermarks() {
        guard configuration.retention.watermarks != nil else { return }
        loop.timer(afterMilliseconds: DaemonLimits.watermarkMilliseconds, repeatMilliseconds: DaemonLimits.watermarkMilliseconds) { [unowned self] in
            guard !stopping, !isEvicting else { return }
            neededSpace { [unowned self] bytes in
                guard bytes > 0, !isEvicting else { return }
                isEvicting = true
                log.write(.notice, "the local tier is above its high watermark: \(bytes >> 20) MiB should go")
                retain(isDry: false, onlyLocal: true, { _ in true }) { [unowned self] result in
                    if case .failure(let error) = result { log.write(.warning, "nothing is evicted: \(error)") }
                    let steps = ((try? result.get())?.runs ?? []).flatMap(\.tiers).filter { $0.tier == Tier.local.rawValue }.flatMap(\.steps)
                    guard steps.allSatisfy(\.kept) else { return isEvicting = false }
                    // Nothing may go: asking again soon would list the global tier's runs for nothing.
                    loop.timer(afterMilliseconds: DaemonLimits.evictionPauseMilliseconds) { [unowned self] in isEvicting = false }
                }
            }
        }
    }

    /// What must go for the local tier to be below its low watermark; 0 while it is not above the high one, or where there is none.
    private func neededSpace(_ handler: @escaping (Int) -> Void) {
        guard let marks = configuration.retention.watermarks, let beside = engine.beside else { return handler(0) }
        askTier(beside, { .space(id: $0) }) { reply, _ in
            guard case .space(_, let paths) = reply else { return handler(0) }
            handler(paths.reduce(0) { sum, path in
                let used = path.totalBytes - path.freeBytes
                return used > path.totalBytes / 100 * marks.high ? sum + used - path.totalBytes / 100 * marks.low : sum
            })
        }
    }

    private func retain(isDry: Bool, onlyLocal: Bool = false, _ isWanted: @escaping (RunKey) -> Bool, _ handler: @escaping (Result<Operations.Retain.Reply, WireError>) -> Void) {
        neededSpace { [unowned self] evictBytes in
            allRuns { [unowned self] result in
                guard case .success(let keys) = result else { if case .failure(let error) = result { handler(.failure(error)) }; return }
                let busy = Set(sessions.values.map(\.run))
                let order = keys.filter { isWanted($0) || evictBytes > 0 }.sorted { (busy.contains($0) ? 1 : 0, $0) < (busy.contains($1) ? 1 : 0, $1) }
                retain(order[...], evictBytes, isDry: isDry, onlyLocal: onlyLocal, isWanted, []) { handler(.success(.init(runs: $0, evictBytes: evictBytes))) }
            }
        }
    }

    /// Runs on any tier: the local one may hold what the global one does not any more.
    private func allRuns(_ handler: @escaping (Result<[RunKey], WireError>) -> Void) {
        var left = engine.tiers.count, keys: Set<RunKey> = [], error: WireError?
        for tier in engine.tiers {
            askTier(tier, { .runs(id: $0) }) { [unowned self] reply, _ in
                switch reply {
                case .runs(_, let found): keys.formUnion(found.map(\.run))
                case .failed(_, let failure): error = wireError(failure, tier: tier)
                default: error = .failed(reason: "the \(tier) tier's worker answered with something else")
                }
                left -= 1
                guard left == 0 else { return }
                if keys.isEmpty, let error { handler(.failure(error)) } else { handler(.success(keys.sorted())) }
            }
        }
    }

    private func retain(_ keys: ArraySlice<RunKey>, _ evictBytes: Int, isDry: Bool, onlyLocal: Bool, _ isWanted: @escaping (RunKey) -> Bool, _ done: [Operations.RetainedRun],
                        _ handler: @escaping ([Operations.RetainedRun]) -> Void) {
        guard let key = keys.first else { return handler(done) }
        func next(_ tiers: [Operations.RetainedTier], freed: Int) {
            let run = Operations.RetainedRun(uid: key.uid, run: key.name, tiers: tiers)
            retain(keys.dropFirst(), max(0, evictBytes - freed), isDry: isDry, onlyLocal: onlyLocal, isWanted, isWanted(key) ? done + [run] : done, handler)
        }
        let isDry = isDry || !isWanted(key)
        decide(key, engine.committing, isDry: isDry || onlyLocal) { _ in } then: { [unowned self] committing, kept in
            guard let beside = engine.beside else { return next([committing], freed: 0) }
            decide(key, beside, isDry: isDry) { given in
                given.evictBytes = evictBytes
                // Where the committing tier told nothing, nothing is known to stand there.
                guard committing.problem == nil else { return }
                given.elsewhere = kept
                given.standing = kept.max()
            } then: { [unowned self] local, _ in
                if onlyLocal { for step in local.steps where !step.kept { log.write(.info, "run \(key): step \(step.step) is removed from the local tier: \(step.reason)") } }
                next([committing, local], freed: local.steps.reduce(0) { $0 + ($1.kept ? 0 : $1.bytes) })
            }
        }
    }

    /// `then` gets the decisions of one tier, and the committed steps that stay.
    private func decide(_ key: RunKey, _ tier: Tier, isDry: Bool, _ prepare: (inout RetentionGiven) -> Void,
                        then: @escaping (Operations.RetainedTier, [CommitSequence]) -> Void) {
        guard var given = engine.retentionGiven(key, on: tier) else {
            return then(.init(tier: tier.rawValue, problem: "what the run's restores name is not known yet after a restart", steps: []), [])
        }
        prepare(&given)
        given.isDry = isDry
        given.explains = true
        let rules = engine.rules(of: tier)
        askTier(tier, { .retain(id: $0, run: key, rules: rules, given: given) }) { reply, _ in
            guard case .removed(_, let decisions) = reply else {
                let problem = if case .failed(_, let failure) = reply { failure.text } else { "the \(tier) tier's worker answered with something else" }
                return then(.init(tier: tier.rawValue, problem: problem, steps: []), [])
            }
            then(.init(tier: tier.rawValue, steps: decisions.reversed().map { one in
                Operations.RetainedStep(step: one.step, sequence: one.sequence.wire, save: one.save.description, committed: one.isCommitted, bytes: one.bytes,
                                        kept: one.isKept, rule: one.rule.rawValue, reason: one.reason)
            }), decisions.filter { $0.isKept && $0.isCommitted }.map(\.sequence))
        }
    }
}
