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

    /// What is not committed yet, then the lines of committed steps, each from its tip back.
    public func steps(_ run: Operations.Run) -> String {
        guard !run.steps.isEmpty else { return "no steps yet in run \(RunName(run.run, uid: run.uid, ownUID: ownUID).text)\n" }
        let tree = LineageTree(run.steps.filter { $0.sequence != 0 })
        let width = max(4, run.steps.map { String($0.step).count }.max() ?? 0)
        var table = Table([(String(repeating: " ", count: width - 4) + "STEP", .left), ("SEQUENCE", .right), ("LEVEL", .left), ("RANKS", .right),
                           ("SIZE", .right), ("AGE", .right), ("TIERS", .left), ("NOTE", .left)])
        func add(_ step: Operations.Step, depth: Int, _ notes: [String?]) {
            let number = String(step.step)
            let indent = String(repeating: " ", count: 2 * min(depth, Self.deepest) + width - number.count)
            let ranks = step.ranks == step.worldSize ? String(step.ranks) : "\(step.ranks)/\(step.worldSize)"
            let notes = notes + [step.superseded ? "superseded" : nil, step.pinned ? "pinned" : nil]
            table.add([Table.Cell(indent + number, step.superseded ? .dim : .plain),
                       Table.Cell(step.sequence == 0 ? "" : CommitSequence(wire: step.sequence).description),
                       Table.Cell(step.level.rawValue, step.level == .committed ? .green : step.level == .failed ? .red : .plain),
                       Table.Cell(ranks), Table.Cell(HumanSize.short(step.bytes)), age(step.savedAt),
                       Table.Cell(Self.letters(step.tiers)), Table.Cell(notes.compactMap { $0 }.joined(separator: ", "))])
        }
        for step in run.steps where step.sequence == 0 { add(step, depth: 0, []) }
        for row in tree.rows {
            add(row.step, depth: row.depth, [
                row.step.origin.map { "from \($0.run)@\($0.step)" },
                row.deletedParent.map { "from \($0), deleted" },
                row.beginsAnew && row.step.origin == nil ? "restored nothing" : nil,
            ])
        }
        return table.render(colour: colour)
    }

    /// Lines that were left from lines that were left: deeper ones are not indented further, their sequences tell them apart.
    private static let deepest = 4

    /// `MLG`, a dash for each tier that does not hold it: the names are too long for a line of 80 columns.
    private static func letters(_ tiers: [String]) -> String {
        tiers.isEmpty ? "" : Tier.allCases.map { tiers.contains($0.rawValue) ? String($0.rawValue.prefix(1)).uppercased() : "-" }.joined()
    }
}
