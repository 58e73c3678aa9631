// What `cairn ls` shows.
import CairnModel

/// Runs and steps as tables.
public struct RunsView {
    let now: Int
    let ownUID: UInt32
    let colour: Bool

    public init(now: Int, ownUID: UInt32, colour: Bool) {
        self.now = now; self.ownUID = ownUID; self.colour = colour
    }

    private func age(_ savedAt: String?) -> Table.Cell {
        Table.Cell(savedAt.flatMap(HumanAge.seconds(ofUTC:)).map { HumanAge.short(seconds: now - $0) } ?? "")
    }

    public func runs(_ runs: [Operations.Run]) -> String {
        guard !runs.isEmpty else { return "no runs yet; a training job makes one by its first save\n" }
        var table = Table([("RUN", .left), ("STEPS", .right), ("NEWEST", .right), ("SIZE", .right), ("AGE", .right)])
        for run in runs {
            table.add([Table.Cell(RunName(run.run, uid: run.uid, ownUID: ownUID).text), Table.Cell(run.steps.count),
                       Table.Cell(run.newestCommitted.map(String.init) ?? "none"), Table.Cell(HumanSize.short(run.bytes)),
                       age(run.steps.first { $0.level == .committed }?.savedAt ?? run.steps.first?.savedAt)])
        }
        return table.render(colour: colour)
    }

    public func steps(_ run: Operations.Run) -> String {
        guard !run.steps.isEmpty else { return "no steps yet in run \(RunName(run.run, uid: run.uid, ownUID: ownUID).text)\n" }
        var table = Table([("STEP", .right), ("SEQUENCE", .right), ("LEVEL", .left), ("RANKS", .right), ("SIZE", .right), ("AGE", .right),
                           ("TIERS", .left), ("NOTE", .left)])
        for step in run.steps {
            let notes = [step.pinned ? "pinned" : nil, step.superseded ? "superseded" : nil].compactMap { $0 }.joined(separator: ", ")
            table.add([Table.Cell(step.step), Table.Cell(step.sequence == 0 ? "" : CommitSequence(wire: step.sequence).description),
                       Table.Cell(step.level.rawValue, step.level == .committed ? .green : step.level == .failed ? .red : .plain),
                       Table.Cell("\(step.ranks)/\(step.worldSize)"), Table.Cell(HumanSize.short(step.bytes)), age(step.savedAt),
                       Table.Cell(step.tiers.joined(separator: ",")), Table.Cell(notes)])
        }
        return table.render(colour: colour)
    }
}
