// What `cairn doctor` prints: problems first, each with its remedy.
import CairnModel
import CairnWire

public struct DoctorReport: Codable, Sendable {
    public var findings: [Finding]
    public var problems: Int, warnings: Int

    public init(_ node: NodeState) {
        let order: [Finding.Grade] = [.problem, .warning, .skipped, .ok], all = Finding.all(node)
        findings = order.flatMap { grade in all.filter { $0.grade == grade } }
        problems = all.count { $0.grade == .problem }
        warnings = all.count { $0.grade == .warning }
    }

    public func text(colour: Bool) -> String {
        let styles: [Finding.Grade: Table.Style] = [.problem: .red, .warning: .yellow, .skipped: .dim, .ok: .green]
        var text = ""
        for one in findings {
            let word = one.grade.rawValue
            text += (styles[one.grade] ?? .plain).apply(word, colour: colour) + String(repeating: " ", count: 9 - word.count)
                + one.check.rawValue + (one.path.map { " '\(Table.printable($0))'" } ?? "") + ": \(Table.printable(one.text))\n"
            if let remedy = one.remedy { text += "         -> \(remedy)\n" }
        }
        return text + "\(problems) \(problems == 1 ? "problem" : "problems"), \(warnings) \(warnings == 1 ? "warning" : "warnings")\n"
    }
}
