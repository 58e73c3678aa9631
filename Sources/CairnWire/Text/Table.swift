// Rows as aligned columns: words left, numbers right, two spaces between, no spaces at the end of a line.
//   STEP  STATE    RANKS  AGE
//   1300  local      5/8   4s

public struct Table: Sendable {
    public enum Side: Sendable { case left, right }
    public enum Style: String, Sendable {
        case plain = "", bold = "1", dim = "2", red = "31", green = "32", yellow = "33"

        public func apply(_ text: String, colour: Bool) -> String {
            colour && self != .plain ? "\u{1B}[\(rawValue)m\(text)\u{1B}[0m" : text
        }
    }
    public struct Cell: Sendable, ExpressibleByStringLiteral, ExpressibleByStringInterpolation {
        public let text: String, style: Style
        public init(_ text: String, _ style: Style = .plain) { self.text = Table.printable(text); self.style = style }
        public init(_ number: Int) { self.init(String(number)) }
        public init(stringLiteral text: String) { self.init(text) }
    }

    private let columns: [(title: String, side: Side)]
    private var rows: [[Cell]] = []

    public init(_ columns: [(title: String, side: Side)]) {
        self.columns = columns
    }

    public var isEmpty: Bool { rows.isEmpty }

    public mutating func add(_ row: [Cell]) {
        precondition(row.count == columns.count, "a row of \(row.count) cells in a table of \(columns.count) columns")
        rows.append(row)
    }

    /// All lines, each with its newline. Styles only where `colour`.
    public func render(colour: Bool = false, indent: Int = 0) -> String {
        let header = columns.map { Cell($0.title, .bold) }
        var widths = header.map(\.text.count)
        for row in rows { for (column, cell) in row.enumerated() { widths[column] = max(widths[column], cell.text.count) } }
        let margin = String(repeating: " ", count: indent)
        var text = ""
        for row in [header] + rows {
            var line = margin
            // Spaces are owed until something follows them: no line ends in one.
            var owed = 0
            for (column, cell) in row.enumerated() {
                let padding = widths[column] - cell.text.count
                owed += column == 0 ? 0 : 2
                if columns[column].side == .right { owed += padding }
                if !cell.text.isEmpty {
                    line += String(repeating: " ", count: owed) + cell.style.apply(cell.text, colour: colour)
                    owed = 0
                }
                if columns[column].side == .left { owed += padding }
            }
            text += line + "\n"
        }
        return text
    }

    /// A name of someone else's choosing must not steer the terminal: control characters become '?'.
    public static func printable(_ text: String) -> String {
        text.unicodeScalars.contains(where: isControl)
            ? String(String.UnicodeScalarView(text.unicodeScalars.map { isControl($0) ? "?" : $0 })) : text
    }

    private static func isControl(_ scalar: Unicode.Scalar) -> Bool {
        scalar.properties.generalCategory == .control || scalar.properties.generalCategory == .format
    }
}
