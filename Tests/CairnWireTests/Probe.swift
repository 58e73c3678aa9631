// A decoder that asks a type what it decodes: it notes each field's name and type in the words of Varlink, and makes a
// sample value of every type on the way, with its optional fields or without.

import CairnModel

extension ObjectScope: CaseIterable {
    public static var allCases: [ObjectScope] { [.shared, .rank, .keyed] }
}

final class Probe: Decoder {
    let codingPath: [any CodingKey] = [], userInfo: [CodingUserInfoKey: Any] = [:]
    let withOptionals: Bool
    private(set) var fields: [InterfaceText.Field] = []
    /// Types by their name, met in fields.
    private(set) var named: [String: any Decodable.Type] = [:]
    private var optional = false
    private var counter = 0

    init(withOptionals: Bool) { self.withOptionals = withOptionals }

    static func sample<Value: Decodable>(_: Value.Type, withOptionals: Bool = true) throws -> Value {
        try Value(from: Probe(withOptionals: withOptionals))
    }

    static func typeName(_ type: any Decodable.Type) -> String {
        if type is any FixedWidthInteger.Type { return "int" }
        if type == String.self { return "string" }
        if type == Bool.self { return "bool" }
        if let array = type as? any ProbedArray.Type { return "[]" + typeName(array.element) }
        if let map = type as? any ProbedMap.Type { return "[string]" + typeName(map.element) }
        return String(describing: type) == "ObjectScope" ? "Scope" : String(describing: type)
    }

    private static func innermost(_ type: any Decodable.Type) -> any Decodable.Type {
        if let array = type as? any ProbedArray.Type { return innermost(array.element) }
        if let map = type as? any ProbedMap.Type { return innermost(map.element) }
        return type
    }

    fileprivate func markOptional() { optional = true }

    fileprivate func value<Value: Decodable>(_ type: Value.Type, field: String) throws -> Value {
        fields.append(.init(name: field, type: (optional ? "?" : "") + Self.typeName(type)))
        optional = false
        let inner = Self.innermost(type)
        if !["int", "string", "bool"].contains(Self.typeName(inner)) { named[Self.typeName(inner)] = inner }
        return try make(type)
    }

    private func make<Value: Decodable>(_ type: Value.Type) throws -> Value {
        counter += 1
        let made: Any?
        switch type {
        case is String.Type: made = "text \"\(counter)\" \\ / \u{1F5FF}"
        case is Bool.Type: made = true
        case let integer as any FixedWidthInteger.Type: made = integer.init(clamping: counter)
        case let choice as any CaseIterable.Type: made = (choice.allCases as any Collection).first
        case let array as any ProbedArray.Type: made = try array.filled { try self.make($0) }
        case let map as any ProbedMap.Type: made = try map.filled { try self.make($0) }
        default: return try Value(from: Probe(withOptionals: withOptionals))
        }
        guard let value = made as? Value else { throw ProbeFailure(type: "\(type)") }
        return value
    }

    func container<Key: CodingKey>(keyedBy type: Key.Type) throws -> KeyedDecodingContainer<Key> {
        KeyedDecodingContainer(ProbeContainer<Key>(probe: self))
    }
    func unkeyedContainer() throws -> any UnkeyedDecodingContainer { throw ProbeFailure(type: "unkeyed") }
    func singleValueContainer() throws -> any SingleValueDecodingContainer { throw ProbeFailure(type: "single value") }
}

struct ProbeFailure: Error { var type: String }

protocol ProbedArray { static var element: any Decodable.Type { get }; static func filled(_ make: (any Decodable.Type) throws -> Any) throws -> Any }
extension Array: ProbedArray where Element: Decodable {
    static var element: any Decodable.Type { Element.self }
    static func filled(_ make: (any Decodable.Type) throws -> Any) throws -> Any { [try make(Element.self), try make(Element.self)] as? [Element] ?? [] }
}
protocol ProbedMap { static var element: any Decodable.Type { get }; static func filled(_ make: (any Decodable.Type) throws -> Any) throws -> Any }
extension Dictionary: ProbedMap where Key == String, Value: Decodable {
    static var element: any Decodable.Type { Value.self }
    static func filled(_ make: (any Decodable.Type) throws -> Any) throws -> Any { ["a key": try make(Value.self)] as? [String: Value] ?? [:] }
}

private struct ProbeContainer<Key: CodingKey>: KeyedDecodingContainerProtocol {
    let probe: Probe
    let codingPath: [any CodingKey] = [], allKeys: [Key] = []

    func contains(_ key: Key) -> Bool { true }
    func decodeNil(forKey key: Key) throws -> Bool { false }
    func decode<Value: Decodable>(_ type: Value.Type, forKey key: Key) throws -> Value {
        try probe.value(type, field: key.stringValue)
    }
    func decodeIfPresent<Value: Decodable>(_ type: Value.Type, forKey key: Key) throws -> Value? {
        probe.markOptional()
        let value = try probe.value(type, field: key.stringValue)
        return probe.withOptionals ? value : nil
    }
    func decodeIfPresent(_ type: Int.Type, forKey key: Key) throws -> Int? { try present(type, key) }
    func decodeIfPresent(_ type: UInt32.Type, forKey key: Key) throws -> UInt32? { try present(type, key) }
    func decodeIfPresent(_ type: Bool.Type, forKey key: Key) throws -> Bool? { try present(type, key) }
    func decodeIfPresent(_ type: String.Type, forKey key: Key) throws -> String? { try present(type, key) }
    private func present<Value: Decodable>(_ type: Value.Type, _ key: Key) throws -> Value? {
        probe.markOptional()
        let value = try probe.value(type, field: key.stringValue)
        return probe.withOptionals ? value : nil
    }
    func nestedContainer<Nested: CodingKey>(keyedBy type: Nested.Type, forKey key: Key) throws -> KeyedDecodingContainer<Nested> { throw ProbeFailure(type: "nested") }
    func nestedUnkeyedContainer(forKey key: Key) throws -> any UnkeyedDecodingContainer { throw ProbeFailure(type: "nested") }
    func superDecoder() throws -> any Decoder { throw ProbeFailure(type: "super") }
    func superDecoder(forKey key: Key) throws -> any Decoder { throw ProbeFailure(type: "super") }
}
