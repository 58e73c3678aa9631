// How often a run had best save: the model is CairnModel's SaveInterval, what it is asked about is in the history, and in the restores of this life.
import CairnModel
import CairnWire

extension Daemon {
    func advise(_ run: RunKey, _ mtbfSeconds: Int, _ context: CallContext) {
        guard Operations.mtbfSeconds.contains(mtbfSeconds) else { return context.fail(.invalidParameter(parameter: "mtbfSeconds")) }
        let times = RunTimes(keeping.history.saves(of: run, last: DaemonLimits.timedSaves), restores: restoreTimes.of(run))
        guard times.stagedSeconds != nil else { return context.fail(.noSuchRun(run: run.name)) }
        context.reply(Operations.Advise.Reply(times, SaveInterval(times, mtbfSeconds: Double(mtbfSeconds))))
    }
}

extension RunTimes {
    /// `saves`: rank by rank, each save's together. Of a save the slowest rank's times count: it holds up all.
    init(_ saves: [Operations.PastSave], restores: [Int]) {
        let entries = Dictionary(grouping: saves, by: \.save).values.sorted { $0[0].acceptedMs < $1[0].acceptedMs }
        func median(_ values: [Int], per second: Double) -> Double? { values.isEmpty ? nil : Double(values.sorted()[values.count / 2]) / second }
        func seconds(_ time: (Operations.PastSave) -> Int?) -> Double? { median(entries.compactMap { $0.compactMap(time).max() }, per: 1e6) }
        let begins = entries.map { $0.map(\.acceptedMs).min() ?? 0 }
        self.init(saves: entries.count, bytes: entries.last?.reduce(0) { $0 + $1.bytes } ?? 0,
                  intervalSeconds: median(zip(begins.dropFirst(), begins).map { $0 - $1 }, per: 1e3),
                  blockedSeconds: seconds { $0.stagedUs == nil ? nil : ($0.callUs ?? 0) + ($0.fenceUs ?? 0) } ?? 0,
                  stagedSeconds: seconds(\.stagedUs), localSeconds: seconds(\.localUs), committedSeconds: seconds(\.committedUs),
                  restoreSeconds: median(restores, per: 1e9))
    }
}
