// Branch: another run's step becomes a run's first. The committing tier's worker does it; who may, and what it is called, is said here.
import CairnIO
import CairnMessages
import CairnModel
import CairnWire

extension Daemon {
    func branch(_ parameters: Checkpoint.Branch.Parameters, _ session: ClientSession, _ context: CallContext) {
        // Runs of other users are out of reach: the name alone says which of the caller's own it is (I8).
        guard RunKey.isValidName(parameters.from) else { return context.fail(.noSuchRun(run: parameters.from)) }
        branch(into: session.run, from: RunKey(uid: session.run.uid, name: parameters.from), step: parameters.step, sequence: parameters.sequence, context)
    }

    func branch(into run: RunKey, from: RunKey, step: Int?, sequence: Int?, _ context: CallContext) {
        guard run != from else { return context.fail(.notPermitted(reason: "a run cannot be branched from itself: give the new run another name")) }
        let committing = engine.committing
        askTier(committing, seconds: DaemonLimits.branchSeconds, {
            .branch(id: $0, run: run, from: from, step: step, sequence: sequence.map(CommitSequence.init(wire:)))
        }) { [unowned self] reply, _ in
            switch reply {
            case .branched(_, let step, let sequence):
                log.write(.notice, "run \(run) begins at step \(step) of run \(from)")
                context.reply(Checkpoint.Branch.Reply(step: step, sequence: sequence.wire))
            case .failed(_, let failure) where failure.kind == .invalid: noStep(.notPermitted(reason: failure.text), of: from, context)
            case .failed(_, let failure) where failure.kind == .noSuchStep: noStep(wireError(failure, tier: committing, step: step), of: from, context)
            case .failed(_, let failure): context.fail(wireError(failure, tier: committing, step: step))
            default: context.fail(.failed(reason: "the \(committing) tier's worker answered with something else"))
            }
        }
    }

    /// A run without a step is as if it did not exist; the worker's answer alone cannot tell it from a step that is not there.
    private func noStep(_ error: WireError, of run: RunKey, _ context: CallContext) {
        askTier(engine.committing, { .list(id: $0, run: run) }) { reply, _ in
            if case .steps(_, let steps) = reply, steps.isEmpty { return context.fail(.noSuchRun(run: run.name)) }
            context.fail(error)
        }
    }
}
