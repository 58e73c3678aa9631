// A message that is no call or no reply. There is nothing to answer to; the connection is closed.

public struct ProtocolViolation: Error, Hashable, Sendable, CustomStringConvertible {
    public let reason: String
    public var description: String { "not a Varlink message: \(reason)" }

    init(reason: String) { self.reason = reason }

    init(_ error: any Error) {
        switch error {
        case DecodingError.keyNotFound(let key, _): reason = "'\(key.stringValue)' is missing"
        case DecodingError.typeMismatch(_, let context), DecodingError.valueNotFound(_, let context):
            reason = context.codingPath.isEmpty ? "not a JSON object" : "'\(context.codingPath.map(\.stringValue).joined(separator: "."))' is of a wrong type"
        default: reason = "\(error)"
        }
    }
}
