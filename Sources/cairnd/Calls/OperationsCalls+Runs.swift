// Runs and their steps: listing, describing, and what an operator may change of them.
import CairnEngine
import CairnIO
import CairnMessages
import CairnModel
import CairnStore
import CairnWire

extension Daemon {
    func runs(_ parameters: Operations.Runs.Parameters, _ context: CallContext) {
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

    func collectRuns(_ keys: ArraySlice<RunKey>, from tier: Tier, _ done: [Operations.Run], _ handler: @escaping ([Operations.Run]) -> Void) {
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
                    if !engine.resident(run: key, save: step.save).isEmpty { tiers.insert(Tier.memory.rawValue, at: 0) }
                    return Operations.Step(step: step.step, sequence: step.sequence.wire, parent: step.parent?.wire, origin: step.origin.map(Operations.Origin.init),
                                           save: step.save.description, level: .committed, ranks: step.ranks, worldSize: step.worldSize, bytes: step.bytes, pinned: step.pinned,
                                           superseded: step.superseded, savedAt: step.savedAt, tiers: tiers)
                }
                let newest = committed.max { $0.sequence < $1.sequence }?.step
                let run = Operations.Run(uid: key.uid, run: key.name, steps: steps, newestCommitted: newest, bytes: committed.reduce(0) { $0 + $1.bytes })
                collectRuns(keys.dropFirst(), from: tier, done + [run], handler)
            }
        }
    }

    func heldBeside(_ run: RunKey, _ handler: @escaping (Set<SaveID>) -> Void) {
        guard let beside = engine.beside else { return handler([]) }
        askTier(beside, { .list(id: $0, run: run) }) { reply, _ in
            if case .steps(_, let steps) = reply { handler(Set(steps.map(\.save))) } else { handler([]) }
        }
    }

    /// The newest committed step, or the newest with this number.
    func find(_ run: RunKey, _ step: Int?, _ sequence: CommitSequence? = nil, _ context: CallContext, _ body: @escaping (StepSummary) -> Void) {
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

    func ref(_ run: RunKey, _ step: StepSummary) -> StepRef { StepRef(run: run, step: step.step, sequence: step.sequence, save: step.save) }

    func stepFolder(_ run: RunKey, _ step: StepSummary) -> String {
        let root = configuredPaths(engine.committing).first ?? ""
        return "\(root)/\(Names.runFolder(run))/\(Names.stepFolder(step: step.step, sequence: step.sequence))"
    }

    func describeStep(_ run: RunKey, _ step: Int, _ sequence: Int?, _ context: CallContext) {
        find(run, step, sequence.map(CommitSequence.init(wire:)), context) { [unowned self] summary in
            index(run, step: step, sequence: summary.sequence) { [unowned self] result in
                switch result {
                case .failure(let error): context.fail(error)
                case .success(let index):
                    heldBeside(run) { [unowned self] local in compressedRanks(run, summary) { [unowned self] compressed in
                        var tiers = [engine.committing.rawValue]
                        if local.contains(summary.save) { tiers.insert(Tier.local.rawValue, at: 0) }
                        let folder = stepFolder(run, summary)
                        context.reply(Operations.Describe.Reply(
                            uid: run.uid, run: run.name, step: summary.step, sequence: summary.sequence.wire, save: summary.save.description,
                            parent: summary.parent?.wire, origin: summary.origin.map(Operations.Origin.init), level: .committed, worldSize: summary.worldSize, bytes: summary.bytes, pinned: summary.pinned,
                            superseded: summary.superseded, savedAt: summary.savedAt, metadata: index.metadata,
                            files: index.ranks.map { table in
                                let data = Names.data(rank: table.rank), name = compressed.contains(table.rank) ? Names.compressed(data) : data
                                return Operations.RankFile(rank: table.rank, node: nil, fileBytes: table.fileBytes, tensors: table.shards.count,
                                                           objects: table.objects.count, tiers: tiers, path: "\(folder)/\(name)")
                            },
                            tensors: index.ranks.flatMap { table in table.shards.map { Operations.Tensor($0, rank: table.rank) } },
                            objects: index.ranks.flatMap { table in table.objects.map { Operations.Object($0.object, rank: table.rank) } }))
                    } }
                }
            }
        }
    }

    /// Ranks whose file is stored as frames; none where that cannot be told now: a path that is shown is then the plain one.
    private func compressedRanks(_ run: RunKey, _ summary: StepSummary, _ then: @escaping (Set<Int>) -> Void) {
        askTier(engine.committing, { .compressed(id: $0, ref: self.ref(run, summary)) }) { reply, _ in
            if case .compressed(_, let ranks) = reply { then(Set(ranks)) } else { then([]) }
        }
    }

    func path(_ run: RunKey, _ step: Int?, _ context: CallContext) {
        find(run, step, nil, context) { [unowned self] summary in
            context.reply(Operations.Path.Reply(path: stepFolder(run, summary), step: summary.step, sequence: summary.sequence.wire))
        }
    }

    func pin(_ run: RunKey, _ step: Int, _ pinned: Bool, _ context: CallContext) {
        find(run, step, nil, context) { [unowned self] summary in
            askTier(engine.committing, { .pin(id: $0, ref: self.ref(run, summary), pinned: pinned) }) { [unowned self] reply, _ in
                if case .failed(_, let failure) = reply { return context.fail(wireError(failure, tier: engine.committing, step: step)) }
                context.reply(Nothing())
            }
        }
    }

    /// I3: the newest committed step stays until a newer one is committed.
    func delete(_ run: RunKey, _ step: Int, _ context: CallContext) {
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
}
