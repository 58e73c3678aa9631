// The way back: which step (Choose, Settle: the engine's), and what it holds (Steps, Describe). Its bytes are in LoadCalls.
import CairnEngine
import CairnIO
import CairnMessages
import CairnModel
import CairnStore
import CairnWire
import FoundationEssentials

extension Daemon {
    func choose(_ parameters: Checkpoint.Choose.Parameters, _ session: ClientSession, _ context: CallContext) {
        guard (1...100_000).contains(parameters.restore) else { return context.fail(.invalidParameter(parameter: "restore")) }
        if let step = parameters.step, step < 0 { return context.fail(.invalidParameter(parameter: "step")) }
        let call = engineCall(context) { [unowned self] answer in
            switch answer {
            case .chosen(let step, let sequence):
                counters.restores += 1
                context.reply(Checkpoint.Choose.Reply(step: step, sequence: sequence.wire))
            case .failed(let error): context.fail(wireError(error))
            default: preconditionFailure("a Choose was answered with \(answer)")
            }
        }
        let deadline = parameters.timeoutMs.map { loop.nowNanoseconds + min(max(0, $0), 1 << 40) * 1_000_000 }
        deliver(.choose(call: call, session: session.token, restore: parameters.restore, step: parameters.step, deadline: deadline))
    }

    func settle(_ parameters: Checkpoint.Settle.Parameters, _ session: ClientSession, _ context: CallContext) {
        let call = engineCall(context) { [unowned self] answer in
            switch answer {
            case .settled(let again):
                if restoring?.run == session.run { restoring = nil }
                context.reply(Checkpoint.Settle.Reply(again: again))
            case .failed(let error): context.fail(wireError(error))
            default: preconditionFailure("a Settle was answered with \(answer)")
            }
        }
        deliver(.settle(call: call, session: session.token, restore: parameters.restore, ok: parameters.ok, reason: parameters.reason))
    }

    func steps(_ parameters: Checkpoint.Steps.Parameters, _ session: ClientSession, _ context: CallContext) {
        guard parameters.run == session.run.name else { return context.fail(.noSuchRun(run: parameters.run)) }
        listSteps(session.run) { [unowned self] result in
            switch result {
            case .failure(let error): context.fail(error)
            case .success(let steps):
                var all = steps.map { step in
                    Checkpoint.Step(step: step.step, sequence: step.sequence.wire, level: .committed, ranks: step.worldSize, worldSize: step.worldSize,
                                    bytes: step.bytes, pinned: step.pinned, superseded: step.superseded, savedAt: step.savedAt)
                }
                for report in engine.saveReports(run: session.run) where report.reason == nil {
                    all.append(Checkpoint.Step(step: report.save.step, sequence: 0, level: report.level, ranks: report.ranks.count,
                                               worldSize: report.worldSize, bytes: report.bytes, pinned: false, superseded: false, savedAt: ""))
                }
                context.reply(Checkpoint.Steps.Reply(steps: all))
            }
        }
    }

    /// A tier that hangs is not waited for long where the local one can tell as much: the commits that were copied to it.
    var listSeconds: Int { engine.beside != nil && engine.isStalled(engine.committing) ? 2 : DaemonLimits.tierCallSeconds }

    /// The committed steps of a run: from the committing tier, or while that is down from the local records of commits.
    func listSteps(_ run: RunKey, from tier: Tier? = nil, _ handler: @escaping (Result<[StepSummary], WireError>) -> Void) {
        let committing = tier ?? engine.committing
        askTier(committing, seconds: listSeconds, { .list(id: $0, run: run) }) { [unowned self] reply, _ in
            switch reply {
            case .steps(_, let steps): handler(.success(steps))
            case .failed(_, let failure):
                guard let beside = engine.beside, beside != committing, failure.kind == .io else { return handler(.failure(wireError(failure, tier: committing))) }
                askTier(beside, { .list(id: $0, run: run) }) { [unowned self] reply, _ in
                    switch reply {
                    case .steps(_, let steps): handler(.success(steps))
                    default: handler(.failure(wireError(failure, tier: committing)))
                    }
                }
            default: handler(.failure(.failed(reason: "the \(committing) tier's worker answered with something else")))
            }
        }
    }

    func describe(_ parameters: Checkpoint.Describe.Parameters, _ session: ClientSession, _ context: CallContext) {
        index(session.run, step: parameters.step, sequence: parameters.sequence.map(CommitSequence.init(wire:))) { result in
            switch result {
            case .failure(let error): context.fail(error)
            case .success(let index):
                let names = parameters.names.map(Set.init)
                var shards: [Checkpoint.Shard] = [], objects: [Checkpoint.Object] = []
                for table in index.ranks {
                    for stored in table.shards where names?.contains(stored.shard.name) ?? true {
                        shards.append(Checkpoint.Shard(stored.shard, rank: table.rank))
                    }
                    for stored in table.objects where names?.contains(stored.object.name) ?? true {
                        objects.append(Checkpoint.Object(stored.object, rank: table.rank))
                    }
                }
                context.reply(Checkpoint.Describe.Reply(worldSize: index.worldSize, shards: shards, objects: objects, metadata: index.metadata))
            }
        }
    }

    /// Where everything of a step is: from memory where all of it lies there, else from a tier that can say.
    func index(_ run: RunKey, step: Int, sequence: CommitSequence?, _ handler: @escaping (Result<StepIndex, WireError>) -> Void) {
        guard let sequence else {
            return listSteps(run) { [unowned self] result in
                switch result {
                case .failure(let error): handler(.failure(error))
                case .success(let steps):
                    guard let newest = steps.filter({ $0.step == step }).max(by: { $0.sequence < $1.sequence }) else {
                        return handler(.failure(.noSuchStep(step: step)))
                    }
                    index(run, step: step, sequence: newest.sequence, handler)
                }
            }
        }
        let save = engine.save(run: run, sequence: sequence)
        if let save, let catalog = residentCatalog(run, save, sequence) { return handler(.success(catalog.index)) }
        let ref = StepRef(run: run, step: step, sequence: sequence, save: save)
        func ask(_ tiers: ArraySlice<Tier>, _ last: WireError) {
            guard let tier = tiers.first else { return handler(.failure(last)) }
            askTier(tier, { .describe(id: $0, ref: ref) }) { [unowned self] reply, payload in
                switch reply {
                case .index:
                    do {
                        let index = try MessageCoding.decode(StepIndex.self, from: payload)
                        // A tier beside knows only the ranks that it holds.
                        guard index.ranks.count == index.worldSize else { return ask(tiers.dropFirst(), .noSuchStep(step: step)) }
                        handler(.success(index))
                    } catch {
                        ask(tiers.dropFirst(), .failed(reason: "the \(tier) tier's index of step \(step) does not parse: \(error)"))
                    }
                case .failed(_, let failure): ask(tiers.dropFirst(), wireError(failure, tier: tier, step: step))
                default: ask(tiers.dropFirst(), .noSuchStep(step: step))
                }
            }
        }
        ask(engine.tiers.reversed()[...], .noSuchStep(step: step))
    }

    /// Where everything of a step is that lies whole in memory. Kept for the step that is being restored: its Loads are many.
    func residentCatalog(_ run: RunKey, _ save: SaveID, _ sequence: CommitSequence) -> StepCatalog? {
        guard let resident = engine.resident(run: run, save: save) else { return nil }
        if let kept = restoring, kept.run == run, kept.catalog.index.save == save, kept.catalog.index.sequence == sequence { return kept.catalog }
        let held = resident.compactMap { plans[$0.handle] }
        guard held.count == resident.count, let first = held.first else { return nil }
        let catalog = StepCatalog(StepIndex(step: save.step, sequence: sequence, save: save, worldSize: first.worldSize, metadata: first.metadata,
                                            ranks: held.map(\.plan.table)))
        restoring = (run, catalog)
        return catalog
    }
}
