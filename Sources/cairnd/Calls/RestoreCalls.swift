// The way back: which step (Choose, Settle: the engine's), and which there are (Steps). What one holds is in DescribeCalls, its bytes in LoadCalls.
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
        if parameters.restore == 1 { restoreTimes.asksForStep(session.run, rank: session.rank, now: loop.nowNanoseconds) }
        deliver(.choose(call: call, session: session.token, restore: parameters.restore, step: parameters.step, deadline: deadline))
    }

    func settle(_ parameters: Checkpoint.Settle.Parameters, _ session: ClientSession, _ context: CallContext) {
        let call = engineCall(context) { [unowned self] answer in
            switch answer {
            case .settled(let again, let reason):
                if restoring?.run == session.run { restoring = nil }
                if !again { restoreTimes.hasStep(session.run, rank: session.rank, now: loop.nowNanoseconds) }
                context.reply(Checkpoint.Settle.Reply(again: again, reason: reason))
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
                    Checkpoint.Step(step: step.step, sequence: step.sequence.wire, level: .committed, ranks: step.ranks, worldSize: step.worldSize,
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
    var listSeconds: Int { engine.beside != nil && !engine.answers(engine.committing) ? 2 : DaemonLimits.tierCallSeconds }

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
}
