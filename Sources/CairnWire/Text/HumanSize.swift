// Sizes for people, in powers of 1024 with one decimal; without Foundation's formatters, so that they read the same in
// every locale.

public enum HumanSize {
    private static let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"]

    /// `512 B`, `8.0 MiB`, `258.1 GiB`.
    public static func short(_ bytes: Int) -> String {
        let (tenths, unit) = scaled(bytes)
        return unit == 0 ? "\(bytes) B" : "\(tenths / 10).\(abs(tenths % 10)) \(units[unit])"
    }

    /// `258.1 of 412.6 GiB`: both in the unit of the whole, so that progress is read from the numbers alone.
    public static func progress(_ bytes: Int, of total: Int) -> String {
        let (tenths, unit) = scaled(total)
        if unit == 0 { return "\(bytes) of \(total) B" }
        let done = tenthsOf(bytes, unit: unit)
        return "\(done / 10).\(abs(done % 10)) of \(tenths / 10).\(tenths % 10) \(units[unit])"
    }

    /// A whole number of its unit stays exact (`64 MiB`); else the bytes themselves.
    public static func exact(_ bytes: Int) -> String {
        var value = bytes, unit = 0
        while value != 0, value.isMultiple(of: 1024), unit < units.count - 1 { value /= 1024; unit += 1 }
        return "\(value) \(units[unit])"
    }

    private static func scaled(_ bytes: Int) -> (tenths: Int, unit: Int) {
        var unit = 0
        // 1023.95 of a unit would print as 1024.0: that is 1.0 of the next.
        while unit < units.count - 1, tenthsOf(bytes, unit: unit) >= 10240 { unit += 1 }
        return (tenthsOf(bytes, unit: unit), unit)
    }

    private static func tenthsOf(_ bytes: Int, unit: Int) -> Int {
        unit == 0 ? (bytes > Int.max / 10 ? Int.max : bytes * 10) : Int((Double(bytes) / Double(1 << (10 * unit)) * 10).rounded())
    }
}
