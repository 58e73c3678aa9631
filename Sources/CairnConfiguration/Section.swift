// One mapping of the file, read strictly: only known keys, each value of the type that its key has.
// Every refusal names the place of the key or value at fault.
import Yams

struct Section {
    /// Where it stands, as one would say it: `tiers.local`; empty at the top.
    let path: String
    let file: String
    private let mark: Mark?
    private let values: [String: Node]

    /// - parameter emptyAllowed: `limits:` with everything below commented out is an empty section; a tier cannot be empty.
    init(_ node: Node, path: String, file: String, known: [String], emptyAllowed: Bool = true) throws(ConfigurationError) {
        self.path = path
        self.file = file
        mark = node.mark
        if Self.isNull(node), emptyAllowed {
            values = [:]
            return
        }
        guard let mapping = node.mapping else {
            throw Self.failure(.wrongType, file, node.mark, """
                expected \(path.isEmpty ? "the file" : path) to be a mapping of \(known.joined(separator: ", ")), \
                found \(Self.found(node))
                """)
        }
        var values: [String: Node] = [:]
        for (key, value) in mapping {
            guard let name = key.scalar?.string, known.contains(name) else {
                let name = key.scalar?.string ?? Self.found(key)
                let hint = Self.closest(to: name, among: known).map { "; did you mean '\($0)'?" } ?? "."
                throw Self.failure(.unknownKey, file, key.mark, """
                    unknown key '\(name)' \(path.isEmpty ? "at the top level" : "in \(path)")\(hint) \
                    Known keys here: \(known.joined(separator: ", "))
                    """)
            }
            values[name] = value
        }
        self.values = values
    }

    func has(_ key: String) -> Bool { values[key] != nil }

    func section(_ key: String, known: [String], emptyAllowed: Bool = true) throws(ConfigurationError) -> Section? {
        guard let node = values[key] else { return nil }
        return try Section(node, path: name(key), file: file, known: known, emptyAllowed: emptyAllowed)
    }

    /// The value of `key` where it is there; `parse` gives nil for what is not as `expected` says.
    func value<Value>(_ key: String, expected: String, nullable: Bool = false,
                      parse: (String) -> Value?) throws(ConfigurationError) -> Value? {
        guard let node = values[key] else { return nil }
        return try scalar(node, name(key), expected: expected, nullable: nullable, parse: parse)
    }

    func list<Value>(_ key: String, expected: String, parse: (String) -> Value?) throws(ConfigurationError) -> [Value]? {
        guard let node = values[key] else { return nil }
        guard let sequence = node.sequence else {
            throw Self.failure(.wrongType, file, node.mark, """
                expected a list for \(name(key)), such as [a, b], found \(Self.found(node))
                """)
        }
        var items: [Value] = []
        for (index, item) in sequence.enumerated() {
            if let value = try scalar(item, "\(name(key))[\(index)]", expected: expected, nullable: false, parse: parse) {
                items.append(value)
            }
        }
        return items
    }

    /// An error at the value of `key`, or at the section where the key is missing.
    func error(_ kind: ConfigurationError.Kind, at key: String? = nil, _ message: String) -> ConfigurationError {
        Self.failure(kind, file, key.flatMap { values[$0]?.mark } ?? mark, message)
    }

    private func name(_ key: String) -> String { path.isEmpty ? key : "\(path).\(key)" }

    private func scalar<Value>(_ node: Node, _ name: String, expected: String, nullable: Bool,
                               parse: (String) -> Value?) throws(ConfigurationError) -> Value? {
        if nullable, Self.isNull(node) { return nil }
        guard let text = node.scalar?.string, !Self.isNull(node) else {
            throw Self.failure(.wrongType, file, node.mark, "expected \(expected) for \(name), found \(Self.found(node))")
        }
        guard let value = parse(text) else {
            throw Self.failure(.badValue, file, node.mark, "expected \(expected) for \(name), found '\(text)'")
        }
        return value
    }

    static func failure(_ kind: ConfigurationError.Kind, _ file: String, _ mark: Mark?, _ message: String) -> ConfigurationError {
        ConfigurationError(kind, file: file, line: mark?.line, column: mark?.column, message)
    }

    private static func isNull(_ node: Node) -> Bool {
        guard let scalar = node.scalar, scalar.style == .plain || scalar.style == .any else { return false }
        return ["", "~", "null", "Null", "NULL"].contains(scalar.string)
    }

    private static func found(_ node: Node) -> String {
        switch node {
        case .mapping: "a mapping"
        case .sequence: "a list"
        case .alias: "an alias"
        case .scalar(let scalar): isNull(node) ? "nothing" : "'\(scalar.string)'"
        }
    }

    /// The known key that a slip of the fingers would have turned into `name`, if one is near enough.
    static func closest(to name: String, among known: [String]) -> String? {
        let near = known.map { ($0, distance(Array(name.lowercased()), Array($0.lowercased()))) }
            .filter { $0.1 <= max(1, min(3, $0.0.count / 2)) }
        return near.min { $0.1 < $1.1 }?.0
    }

    /// Levenshtein's, with a swap of neighbours counted as one: the commonest slip.
    private static func distance(_ left: [Character], _ right: [Character]) -> Int {
        var before: [Int] = []
        var last = Array(0...right.count)
        for i in 0..<left.count {
            var row = [i + 1]
            for j in 0..<right.count {
                var best = min(last[j] + (left[i] == right[j] ? 0 : 1), last[j + 1] + 1, row[j] + 1)
                if i > 0, j > 0, left[i] == right[j - 1], left[i - 1] == right[j] { best = min(best, before[j - 1] + 1) }
                row.append(best)
            }
            before = last
            last = row
        }
        return last[right.count]
    }
}
