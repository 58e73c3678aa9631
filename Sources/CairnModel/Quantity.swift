// Sizes and durations as people write them: a whole number and a unit, nothing rounded, nothing guessed.

public enum Quantity {
    public static let sizeSyntax = "a size such as 512MiB or 4GiB (whole numbers of B, KiB, MiB, GiB, TiB)"
    public static let durationSyntax = "a duration such as 500ms, 30s, 30min, 2h (whole numbers of ms, s, min, h, d)"

    private static let sizeUnits: [String: Int] = ["B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40]
    private static let durationUnits: [String: Int] = [
        "ms": 1, "s": 1000, "min": 60_000, "h": 3_600_000, "d": 86_400_000,
    ]

    public static func bytes(_ text: String) -> Int? { amount(text, units: sizeUnits) }
    public static func milliseconds(_ text: String) -> Int? { amount(text, units: durationUnits) }

    private static func amount(_ text: String, units: [String: Int]) -> Int? {
        let digits = text.prefix { $0.isASCII && $0.isNumber }
        let unit = text.dropFirst(digits.count).drop { $0 == " " }
        guard let number = Int(digits), let factor = units[String(unit)] else { return nil }
        let (product, overflow) = number.multipliedReportingOverflow(by: factor)
        return overflow ? nil : product
    }

    /// In the largest unit that divides it, so that a limit in an error reads as one writes it.
    public static func sizeText(_ bytes: Int) -> String {
        for (unit, factor) in [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)]
        where bytes != 0 && bytes % factor == 0 {
            return "\(bytes / factor)\(unit)"
        }
        return "\(bytes)B"
    }

    public static func durationText(_ milliseconds: Int) -> String {
        for (unit, factor) in [("d", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1000)]
        where milliseconds != 0 && milliseconds % factor == 0 {
            return "\(milliseconds / factor)\(unit)"
        }
        return "\(milliseconds)ms"
    }
}
