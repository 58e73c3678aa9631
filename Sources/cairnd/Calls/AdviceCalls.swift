// How often a run had best save: the model is CairnModel's SaveInterval, what it is asked about was measured here.
import CairnModel
import CairnWire

extension Daemon {
    func advise(_ run: RunKey, _ mtbfSeconds: Int, _ context: CallContext) {
        guard Operations.mtbfSeconds.contains(mtbfSeconds) else { return context.fail(.invalidParameter(parameter: "mtbfSeconds")) }
        guard let times = saveTimes.times(run), times.stagedSeconds != nil else { return context.fail(.noSuchRun(run: run.name)) }
        context.reply(Operations.Advise.Reply(times, SaveInterval(times, mtbfSeconds: Double(mtbfSeconds))))
    }
}
