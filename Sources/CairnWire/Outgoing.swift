// Values to bytes: calls and replies as they go out, each with its NUL.
import FoundationEssentials

public enum Outgoing {
    public static func call<Method: WireMethod>(_: Method.Type, _ parameters: Method.Parameters, oneway: Bool = false) -> [UInt8] {
        message(CallEnvelope(method: Method.name, parameters: parameters,
                             more: Method.streams ? true : nil, oneway: oneway ? true : nil))
    }

    /// `continues`: further replies to the same call follow.
    public static func reply(_ parameters: some WireFields, continues: Bool = false) -> [UInt8] {
        message(ReplyEnvelope(parameters: parameters, continues: continues ? true : nil))
    }

    public static func error(_ error: WireError) -> [UInt8] {
        message(ErrorEnvelope(error: error))
    }

    private static func message(_ value: some Encodable) -> [UInt8] {
        let encoder = JSONEncoder()
        encoder.outputFormatting = .withoutEscapingSlashes
        do {
            return Array(try encoder.encode(value)) + [0]
        } catch {
            // Integers, strings, booleans and structs of them have no value that JSON lacks.
            preconditionFailure("a value of the wire that is not JSON: \(error)")
        }
    }
}

private struct CallEnvelope<Parameters: Encodable>: Encodable {
    let method: String
    let parameters: Parameters
    let more: Bool?
    let oneway: Bool?
}

private struct ReplyEnvelope<Parameters: Encodable>: Encodable {
    let parameters: Parameters
    let continues: Bool?
}

private struct ErrorEnvelope: Encodable {
    enum CodingKeys: CodingKey { case error, parameters }
    let error: WireError

    func encode(to encoder: Encoder) throws {
        var container = encoder.container(keyedBy: CodingKeys.self)
        try container.encode(error.name, forKey: .error)
        var parameters = container.nestedContainer(keyedBy: WireKey.self, forKey: .parameters)
        try error.encode(into: &parameters)
    }
}
