// What every method and every struct of the wire has: its name, its typed parameters and reply, and its fields' names.

/// A struct of the wire. Its coding keys are the field names of the interface's text; a test compares the two.
public protocol WireFields: Codable, Hashable, Sendable {
    associatedtype CodingKeys: CodingKey, CaseIterable
}

public protocol WireMethod: Sendable {
    associatedtype Parameters: WireFields
    associatedtype Reply: WireFields
    /// With its interface: `dev.cairn.Checkpoint.Save`.
    static var name: String { get }
    /// Answers with many replies, so it must be called with `more`.
    static var streams: Bool { get }
}

extension WireMethod {
    public static var streams: Bool { false }
}

/// No parameters, or a reply without fields.
public struct Nothing: WireFields {
    public init() {}
    public init(from decoder: Decoder) throws { _ = try decoder.container(keyedBy: WireKey.self) }
    public func encode(to encoder: Encoder) throws { _ = encoder.container(keyedBy: WireKey.self) }
    public enum CodingKeys: CodingKey, CaseIterable {}
}

/// A field name that is known at run time only, or a place in an array.
struct WireKey: CodingKey {
    let stringValue: String
    let intValue: Int?
    init(_ name: String) { stringValue = name; intValue = nil }
    init(index: Int) { stringValue = String(index); intValue = index }
    init?(stringValue: String) { self.init(stringValue) }
    init?(intValue: Int) { self.init(index: intValue) }
}
