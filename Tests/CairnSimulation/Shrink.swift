// The smallest history that still fails: the same seed with each kind of fault switched off in turn, and faults for a shorter time.

public struct Shrunk: Sendable {
    public var options: HistoryOptions, violation: String, tried: Int
}

public enum Shrink {
    public static func violation(_ options: HistoryOptions) -> String? { World(options).run() }

    /// A history may break another invariant once it is smaller: any counts. `crashes` is asked instead where a history ends its process.
    public static func smallest(_ options: HistoryOptions, fails: (HistoryOptions) -> String? = violation) -> Shrunk? {
        guard var violation = fails(options) else { return nil }
        var best = options, tried = 1
        func accept(_ smaller: HistoryOptions) {
            tried += 1
            if let found = fails(smaller) { best = smaller; violation = found }
        }
        for kind in FaultKind.allCases {
            var smaller = best
            smaller.without.insert(kind)
            accept(smaller)
        }
        var part = best.faultMs / 2
        while part >= 250 {
            var smaller = best
            smaller.faultMs = best.faultMs - part
            accept(smaller)
            part /= 2
        }
        return Shrunk(options: best, violation: violation, tried: tried)
    }

    /// How to run it again.
    public static func replay(_ options: HistoryOptions) -> String {
        var text = "cairn-simulate --seed \(options.seed)"
        if options.faultMs != HistoryOptions(seed: 0).faultMs { text += " --fault-ms \(options.faultMs)" }
        if !options.without.isEmpty { text += " --without \(options.without.map(\.rawValue).sorted().joined(separator: ","))" }
        return text
    }
}
