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
        default: reason = "not JSON"
        }
    }

    /// Refuses nesting that no message of ours has, before a parser recurses into it. Reads the bytes once.
    static func checkDepth(_ message: [UInt8]) throws(ProtocolViolation) {
        var depth = 0, inString = false, escaped = false
        for byte in message {
            if inString {
                if escaped { escaped = false } else if byte == UInt8(ascii: "\\") { escaped = true } else if byte == UInt8(ascii: "\"") { inString = false }
                continue
            }
            switch byte {
            case UInt8(ascii: "\""): inString = true
            case UInt8(ascii: "{"), UInt8(ascii: "["):
                depth += 1
                if depth > WireLimits.depth { throw ProtocolViolation(reason: "nested deeper than \(WireLimits.depth)") }
            case UInt8(ascii: "}"), UInt8(ascii: "]"): depth -= 1
            default: break
            }
        }
    }
}
