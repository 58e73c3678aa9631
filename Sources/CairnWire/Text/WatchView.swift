// A frame of `cairn watch`: rates of each stage since the frame before, the pool, the tiers, and each save in flight with its slowest ranks. At most
// 80 columns; of many ranks, those that are furthest behind are shown and the others summed up.
//   llama-7b  step 1200  2.1s  64 ranks: 3 accepted, 61 staged                fence 0.4 s
//     rank   staged      [######....]   local  [..........]   global [..........]
import CairnModel

public struct WatchView {
    /// What saves and ranks are sorted by; the first are shown.
    public enum Order: String, CaseIterable, Sendable {
        /// The least of their bytes done first.
        case slowest
        case age, rank
    }

    private let now: Operations.Progress.Reply
    private let before: Operations.Progress.Reply?
    private let order: Order, most: Int, ownUID: UInt32, colour: Bool
    public static let columns = 80

    /// `before`: an earlier answer of the same daemon; nil: no rates. `most`: lines for saves and ranks.
    public init(_ now: Operations.Progress.Reply, before: Operations.Progress.Reply?, order: Order, most: Int, ownUID: UInt32, colour: Bool) {
        self.now = now
        // A daemon that was started meanwhile counts from nothing.
        self.before = before.flatMap { $0.stagedBytes <= now.stagedBytes && $0.monotonicNs < now.monotonicNs ? $0 : nil }
        self.order = order; self.most = most; self.ownUID = ownUID; self.colour = colour
    }

    public var text: String { (head + [""] + runs + saves).map(Self.cut).joined(separator: "\n") + "\n" }

    // MARK: the node

    private var head: [String] {
        let pool = now.pool, chunk = pool.chunks > 0 ? pool.bytes / pool.chunks : 0
        var lines = ["\(Table.printable(now.node))   staging \(rate(now.stagedBytes, before?.stagedBytes))"]
        let used = pool.needed + pool.quarantined
        lines.append("pool    \(bar(used, pool.chunks, 20)) \(HumanSize.progress(used * chunk, of: pool.bytes)) needed, \(HumanSize.short(pool.cached * chunk)) cached"
            + (pool.quarantined > 0 ? style(", \(pool.quarantined) quarantined", .yellow) : ""))
        for tier in now.tiers {
            let written = before?.tiers.first { $0.tier == tier.tier }?.writtenBytes
            var line = pad(tier.tier, 8) + style(pad(tier.state.rawValue, 9), tier.state == .up ? .green : .red)
                + pad(rate(tier.writtenBytes, written), 14) + "\(HumanSize.short(tier.queuedBytes)) queued"
            if let reason = tier.reason { line += "  " + style(Table.printable(reason), .red) }
            lines.append(line)
        }
        return lines
    }

    private var runs: [String] {
        now.runs.map { run in
            var line = "\(RunName(run.run, uid: run.uid, ownUID: ownUID).text)  \(run.sessions) of \(run.worldSize) ranks here"
            line += run.lastStep.map { ", step \($0) committed \(HumanAge.short(seconds: (run.ageMs ?? 0) / 1000)) ago" } ?? ", nothing committed yet"
            if let us = run.fenceUs { line += ", fence \(HumanDuration.short(microseconds: us))" }
            return line + (run.failures > 0 ? style(", \(run.failures) failed", .red) : "")
        }
    }

    // MARK: saves

    private var saves: [String] {
        guard !now.saves.isEmpty else { return ["no save in flight"] }
        let sorted: [Operations.SaveProgress]
        switch order {
        case .slowest: sorted = now.saves.sorted { (share($0), $1.ageMs) < (share($1), $0.ageMs) }
        case .age, .rank: sorted = now.saves.sorted { $0.ageMs > $1.ageMs }
        }
        var lines: [String] = []
        for (index, save) in sorted.enumerated() {
            // Room for the save, one rank and the sum of the others; else the rest is only counted.
            guard most - lines.count >= 4 || index == 0 else {
                lines.append("and \(sorted.count - index) more saves")
                break
            }
            let room = max(1, (most - lines.count) / min(4, sorted.count - index) - 2)
            lines += self.lines(of: save, ranks: room)
        }
        return lines
    }

    private func lines(of save: Operations.SaveProgress, ranks room: Int) -> [String] {
        let levels = Level.allCases.compactMap { level -> String? in
            let count = save.ranks.count { $0.level == level }
            return count == 0 ? nil : "\(count) \(level.rawValue)"
        }
        var title = "\(RunName(save.run, uid: save.uid, ownUID: ownUID).text)  step \(save.step)  \(HumanDuration.short(microseconds: save.ageMs * 1000))  "
            + "\(save.ranks.count) of \(save.worldSize) ranks: " + levels.joined(separator: ", ")
        if !save.missing.isEmpty { title += "; missing \(RankRanges.text(save.missing, most: 3))" }
        var lines = ["", style(title, .bold)]
        let hasLocal = now.tiers.contains { $0.tier == "local" }, hasGlobal = now.tiers.contains { $0.tier == "global" }
        lines.append(style(pad("  rank", 8) + column("staged") + (hasLocal ? column("local") : "") + (hasGlobal ? column("global") : ""), .dim))
        let sorted = save.ranks.sorted { left, right in
            order == .rank ? left.rank < right.rank : (share(left), left.rank) < (share(right), right.rank)
        }
        // One that is left over takes no more room than its sum would.
        let shown = sorted.count <= room + 1 ? sorted.count : room
        for rank in sorted.prefix(shown) {
            lines.append(line("  \(rank.rank)", [rank], hasLocal, hasGlobal) + note(rank))
        }
        if sorted.count > shown {
            let rest = Array(sorted.dropFirst(shown))
            lines.append(line("  +\(rest.count)", rest, hasLocal, hasGlobal) + "the others")
        }
        return lines
    }

    private func line(_ name: String, _ ranks: [Operations.RankProgress], _ hasLocal: Bool, _ hasGlobal: Bool) -> String {
        let total = ranks.reduce(0) { $0 + $1.totalBytes }
        func stage(_ bytes: (Operations.RankProgress) -> Int) -> String { pad(bar(ranks.reduce(0) { $0 + bytes($1) }, total, 10), 18) }
        return pad(name, 8) + stage(\.stagedBytes) + (hasLocal ? stage(\.localBytes) : "") + (hasGlobal ? stage(\.globalBytes) : "")
    }

    private func note(_ rank: Operations.RankProgress) -> String {
        if let reason = rank.reason { return style(Table.printable(reason), .red) }
        if let fence = rank.fenceMs { return style("fence \(HumanDuration.short(microseconds: fence * 1000))", .yellow) }
        if rank.poolWaitMs > 0 { return style("pool \(HumanDuration.short(microseconds: rank.poolWaitMs * 1000))", .yellow) }
        return ""
    }

    /// How much of what is to be done with its bytes is: staged, and on each tier.
    private func share(_ rank: Operations.RankProgress) -> Double {
        if rank.level == .committed { return 1 }
        let stages = 1 + now.tiers.count, done = rank.stagedBytes + now.tiers.reduce(0) { $0 + ($1.tier == "local" ? rank.localBytes : rank.globalBytes) }
        return rank.totalBytes == 0 ? 1 : Double(done) / Double(stages * rank.totalBytes)
    }
    private func share(_ save: Operations.SaveProgress) -> Double { save.ranks.map(share).min() ?? 0 }

    // MARK: pieces

    private func rate(_ bytes: Int, _ earlier: Int?) -> String {
        guard let before, let earlier else { return "-" }
        return HumanSize.short(Int(Double(bytes - earlier) / (Double(now.monotonicNs - before.monotonicNs) / 1e9))) + "/s"
    }

    private func bar(_ done: Int, _ total: Int, _ cells: Int) -> String {
        let share = total > 0 ? min(1, max(0, Double(done) / Double(total))) : 1
        let filled = Int(share * Double(cells)), percent = String(Int(share * 100))
        return "[" + String(repeating: "#", count: filled) + String(repeating: ".", count: cells - filled) + "]" + String(repeating: " ", count: 4 - percent.count) + percent + "%"
    }

    private func column(_ name: String) -> String { pad(name, 18) }
    private func pad(_ text: String, _ width: Int) -> String { text + String(repeating: " ", count: max(1, width - text.count)) }
    private func style(_ text: String, _ style: Table.Style) -> String { style.apply(text, colour: colour) }

    /// A line of at most 80 columns; escape codes take none, and the last one stands.
    static func cut(_ line: String) -> String {
        var kept = "", count = 0, isEscape = false, wasStyled = false
        for character in line {
            if character == "\u{1B}" { isEscape = true; wasStyled = true }
            if isEscape {
                kept.append(character)
                if character.isLetter { isEscape = false }
                continue
            }
            guard count < columns else { continue }
            kept.append(character)
            count += 1
        }
        while !wasStyled, kept.last == " " { kept.removeLast() }
        return kept
    }
}
