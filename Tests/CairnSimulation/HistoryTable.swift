// One history as a table: for each launch what each rank's restore was told, and how far each of its saves came.
import CairnModel

extension World {
    public func table() -> String {
        var lines = ["\(settings.daemons) daemons, tiers \(settings.tiers.map(\.rawValue).joined(separator: " and ")), \(settings.hasDelayedViews ? "delayed" : "immediate") views"]
        for job in jobs {
            let places = job.ranks.map { "\($0.rank)@d\($0.daemon.index)" }.joined(separator: " ")
            lines.append("")
            lines.append("launch \(job.token) = attempt \(job.number == 0 ? "none" : "\(job.number)"), ranks \(places)\(job.restoreStep.map { ", asks for step \($0)" } ?? "")")
            for rank in 0..<job.worldSize { lines.append("  rank \(rank) restores \(job.restores[rank]?.joined(separator: ", ") ?? "-")") }
            for (save, ranks) in job.levels.sorted(by: { $0.key < $1.key }) {
                let told = (0..<job.worldSize).map { rank in "\(rank): \(ranks[rank].map(Self.short) ?? "-")" }.joined(separator: "   ")
                lines.append("  \(pad("\(save)", 12)) \(pad(decided(save), 18)) \(told)")
            }
        }
        return lines.joined(separator: "\n")
    }

    private func decided(_ save: SaveID) -> String {
        switch disk.decisions[save]?.outcome {
        case .committed(let sequence)?: "committed \(sequence)"
        case .void?: "void"
        case nil: "no decision"
        }
    }
    private func pad(_ text: String, _ width: Int) -> String { text + String(repeating: " ", count: max(0, width - text.count)) }
    /// The last level, and failed with the one before it.
    private static func short(_ levels: [String]) -> String {
        guard let last = levels.last else { return "-" }
        return last == "failed" && levels.count > 1 ? "failed after \(levels[levels.count - 2])" : last
    }
}
