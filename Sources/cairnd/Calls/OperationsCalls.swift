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
        case .branch(let parameters):
            withRun(parameters.uid, parameters.run, context) { run in
                guard RunKey.isValidName(parameters.into) else { return context.fail(.invalidParameter(parameter: "into")) }
                branch(into: RunKey(uid: run.uid, name: parameters.into), from: run, step: parameters.step, sequence: parameters.sequence, context)
            }
        case .path(let parameters): withRun(parameters.uid, parameters.run, context) { path($0, parameters.step, context) }
        case .verify(let parameters): withRun(parameters.uid, parameters.run, context) { verify($0, parameters.step, parameters.tier, context) }
        case .pin(let parameters): withRun(parameters.uid, parameters.run, context) { pin($0, parameters.step, true, context) }
        case .unpin(let parameters): withRun(parameters.uid, parameters.run, context) { pin($0, parameters.step, false, context) }
        case .delete(let parameters): withRun(parameters.uid, parameters.run, context) { delete($0, parameters.step, context) }
        case .retain(let parameters): retain(parameters, context)
        case .advise(let parameters): withRun(parameters.uid, parameters.run, context) { advise($0, parameters.mtbfSeconds, context) }
        case .drain(let parameters): drain(parameters, context)
        case .watch(let parameters): watch(parameters, context)
        case .metrics: context.reply(Operations.Metrics.Reply(text: metrics(of: isOperator(context) ? nil : context.uid)))
        case .progress(let parameters): progress(parameters, context)
        case .history(let parameters): withRun(parameters.uid, parameters.run, context) { history($0, parameters.last, context) }
        }
    }

    func isOperator(_ context: CallContext) -> Bool { operators.allows(context.connection) }

    /// The run that a caller means, if they may see it. Another user's run is as if it did not exist (I8).
    func withRun(_ uid: UInt32?, _ name: String, _ context: CallContext, _ body: (RunKey) -> Void) {
        guard RunKey.isValidName(name) else { return context.fail(.noSuchRun(run: name)) }
        let owner = uid ?? context.uid
        guard owner == context.uid || isOperator(context) else { return context.fail(.noSuchRun(run: "\(owner)/\(name)")) }
        body(RunKey(uid: owner, name: name))
    }
}
