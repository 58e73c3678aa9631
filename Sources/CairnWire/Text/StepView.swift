// What `cairn show` shows.
import CairnModel

/// The answer of `Describe` as text.
public struct StepView {
    let reply: Operations.Describe.Reply
    /// Rows of each table.
    let most: Int
    let now: Int
    let ownUID: UInt32
    let colour: Bool

    public init(reply: Operations.Describe.Reply, most: Int, now: Int, ownUID: UInt32, colour: Bool) {
        self.reply = reply; self.most = most; self.now = now; self.ownUID = ownUID; self.colour = colour
    }

    public var text: String { [head, files, tensors, objects].filter { !$0.isEmpty }.joined(separator: "\n") }

    private var head: String {
        let age = HumanAge.seconds(ofUTC: reply.savedAt).map { " (\(HumanAge.short(seconds: now - $0)) ago)" } ?? ""
        var lines = ["run \(RunName(reply.run, uid: reply.uid, ownUID: ownUID).text), step \(reply.step), sequence \(CommitSequence(wire: reply.sequence))",
                     "\(reply.level.rawValue), saved at \(Table.printable(reply.savedAt))\(age), world size \(reply.worldSize), \(HumanSize.short(reply.bytes))"]
        if let parent = reply.parent { lines.append("its launch had restored sequence \(CommitSequence(wire: parent))") }
        if let origin = reply.origin {
            lines.append("branched from run \(Table.printable(origin.run)), step \(origin.step), sequence \(CommitSequence(wire: origin.sequence))")
        }
        if reply.pinned { lines.append("pinned: retention keeps it") }
        if reply.superseded { lines.append("superseded: a later launch went back before it") }
        lines += reply.metadata.sorted { $0.key < $1.key }.map { "\(Table.printable($0.key)): \(Table.printable($0.value))" }
        return lines.joined(separator: "\n") + "\n"
    }

    private func table<Row>(_ columns: [(title: String, side: Table.Side)], _ rows: [Row], _ cells: (Row) -> [Table.Cell]) -> String {
        guard !rows.isEmpty else { return "" }
        var table = Table(columns)
        for row in rows.prefix(most) { table.add(cells(row)) }
        return table.render(colour: colour) + (rows.count > most ? "and \(rows.count - most) more; --all shows them\n" : "")
    }

    private var files: String {
        table([("RANK", .right), ("SIZE", .right), ("TENSORS", .right), ("OBJECTS", .right), ("TIERS", .left), ("NODE", .left), ("FILE", .left)], reply.files) {
            [Table.Cell($0.rank), Table.Cell(HumanSize.short($0.fileBytes)), Table.Cell($0.tensors), Table.Cell($0.objects),
             Table.Cell($0.tiers.joined(separator: ",")), Table.Cell($0.node ?? ""), Table.Cell($0.path)]
        }
    }

    private var tensors: String {
        table([("TENSOR", .left), ("RANK", .right), ("DTYPE", .left), ("SHAPE", .left), ("OF", .left), ("SIZE", .right), ("NOTE", .left)], reply.tensors) {
            let copies = $0.replicas.map { "one of \($0) copies" }
            let note = [$0.isPrivate ? "private" : nil, copies].compactMap { $0 }.joined(separator: ", ")
            return [Table.Cell($0.name), Table.Cell($0.rank), Table.Cell($0.dtype), Table.Cell(shape($0.shape)),
                    Table.Cell($0.globalShape.map { shape($0) } ?? ""), Table.Cell(HumanSize.short($0.bytes)), Table.Cell(note)]
        }
    }

    private var objects: String {
        table([("OBJECT", .left), ("RANK", .right), ("SCOPE", .left), ("SIZE", .right)], reply.objects) { object in
            [Table.Cell(object.key.map { "\(object.name) [\($0)]" } ?? object.name), Table.Cell(object.rank), Table.Cell(object.scope.rawValue),
             Table.Cell(HumanSize.short(object.bytes))]
        }
    }

    private func shape(_ shape: [Int]) -> String { "[" + shape.map(String.init).joined(separator: ", ") + "]" }
}
