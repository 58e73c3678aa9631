// Codable's view of a JSONTree: decodes any struct of the wire from one node. A path is worked out only for an error.

struct JSONTreeDecoder: Decoder {
    let tree: JSONTree
    let node: Int

    /// What absent parameters read as.
    static var emptyObject: JSONTreeDecoder {
        get throws { JSONTreeDecoder(tree: try JSONTree(Array("{}".utf8)), node: 0) }
    }

    var codingPath: [any CodingKey] { tree.path(to: node) }
    var userInfo: [CodingUserInfoKey: Any] { [:] }

    func container<Key: CodingKey>(keyedBy _: Key.Type) throws -> KeyedDecodingContainer<Key> {
        guard tree.nodes[node].kind == .object else { throw mismatch("an object") }
        return KeyedDecodingContainer(JSONObjectContainer<Key>(tree: tree, node: node))
    }

    func unkeyedContainer() throws -> any UnkeyedDecodingContainer {
        guard tree.nodes[node].kind == .array else { throw mismatch("an array") }
        return JSONArrayContainer(tree: tree, node: node)
    }

    func singleValueContainer() throws -> any SingleValueDecodingContainer { JSONValueContainer(decoder: self) }

    func mismatch(_ wanted: String) -> DecodingError {
        .typeMismatch(Any.self, .init(codingPath: codingPath, debugDescription: "not \(wanted)"))
    }

    // The leaves. Each is what all containers call for its type.
    func bool() throws -> Bool {
        switch tree.nodes[node].kind {
        case .yes: true
        case .no: false
        default: throw mismatch("a boolean")
        }
    }

    func string() throws -> String {
        guard tree.isString(node), let text = tree.string(node) else { throw mismatch("a string") }
        return text
    }

    func integer<Value: FixedWidthInteger>(_: Value.Type) throws -> Value {
        guard tree.nodes[node].kind == .number, let value = tree.integer(node, as: Value.self) else { throw mismatch("an integer of this range") }
        return value
    }

    func value<Value: Decodable>(_ type: Value.Type) throws -> Value {
        // The commonest, without the detour over a container.
        if type == String.self, let text = try string() as? Value { return text }
        if type == Int.self, let number = try integer(Int.self) as? Value { return number }
        if type == [Int].self {
            guard tree.nodes[node].kind == .array else { throw mismatch("an array") }
            var numbers: [Int] = []
            var child = node + 1
            while child < tree.nodes[node].next {
                numbers.append(try JSONTreeDecoder(tree: tree, node: child).integer(Int.self))
                child = Int(tree.nodes[child].next)
            }
            if let numbers = numbers as? Value { return numbers }
        }
        return try Value(from: self)
    }
}

private struct JSONValueContainer: SingleValueDecodingContainer {
    let decoder: JSONTreeDecoder
    var codingPath: [any CodingKey] { decoder.codingPath }
    func decodeNil() -> Bool { decoder.tree.nodes[decoder.node].kind == .null }
    func decode(_: Bool.Type) throws -> Bool { try decoder.bool() }
    func decode(_: String.Type) throws -> String { try decoder.string() }
    func decode(_: Double.Type) throws -> Double { throw decoder.mismatch("of a type of the wire") }
    func decode(_: Float.Type) throws -> Float { throw decoder.mismatch("of a type of the wire") }
    func decode(_ type: Int.Type) throws -> Int { try decoder.integer(type) }
    func decode(_ type: Int8.Type) throws -> Int8 { try decoder.integer(type) }
    func decode(_ type: Int16.Type) throws -> Int16 { try decoder.integer(type) }
    func decode(_ type: Int32.Type) throws -> Int32 { try decoder.integer(type) }
    func decode(_ type: Int64.Type) throws -> Int64 { try decoder.integer(type) }
    func decode(_ type: UInt.Type) throws -> UInt { try decoder.integer(type) }
    func decode(_ type: UInt8.Type) throws -> UInt8 { try decoder.integer(type) }
    func decode(_ type: UInt16.Type) throws -> UInt16 { try decoder.integer(type) }
    func decode(_ type: UInt32.Type) throws -> UInt32 { try decoder.integer(type) }
    func decode(_ type: UInt64.Type) throws -> UInt64 { try decoder.integer(type) }
    func decode<Value: Decodable>(_ type: Value.Type) throws -> Value { try decoder.value(type) }
}
