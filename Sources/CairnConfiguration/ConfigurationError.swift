// What is wrong with a configuration, where, and what to write instead: one line that an editor can jump to.
//   cairnd.yaml:7:3: unknown key 'sise' in pool; did you mean 'size'? Known keys here: size, chunk, lock

public struct ConfigurationError: Error, Equatable, Sendable, CustomStringConvertible {
    /// The kind, for callers and tests; the text is for people.
    public enum Kind: String, Sendable {
        case unreadable, notYAML, duplicateKey, unknownKey, wrongType, badValue, missing, contradiction
    }
    public let kind: Kind
    public let file: String
    /// Both from 1; nil where no place in the file is at fault (it cannot be read, or there is none).
    public let line: Int?, column: Int?
    public let message: String

    init(_ kind: Kind, file: String, line: Int? = nil, column: Int? = nil, _ message: String) {
        self.kind = kind
        self.file = file
        self.line = line
        self.column = column
        self.message = message
    }

    public var description: String {
        guard let line, let column else { return "\(file): \(message)" }
        return "\(file):\(line):\(column): \(message)"
    }
}
