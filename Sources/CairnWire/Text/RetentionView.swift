// What `cairn gc` shows: each step of each tier, kept or removed, and by which rule.
import CairnModel

public struct RetentionView {
    let reply: Operations.Retain.Reply, isDry: Bool, ownUID: UInt32, colour: Bool

    public init(reply: Operations.Retain.Reply, isDry: Bool, ownUID: UInt32, colour: Bool) {
        self.reply = reply; self.isDry = isDry; self.ownUID = ownUID; self.colour = colour
    }

    public var text: String {
        guard !reply.runs.isEmpty else { return "no runs yet: there is nothing to remove\n" }
        var text = "", removed = 0, bytes = 0
        for run in reply.runs {
            for tier in run.tiers {
                text += "\(Table.Style.bold.apply(RunName(run.run, uid: run.uid, ownUID: ownUID).text, colour: colour)) on the \(tier.tier) tier"
                if let problem = tier.problem {
                    text += ": nothing is removed: \(problem)\n"
                    continue
                }
                guard !tier.steps.isEmpty else { text += ": no steps\n"; continue }
                var table = Table([("STEP", .right), ("SEQUENCE", .right), ("SIZE", .right), ("", .left), ("RULE", .left), ("WHY", .left)])
                for step in tier.steps {
                    table.add([Table.Cell(step.step), Table.Cell(step.committed ? CommitSequence(wire: step.sequence).description : "local"),
                               Table.Cell(HumanSize.short(step.bytes)),
                               step.kept ? Table.Cell("kept", .green) : Table.Cell(isDry ? "would go" : "removed", .yellow), Table.Cell(step.rule), Table.Cell(step.reason)])
                    if !step.kept { removed += 1; bytes += step.bytes }
                }
                text += "\n" + table.render(colour: colour)
            }
        }
        if reply.evictBytes > 0 { text += "the local tier is above its high watermark: \(HumanSize.short(reply.evictBytes)) should go\n" }
        return text + "\(removed) \(removed == 1 ? "copy" : "copies") \(isDry ? "would be removed" : "removed"), \(HumanSize.short(bytes))\n"
    }
}
