// How long the last restores of each run took, in this life: from the first question for a step until all ranks had it.
import CairnModel

struct RestoreTimes {
    private struct Run { var restores: [Int] = [], asked: [Int: Int] = [:], touched = 0 }
    private var runs: [RunKey: Run] = [:]
    private var turn = 0

    private mutating func change(_ key: RunKey, _ body: (inout Run) -> Void) {
        turn += 1
        if runs[key] == nil, runs.count >= DaemonLimits.timedRuns, let oldest = runs.min(by: { $0.value.touched < $1.value.touched })?.key { runs[oldest] = nil }
        var run = runs[key] ?? Run()
        run.touched = turn
        body(&run)
        runs[key] = run
    }

    mutating func asksForStep(_ run: RunKey, rank: Int, now: Int) { change(run) { $0.asked[rank] = now } }

    mutating func hasStep(_ run: RunKey, rank: Int, now: Int) {
        change(run) { run in
            guard let asked = run.asked.removeValue(forKey: rank) else { return }
            run.restores.append(now - asked)
            if run.restores.count > DaemonLimits.timedSaves { run.restores.removeFirst() }
        }
    }

    /// Nanoseconds, oldest first.
    func of(_ run: RunKey) -> [Int] { runs[run]?.restores ?? [] }
}
