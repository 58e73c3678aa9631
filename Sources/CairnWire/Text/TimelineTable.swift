// A timeline as a table: a line for each save, its stages at their slowest ranks and the rank that was durable last, then what stands out.

public struct TimelineTable {
    private let timeline: Timeline
    public init(_ timeline: Timeline) { self.timeline = timeline }

    public func text(colour: Bool) -> String {
        guard !timeline.saves.isEmpty else { return timeline.findings.map { "\($0)\n" }.joined() }
        let stages = TimelineStage.allCases.filter { timeline.isSeen($0) && ($0 != .pool || timeline.longest(.pool) > 0) }
        var table = Table([("STEP", .right), ("RANKS", .right)] + stages.map { (Self.heading($0), .right) } + [("END", .right), ("LAST", .right), ("NOTE", .left)])
        for save in timeline.saves {
            table.add([Table.Cell(save.step), Table.Cell(save.ranks.count)]
                + stages.map { stage in Table.Cell(save.slowest(stage).map { HumanDuration.short(microseconds: $0.us) } ?? "-") }
                + [Table.Cell(HumanDuration.short(microseconds: save.endUs)), Table.Cell(save.last.map { "\($0)" } ?? ""),
                   Table.Cell(save.failure.map { "failed: \($0)" } ?? "", save.failure == nil ? .plain : .red)])
        }
        return table.render(colour: colour) + timeline.findings.map { "- \(Table.printable($0))\n" }.joined()
    }

    private static func heading(_ stage: TimelineStage) -> String { stage == .pool ? "POOL" : stage == .fence ? "FENCE" : stage.rawValue.uppercased() }
}
