// Prometheus' text format (https://prometheus.io/docs/instrumenting/exposition_formats/): a HELP and a TYPE line for each family, then its samples.
// Names end in their unit (seconds, bytes), counters in _total; values are seconds and bytes, never thousandths.

public struct Histogram: Sendable {
    /// Upper bounds in seconds, for all histograms: from a call that costs nothing to a save that takes a quarter of an hour.
    public static let bounds = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000]
    private var counts = Array(repeating: 0, count: bounds.count + 1)
    public private(set) var sum = 0.0

    public init() {}
    public var count: Int { counts.reduce(0, +) }

    public mutating func observe(nanoseconds: Int) {
        let seconds = Double(max(0, nanoseconds)) / 1e9
        counts[Self.bounds.firstIndex { seconds <= $0 } ?? Self.bounds.count] += 1
        sum += seconds
    }

    /// Observations up to each bound, then all.
    var cumulative: [(bound: String, count: Int)] {
        var total = 0
        return zip(Self.bounds.map(Exposition.number) + ["+Inf"], counts).map { bound, count in
            total += count
            return (bound, total)
        }
    }
}

public struct Exposition {
    public enum Kind: String, Sendable { case counter, gauge, histogram }
    public typealias Labels = [(name: String, value: String)]
    private var lines: [String] = []

    public init() {}
    public var text: String { lines.map { $0 + "\n" }.joined() }

    /// A family without samples is left out.
    public mutating func family(_ name: String, _ kind: Kind, _ help: String, _ samples: [(labels: Labels, value: Double)]) {
        guard !samples.isEmpty else { return }
        head(name, kind, help)
        for (labels, value) in samples { sample(name, labels, Self.number(value)) }
    }

    public mutating func family(_ name: String, _ help: String, _ histograms: [(labels: Labels, value: Histogram)]) {
        guard !histograms.isEmpty else { return }
        head(name, .histogram, help)
        for (labels, histogram) in histograms {
            for (bound, count) in histogram.cumulative { sample("\(name)_bucket", labels + [("le", bound)], String(count)) }
            sample("\(name)_sum", labels, Self.number(histogram.sum))
            sample("\(name)_count", labels, String(histogram.count))
        }
    }

    private mutating func head(_ name: String, _ kind: Kind, _ help: String) {
        lines.append("# HELP cairn_\(name) \(help)")
        lines.append("# TYPE cairn_\(name) \(kind.rawValue)")
    }

    private mutating func sample(_ name: String, _ labels: Labels, _ value: String) {
        let inner = labels.map { "\($0.name)=\"\(Self.escaped($0.value))\"" }.joined(separator: ",")
        lines.append("cairn_\(name)\(labels.isEmpty ? "" : "{\(inner)}") \(value)")
    }

    /// A whole number without a point, as people expect of counts.
    static func number(_ value: Double) -> String {
        value == value.rounded() && abs(value) < 1e15 ? String(Int(value)) : String(value)
    }

    static func escaped(_ value: String) -> String {
        value.map { $0 == "\\" ? "\\\\" : $0 == "\"" ? "\\\"" : $0.isNewline ? "\\n" : String($0) }.joined()
    }
}
