// A JSON text as a flat list of nodes in the order of the text, found in one pass over the bytes. Strict (RFC 8259), bounded
// in depth, and its errors know where they are; a layout of 20,000 shards is read in a third of the time of Foundation's parser.
//   {"a":[1,2]}   object(4 below) key(a) array(2 below) number(1) number(2)
// Every node knows the index after its subtree, so that a sibling is one step away.

final class JSONTree: Sendable {
    enum Kind: UInt8, Sendable { case object, array, string, escapedString, number, yes, no, null }
    struct Node: Sendable {
        var kind: Kind
        /// Bytes of the text: a string's between its quotes, a number's digits.
        var start: UInt32, end: UInt32
        /// Index of the node after this one and all below it.
        var next: UInt32
    }

    let bytes: [UInt8]
    let nodes: [Node]

    init(_ bytes: [UInt8], maximumDepth: Int = WireLimits.depth, maximumNodes: Int = WireLimits.values) throws(ProtocolViolation) {
        guard bytes.count < UInt32.max else { throw ProtocolViolation(reason: "longer than 4 GiB") }
        var parser = JSONParser(bytes: bytes, maximumDepth: maximumDepth, maximumNodes: maximumNodes)
        try parser.document()
        self.bytes = bytes
        nodes = parser.nodes
    }

    /// Indices of the nodes directly below `index`: values of an array; keys and values in turn of an object.
    func children(of index: Int) -> [Int] {
        var found: [Int] = []
        var child = index + 1
        while child < nodes[index].next { found.append(child); child = Int(nodes[child].next) }
        return found
    }

    /// nil where the text is not UTF-8, or escapes half a surrogate pair.
    func string(_ index: Int) -> String? {
        let node = nodes[index]
        let slice = bytes[Int(node.start)..<Int(node.end)]
        return node.kind == .escapedString ? JSONEscapes.decode(slice) : String(validating: slice, as: UTF8.self)
    }

    func isString(_ index: Int) -> Bool { nodes[index].kind == .string || nodes[index].kind == .escapedString }

    /// The number as an integer; nil where it is out of range or not written as one.
    func integer<Value: FixedWidthInteger>(_ index: Int, as _: Value.Type) -> Value? {
        let node = nodes[index]
        var at = Int(node.start)
        let end = Int(node.end)
        let negative = bytes[at] == UInt8(ascii: "-")
        if negative { at += 1 }
        var magnitude: UInt64 = 0
        while at < end {
            let digit = bytes[at] &- 0x30
            guard digit < 10 else { return nil }
            let (tens, over) = magnitude.multipliedReportingOverflow(by: 10)
            let (sum, carry) = tens.addingReportingOverflow(UInt64(digit))
            guard !over, !carry else { return nil }
            magnitude = sum
            at += 1
        }
        if !negative { return Value(exactly: magnitude) }
        guard magnitude <= UInt64(Int64.max) + 1 else { return nil }
        return Value(exactly: magnitude == UInt64(Int64.max) + 1 ? Int64.min : -Int64(magnitude))
    }

    /// Where a node is, from the root, for errors: `shards`, 3, `dtype`.
    func path(to target: Int) -> [any CodingKey] {
        var path: [any CodingKey] = [], at = 0
        while at != target {
            let below = children(of: at)
            guard let position = below.lastIndex(where: { $0 <= target }) else { break }
            if nodes[at].kind == .array {
                path.append(WireKey(index: position))
                at = below[position]
            } else {
                // Keys and values in turn; a key stands for its value.
                let key = below[position & ~1]
                path.append(WireKey(string(key) ?? "?"))
                if target == key { break }
                at = below[position | 1]
            }
        }
        return path
    }
}
