// The one pass over a JSON text that makes a JSONTree's nodes. Strings are only bounded here; their text is checked when read.

struct JSONParser {
    private let bytes: [UInt8]
    private let maximumDepth: Int, maximumNodes: Int
    private var at = 0
    private(set) var nodes: [JSONTree.Node] = []

    init(bytes: [UInt8], maximumDepth: Int, maximumNodes: Int) {
        self.bytes = bytes
        self.maximumDepth = maximumDepth
        self.maximumNodes = maximumNodes
        nodes.reserveCapacity(min(bytes.count / 8 + 1, 1 << 20))
    }

    mutating func document() throws(ProtocolViolation) {
        try value(depth: 0)
        space()
        guard at == bytes.count else { throw unexpected() }
    }

    private func unexpected() -> ProtocolViolation {
        at < bytes.count
            ? ProtocolViolation(reason: "not JSON at byte \(at)") : ProtocolViolation(reason: "not JSON: it ends after \(at) bytes")
    }

    private mutating func space() {
        while at < bytes.count, bytes[at] <= 0x20, bytes[at] == 0x20 || bytes[at] == 0x0A || bytes[at] == 0x0D || bytes[at] == 0x09 { at += 1 }
    }

    private mutating func value(depth: Int) throws(ProtocolViolation) {
        space()
        guard at < bytes.count else { throw unexpected() }
        guard nodes.count < maximumNodes else { throw ProtocolViolation(reason: "more than \(maximumNodes) values") }
        switch bytes[at] {
        case UInt8(ascii: "{"): try members(depth: depth + 1)
        case UInt8(ascii: "["): try elements(depth: depth + 1)
        case UInt8(ascii: "\""): try string()
        case UInt8(ascii: "t"): try literal("true", .yes)
        case UInt8(ascii: "f"): try literal("false", .no)
        case UInt8(ascii: "n"): try literal("null", .null)
        default: try number()
        }
    }

    private mutating func open(_ kind: JSONTree.Kind, depth: Int) throws(ProtocolViolation) -> Int {
        guard depth <= maximumDepth else { throw ProtocolViolation(reason: "nested deeper than \(maximumDepth)") }
        nodes.append(.init(kind: kind, start: UInt32(at), end: 0, next: 0))
        at += 1
        space()
        return nodes.count - 1
    }

    private mutating func close(_ index: Int) {
        at += 1
        nodes[index].end = UInt32(at)
        nodes[index].next = UInt32(nodes.count)
    }

    private func isAt(_ character: Unicode.Scalar) -> Bool { at < bytes.count && bytes[at] == UInt8(ascii: character) }

    private mutating func members(depth: Int) throws(ProtocolViolation) {
        let index = try open(.object, depth: depth)
        if isAt("}") { return close(index) }
        while true {
            space()
            guard isAt("\"") else { throw unexpected() }
            try string()
            space()
            guard isAt(":") else { throw unexpected() }
            at += 1
            try value(depth: depth)
            space()
            if isAt("}") { return close(index) }
            guard isAt(",") else { throw unexpected() }
            at += 1
        }
    }

    private mutating func elements(depth: Int) throws(ProtocolViolation) {
        let index = try open(.array, depth: depth)
        if isAt("]") { return close(index) }
        while true {
            try value(depth: depth)
            space()
            if isAt("]") { return close(index) }
            guard isAt(",") else { throw unexpected() }
            at += 1
        }
    }

    private mutating func string() throws(ProtocolViolation) {
        at += 1
        let start = at
        var escaped = false
        while at < bytes.count {
            let byte = bytes[at]
            if byte == UInt8(ascii: "\"") {
                add(escaped ? .escapedString : .string, from: start)
                at += 1
                return
            }
            guard byte >= 0x20 else { throw unexpected() }
            if byte == UInt8(ascii: "\\") {
                escaped = true
                at += 1
            }
            at += 1
        }
        at = bytes.count
        throw unexpected()
    }

    private mutating func add(_ kind: JSONTree.Kind, from start: Int) {
        nodes.append(.init(kind: kind, start: UInt32(start), end: UInt32(at), next: UInt32(nodes.count + 1)))
    }

    private mutating func literal(_ text: StaticString, _ kind: JSONTree.Kind) throws(ProtocolViolation) {
        let start = at
        for byte in text.description.utf8 {
            guard at < bytes.count, bytes[at] == byte else { throw unexpected() }
            at += 1
        }
        add(kind, from: start)
    }

    private mutating func number() throws(ProtocolViolation) {
        let start = at
        if isAt("-") { at += 1 }
        if isAt("0") { at += 1 } else { try digits() }
        if isAt(".") { at += 1; try digits() }
        if isAt("e") || isAt("E") {
            at += 1
            if isAt("+") || isAt("-") { at += 1 }
            try digits()
        }
        add(.number, from: start)
    }

    private mutating func digits() throws(ProtocolViolation) {
        let start = at
        while at < bytes.count, bytes[at] &- 0x30 < 10 { at += 1 }
        guard at > start else { throw unexpected() }
    }
}
