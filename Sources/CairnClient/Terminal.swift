// Where a tool's words go: results to the standard output, everything else to the standard error.
import CairnIO
import CairnWire

public enum Terminal {
    public static var outputIsTerminal: Bool { ProcessFacts.isTerminal(1) }
    public static var errorIsTerminal: Bool { ProcessFacts.isTerminal(2) }

    /// Colour only on a terminal, and nowhere for who sets NO_COLOR (https://no-color.org).
    public static var colour: Bool {
        outputIsTerminal && (ProcessFacts.environment("NO_COLOR") ?? "").isEmpty && ProcessFacts.environment("TERM") != "dumb"
    }

    /// Lines of the terminal that results go to; the usual 24 where it does not say.
    public static var rows: Int { ProcessFacts.terminalRows(1) ?? 24 }

    public static var ownUID: UInt32 { ProcessFacts.uid }
    public static var utcSeconds: Int { Clock.utcSeconds() }

    /// False when the reader is gone (`cairn ls | head`).
    @discardableResult public static func output(_ text: String) -> Bool { StandardStreams.write(to: 1, text) }
    @discardableResult public static func error(_ text: String) -> Bool { StandardStreams.write(to: 2, text) }

    /// A line of the standard error that is drawn anew in place; nothing where that is no terminal.
    public static func redraw(_ line: String) {
        if errorIsTerminal { error("\r\u{1B}[K" + line) }
    }

    /// Ignores signals that would end a tool in the middle of a word, e.g. of a closed pipe.
    public static func prepare() { ProcessFacts.ignoreSignals() }
}
