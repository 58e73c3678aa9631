// Objects and arrays of a JSONTree, as Codable reads them.

struct JSONObjectContainer<Key: CodingKey>: KeyedDecodingContainerProtocol {
    let tree: JSONTree
    let node: Int
    /// Only for objects of many members: a search for each key of a large map would take quadratic time.
    private let index: [String: Int]?

    init(tree: JSONTree, node: Int) {
        self.tree = tree
        self.node = node
        var members = 0
        var key = node + 1
        while key < tree.nodes[node].next { members += 1; key = Int(tree.nodes[key + 1].next) }
        guard members > 24 else { index = nil; return }
        var index: [String: Int] = [:]
        key = node + 1
        while key < tree.nodes[node].next {
            if let name = tree.string(key), index[name] == nil { index[name] = key + 1 }
            key = Int(tree.nodes[key + 1].next)
        }
        self.index = index
    }

    var codingPath: [any CodingKey] { tree.path(to: node) }

    var allKeys: [Key] {
        var keys: [Key] = [], key = node + 1
        while key < tree.nodes[node].next {
            if let name = tree.string(key).flatMap(Key.init(stringValue:)) { keys.append(name) }
            key = Int(tree.nodes[key + 1].next)
        }
        return keys
    }

    /// The value's node. A key that the text gives twice counts once, the first time.
    private func find(_ key: Key) -> Int? {
        let name = key.stringValue
        if let index { return index[name] }
        let utf8 = name.utf8, length = utf8.count
        var at = node + 1
        while at < tree.nodes[node].next {
            let found = tree.nodes[at]
            if found.kind == .string {
                if Int(found.end - found.start) == length, equal(utf8, from: Int(found.start)) { return at + 1 }
            } else if tree.string(at) == name {
                return at + 1
            }
            at = Int(tree.nodes[at + 1].next)
        }
        return nil
    }

    private func equal(_ utf8: String.UTF8View, from start: Int) -> Bool {
        var at = start
        for byte in utf8 {
            if tree.bytes[at] != byte { return false }
            at += 1
        }
        return true
    }

    private func value(_ key: Key) throws -> JSONTreeDecoder {
        guard let found = find(key) else { throw DecodingError.keyNotFound(key, .init(codingPath: codingPath, debugDescription: "missing")) }
        return JSONTreeDecoder(tree: tree, node: found)
    }

    /// nil for an absent member and for null.
    private func present(_ key: Key) -> JSONTreeDecoder? {
        guard let found = find(key), tree.nodes[found].kind != .null else { return nil }
        return JSONTreeDecoder(tree: tree, node: found)
    }

    func contains(_ key: Key) -> Bool { find(key) != nil }
    func decodeNil(forKey key: Key) throws -> Bool { try tree.nodes[value(key).node].kind == .null }
    func decode(_: Bool.Type, forKey key: Key) throws -> Bool { try value(key).bool() }
    func decode(_: String.Type, forKey key: Key) throws -> String { try value(key).string() }
    func decode(_ type: Int.Type, forKey key: Key) throws -> Int { try value(key).integer(type) }
    func decode(_ type: UInt32.Type, forKey key: Key) throws -> UInt32 { try value(key).integer(type) }
    func decode(_ type: UInt64.Type, forKey key: Key) throws -> UInt64 { try value(key).integer(type) }
    func decode<Value: Decodable>(_ type: Value.Type, forKey key: Key) throws -> Value { try value(key).value(type) }
    func decodeIfPresent(_: Bool.Type, forKey key: Key) throws -> Bool? { try present(key)?.bool() }
    func decodeIfPresent(_: String.Type, forKey key: Key) throws -> String? { try present(key)?.string() }
    func decodeIfPresent(_ type: Int.Type, forKey key: Key) throws -> Int? { try present(key)?.integer(type) }
    func decodeIfPresent(_ type: UInt32.Type, forKey key: Key) throws -> UInt32? { try present(key)?.integer(type) }
    func decodeIfPresent<Value: Decodable>(_ type: Value.Type, forKey key: Key) throws -> Value? { try present(key)?.value(type) }

    func nestedContainer<Nested: CodingKey>(keyedBy type: Nested.Type, forKey key: Key) throws -> KeyedDecodingContainer<Nested> {
        try value(key).container(keyedBy: type)
    }
    func nestedUnkeyedContainer(forKey key: Key) throws -> any UnkeyedDecodingContainer { try value(key).unkeyedContainer() }
    func superDecoder() throws -> any Decoder { JSONTreeDecoder(tree: tree, node: node) }
    func superDecoder(forKey key: Key) throws -> any Decoder { try value(key) }
}

struct JSONArrayContainer: UnkeyedDecodingContainer {
    let tree: JSONTree
    let node: Int
    private var child: Int
    private(set) var currentIndex = 0

    init(tree: JSONTree, node: Int) {
        self.tree = tree
        self.node = node
        child = node + 1
    }

    var codingPath: [any CodingKey] { tree.path(to: node) }
    var count: Int? { nil }
    var isAtEnd: Bool { child >= tree.nodes[node].next }

    private mutating func take() throws -> JSONTreeDecoder {
        guard !isAtEnd else { throw DecodingError.valueNotFound(Any.self, .init(codingPath: codingPath, debugDescription: "no further element")) }
        let decoder = JSONTreeDecoder(tree: tree, node: child)
        child = Int(tree.nodes[child].next)
        currentIndex += 1
        return decoder
    }

    mutating func decodeNil() throws -> Bool {
        guard !isAtEnd, tree.nodes[child].kind == .null else { return false }
        _ = try take()
        return true
    }
    mutating func decode<Value: Decodable>(_ type: Value.Type) throws -> Value { try take().value(type) }
    mutating func nestedContainer<Nested: CodingKey>(keyedBy type: Nested.Type) throws -> KeyedDecodingContainer<Nested> {
        try take().container(keyedBy: type)
    }
    mutating func nestedUnkeyedContainer() throws -> any UnkeyedDecodingContainer { try take().unkeyedContainer() }
    mutating func superDecoder() throws -> any Decoder { try take() }
}
