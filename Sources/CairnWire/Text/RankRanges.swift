// Ranks for people: `3, 5-9, 12`; of many, the first few.

public enum RankRanges {
    /// `ranks` ascending. At most `most` ranges, then how many ranks are not named.
    public static func text(_ ranks: [Int], most: Int = 8) -> String {
        var ranges: [ClosedRange<Int>] = []
        for rank in ranks {
            if let last = ranges.last, rank == last.upperBound + 1 { ranges[ranges.count - 1] = last.lowerBound...rank } else { ranges.append(rank...rank) }
        }
        let shown = ranges.prefix(most).map { $0.count == 1 ? "\($0.lowerBound)" : $0.count == 2 ? "\($0.lowerBound), \($0.upperBound)" : "\($0.lowerBound)-\($0.upperBound)" }
        let left = ranges.dropFirst(most).reduce(0) { $0 + $1.count }
        return shown.joined(separator: ", ") + (left > 0 ? " and \(left) more" : "")
    }
}
