// A timeline as SVG: what stands out, in words; a row for each save with its stages to scale; a heat map of ranks and saves for each stage, in which
// a slow rank is a dark row and a slow save a dark column. Everything has a tooltip (<title>); there is no script, so it may be mailed and archived.

public struct TimelinePicture {
    private let timeline: Timeline
    private let subtitle: String
    private let width = 1000.0, margin = 20.0
    private var parts: [String] = []
    private var y = 0.0

    /// `subtitle`: whose it is and of when.
    public init(_ timeline: Timeline, subtitle: String) {
        self.timeline = timeline
        self.subtitle = subtitle
    }

    public var svg: String {
        var picture = self
        picture.draw()
        let size = "\(Self.number(width)) \(Self.number(picture.y + margin))"
        return """
            <svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 \(size)" font-family="system-ui, sans-serif" font-size="12" role="img">
            <title>Saves of run \(Self.escaped(timeline.run))</title>
            <rect width="100%" height="100%" fill="#fff"/>
            \(picture.parts.joined(separator: "\n"))
            </svg>

            """
    }

    public var html: String {
        """
        <!doctype html>
        <html lang="en"><head><meta charset="utf-8"><title>cairn: saves of run \(Self.escaped(timeline.run))</title>
        <style>body { margin: 0 auto; max-width: 1200px; background: #fff }</style></head>
        <body>
        \(svg)</body></html>

        """
    }

    // MARK: the page

    private mutating func draw() {
        y = 34
        text(margin, y, "Saves of run \(timeline.run)", size: 18, weight: "bold")
        y += 18
        text(margin, y, subtitle, fill: "#666")
        y += 12
        for finding in timeline.findings.prefix(8) {
            for (index, line) in Self.wrapped(finding, 150).enumerated() {
                y += 16
                text(margin + (index == 0 ? 0 : 12), y, (index == 0 ? "• " : "") + line)
            }
        }
        guard !timeline.saves.isEmpty else { return }
        rows()
        heatMaps()
    }

    private static let colours: [TimelineStage: String] = [.staging: "#4e79a7", .local: "#59a14f", .global: "#b07aa1", .commit: "#9c9c9c", .fence: "#e15759", .pool: "#f28e2b"]

    private mutating func rows() {
        y += 30
        text(margin, y, "Each save, at its slowest ranks", size: 14, weight: "bold")
        var x = 290.0
        for stage in TimelineStage.allCases where timeline.isSeen(stage) {
            rect(x, y - 10, 12, 12, Self.colours[stage] ?? "#000")
            text(x + 16, y, stage.title)
            x += 30 + 7 * Double(stage.title.count)
        }
        let left = 90.0, right = 190.0, span = width - left - right
        let longest = Double(max(1, timeline.saves.map(\.endUs).max() ?? 1))
        let height = timeline.saves.count > 60 ? 8.0 : 18.0
        y += 10
        let top = y
        for save in timeline.saves { row(save, left, span / longest, height) }
        axis(left, span, longest, top)
        y += 18
    }

    /// Pale: until the last rank had called `save()`. Upper half: staging, then the local tier; lower half: staging, then the global tier. A thin line in each: where the median rank was staged.
    private mutating func row(_ save: Timeline.Save, _ left: Double, _ scale: Double, _ height: Double) {
        let bar = height - 4, half = bar / 2
        func at(_ value: (Operations.PastSave) -> Int?) -> Double? { save.reachedUs(value).map { Double($0) * scale } }
        let staged = at(\.stagedUs)
        if height > 10 { text(left - 6, y + height - 6, "step \(save.step)", anchor: "end") }
        func tip(_ stage: TimelineStage) -> String {
            let slowest = save.slowest(stage)
            return "step \(save.step), \(stage.title): \(HumanDuration.short(microseconds: slowest?.us ?? 0)) at rank \(slowest?.rank ?? 0), median \(HumanDuration.short(microseconds: save.median(stage) ?? 0))"
        }
        func piece(_ stage: TimelineStage, _ from: Double, _ to: Double, _ top: Double, _ tall: Double) {
            guard to > from else { return }
            rect(left + from, y + top, max(0.5, to - from), tall, Self.colours[stage] ?? "#000", tip(stage))
        }
        if let staged { piece(.staging, 0, staged, 0, bar) }
        if let late = save.ranks.max(by: { save.lateUs($0) < save.lateUs($1) }), Double(save.lateUs(late)) * scale >= 2 {
            rect(left, y, Double(save.lateUs(late)) * scale, bar, "#c6d4e8", "step \(save.step): rank \(late.rank) saved \(HumanDuration.short(microseconds: save.lateUs(late))) after the first")
        }
        let begin = staged ?? 0
        let local = at(\.localUs), global = at(\.globalUs), committed = at(\.committedUs)
        if let local { piece(.local, begin, local, 0, global == nil ? bar : half) }
        if let global { piece(.global, begin, global, local == nil ? 0 : half, local == nil ? bar : half) }
        if let committed, let durable = global ?? local { piece(.commit, durable, committed, 0, bar) }
        if let fence = save.slowest(.fence), fence.us > 0, let staged { piece(.fence, max(0, staged - Double(fence.us) * scale), staged, bar - 3, 3) }
        if let pool = save.slowest(.pool), pool.us > 0 { piece(.pool, 0, Double(pool.us) * scale, 0, 3) }
        if let median = Timeline.median(save.ranks.compactMap { rank in rank.stagedUs.map { $0 + save.lateUs(rank) } }) { rect(left + Double(median) * scale, y, 1, bar, "#000", "step \(save.step): the median rank was staged here") }
        let end = Double(save.endUs) * scale
        if let failure = save.failure {
            text(left + end + 6, y + height - 6, "✗ " + String(failure.prefix(28)), fill: "#c00", tip: "step \(save.step) failed: \(failure)")
        } else if height > 10 {
            text(left + end + 6, y + height - 6, HumanDuration.short(microseconds: save.endUs) + (save.ranks.count > 1 ? save.last.map { ", rank \($0) last" } ?? "" : ""), fill: "#444")
        }
        y += height
    }

    /// Some round times below the rows, each with a line through them.
    private mutating func axis(_ left: Double, _ span: Double, _ longest: Double, _ top: Double) {
        let steps = [100, 200, 500].flatMap { base in [1, 10, 100, 1000, 10_000, 100_000, 1_000_000].map { base * $0 } }.sorted()
        let step = steps.first { longest / Double($0) <= 8 } ?? Int(longest)
        for tick in stride(from: 0, through: Int(longest), by: step) {
            let x = left + Double(tick) / longest * span
            parts.append("<line x1=\"\(Self.number(x))\" x2=\"\(Self.number(x))\" y1=\"\(Self.number(top))\" y2=\"\(Self.number(y))\" stroke=\"#000\" stroke-opacity=\"0.12\"/>")
            text(x, y + 14, tick == 0 ? "0" : HumanDuration.short(microseconds: tick), anchor: "middle", fill: "#666")
        }
    }

    // MARK: heat maps

    private mutating func heatMaps() {
        let stages = [TimelineStage.staging, .fence, .pool, .local, .global, .commit].filter { timeline.isSeen($0) && ($0 != .pool || timeline.longest(.pool) > 0) }
        guard !stages.isEmpty else { return }
        y += 26
        text(margin, y, "Ranks (rows) and saves (columns): the darker, the longer", size: 14, weight: "bold")
        y += 8
        let columns = 3, gap = 16.0, label = 34.0
        let room = (width - 2 * margin - gap * Double(columns - 1)) / Double(columns) - label
        let wide = min(16, room / Double(timeline.saves.count))
        let tall = min(14, max(1.5, 420 / Double(timeline.ranks.count)))
        let mapHeight = tall * Double(timeline.ranks.count)
        for (index, stage) in stages.enumerated() {
            if index > 0, index % columns == 0 { y += mapHeight + 44 }
            heatMap(stage, margin + Double(index % columns) * (room + label + gap), y, label, wide, tall)
        }
        y += mapHeight + 44
    }

    private mutating func heatMap(_ stage: TimelineStage, _ left: Double, _ top: Double, _ label: Double, _ wide: Double, _ tall: Double) {
        let longest = max(1, timeline.longest(stage))
        text(left, top + 14, "\(stage.title), up to \(HumanDuration.short(microseconds: longest))")
        let begin = top + 22
        let every = max(1, Int((11 / tall).rounded(.up)))
        for (row, rank) in timeline.ranks.enumerated() where row % every == 0 {
            text(left + label - 5, begin + Double(row) * tall + min(tall, 11) - 1, "\(rank)", size: 10, anchor: "end", fill: "#666")
        }
        let rows = Dictionary(timeline.ranks.enumerated().map { ($1, $0) }, uniquingKeysWith: { first, _ in first })
        for (column, save) in timeline.saves.enumerated() {
            for rank in save.ranks {
                guard let row = rows[rank.rank] else { continue }
                let x = left + label + Double(column) * wide, top = begin + Double(row) * tall
                let isFailed = rank.level == .failed
                guard let time = stage.time(rank) else {
                    if isFailed { rect(x, top, wide - 0.5, tall - 0.5, "#fbd5d5", "step \(save.step), rank \(rank.rank): failed") }
                    continue
                }
                let tip = "step \(save.step), rank \(rank.rank), \(stage.title): \(HumanDuration.short(microseconds: time))\(isFailed ? ", failed" : "")"
                rect(x, top, wide - 0.5, tall - 0.5, Self.heat(Double(time) / Double(longest)), tip)
            }
        }
        if let first = timeline.saves.first, let last = timeline.saves.last {
            let bottom = begin + tall * Double(timeline.ranks.count) + 11
            text(left + label, bottom, "\(first.step)", size: 10, fill: "#666")
            if timeline.saves.count > 3 { text(left + label + wide * Double(timeline.saves.count), bottom, "\(last.step)", size: 10, anchor: "end", fill: "#666") }
        }
    }

    /// From nearly white over orange to dark red.
    static func heat(_ share: Double) -> String {
        let stops = [(0.0, [255.0, 247, 236]), (0.25, [253, 212, 158]), (0.5, [252, 141, 89]), (0.75, [215, 48, 31]), (1.0, [127, 0, 0])]
        let share = min(1, max(0, share))
        let upper = stops.firstIndex { $0.0 >= share } ?? stops.count - 1
        guard upper > 0 else { return hex(stops[0].1) }
        let (from, to) = (stops[upper - 1], stops[upper])
        let part = (share - from.0) / (to.0 - from.0)
        return hex(zip(from.1, to.1).map { $0 + ($1 - $0) * part })
    }

    private static func hex(_ channels: [Double]) -> String {
        "#" + channels.map { channel in
            let digits = String(Int(channel.rounded()), radix: 16)
            return digits.count < 2 ? "0" + digits : digits
        }.joined()
    }

    // MARK: elements

    private mutating func rect(_ x: Double, _ y: Double, _ width: Double, _ height: Double, _ fill: String, _ tip: String? = nil) {
        let place = "x=\"\(Self.number(x))\" y=\"\(Self.number(y))\" width=\"\(Self.number(width))\" height=\"\(Self.number(height))\" fill=\"\(fill)\""
        parts.append(tip.map { "<rect \(place)><title>\(Self.escaped($0))</title></rect>" } ?? "<rect \(place)/>")
    }

    private mutating func text(_ x: Double, _ y: Double, _ text: String, size: Int = 12, weight: String? = nil, anchor: String? = nil, fill: String? = nil, tip: String? = nil) {
        var attributes = "x=\"\(Self.number(x))\" y=\"\(Self.number(y))\""
        if size != 12 { attributes += " font-size=\"\(size)\"" }
        if let weight { attributes += " font-weight=\"\(weight)\"" }
        if let anchor { attributes += " text-anchor=\"\(anchor)\"" }
        if let fill { attributes += " fill=\"\(fill)\"" }
        parts.append("<text \(attributes)>\(tip.map { "<title>\(Self.escaped($0))</title>" } ?? "")\(Self.escaped(text))</text>")
    }

    static func number(_ value: Double) -> String {
        let text = HumanDuration.decimal(abs(value), 1)
        return (value < 0 ? "-" : "") + (text.hasSuffix(".0") ? String(text.dropLast(2)) : text)
    }

    /// Also without control characters, which XML has none for: names and reasons are others' words.
    static func escaped(_ text: String) -> String {
        Table.printable(text).map { $0 == "&" ? "&amp;" : $0 == "<" ? "&lt;" : $0 == ">" ? "&gt;" : $0 == "\"" ? "&quot;" : String($0) }.joined()
    }

    static func wrapped(_ text: String, _ columns: Int) -> [String] {
        var lines = [""]
        for word in text.split(separator: " ") {
            let line = lines[lines.count - 1]
            if line.isEmpty { lines[lines.count - 1] = String(word) } else if line.count + 1 + word.count <= columns { lines[lines.count - 1] += " " + word } else { lines.append(String(word)) }
        }
        return lines
    }
}
