// Durations for people, in three digits: `0.4 ms`, `38 ms`, `1.24 s`, `12.4 s`, `3m 20s`.

public enum HumanDuration {
    public static func short(microseconds: Int) -> String {
        let value = max(0, microseconds)
        switch value {
        case ..<9_950: return decimal(Double(value) / 1000, 1) + " ms"
        case ..<999_500: return "\((value + 500) / 1000) ms"
        case ..<9_995_000: return decimal(Double(value) / 1e6, 2) + " s"
        case ..<99_950_000: return decimal(Double(value) / 1e6, 1) + " s"
        default:
            let seconds = (value + 500_000) / 1_000_000
            return seconds < 3600 ? "\(seconds / 60)m \(seconds % 60)s" : HumanAge.short(seconds: seconds)
        }
    }

    /// `1.24` with that many digits after the point, without Foundation's formatters.
    static func decimal(_ value: Double, _ digits: Int) -> String {
        let scale = (0..<digits).reduce(1) { all, _ in all * 10 }
        let whole = Int((value * Double(scale)).rounded())
        let rest = String(whole % scale)
        return digits == 0 ? String(whole) : "\(whole / scale)." + String(repeating: "0", count: digits - rest.count) + rest
    }
}
