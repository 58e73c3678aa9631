// One call as a daemon receives it. The message is parsed once: the envelope first, which names the method, then, out of
// the same parse, that method's parameters.
//   {"method": "dev.cairn.Checkpoint.Save", "parameters": {...}, "more": true, "oneway": true, "upgrade": true}
// Parameters that a method does not have are refused, as systemd does: a misspelt option must not be silently ignored.

public struct IncomingCall: Sendable {
    public let method: String
    /// The typed call, or the error to answer it with.
    public let request: Result<Request, WireError>
    /// The caller takes several replies.
    public let more: Bool
    /// The caller wants no reply, not even an error.
    public let oneway: Bool
    /// The caller wants to speak another protocol afterwards; no method here does, so the request is an error then.
    public let upgrade: Bool

    /// `message` without its NUL. Throws where it is no call at all: close the connection, for nothing later on it can be trusted.
    public init(message: [UInt8]) throws(ProtocolViolation) {
        let tree = try JSONTree(message)
        let envelope: Envelope
        do {
            envelope = try Envelope(from: JSONTreeDecoder(tree: tree, node: 0))
        } catch {
            throw ProtocolViolation(error)
        }
        method = envelope.method
        request = envelope.request
        more = envelope.more
        oneway = envelope.oneway
        upgrade = envelope.upgrade
    }
}

private struct Envelope: Decodable {
    enum CodingKeys: CodingKey { case method, parameters, more, oneway, upgrade }
    let method: String
    let request: Result<Request, WireError>
    let more: Bool, oneway: Bool, upgrade: Bool

    init(from decoder: Decoder) throws {
        let container = try decoder.container(keyedBy: CodingKeys.self)
        method = try container.decode(String.self, forKey: .method)
        more = try container.decodeIfPresent(Bool.self, forKey: .more) ?? false
        oneway = try container.decodeIfPresent(Bool.self, forKey: .oneway) ?? false
        upgrade = try container.decodeIfPresent(Bool.self, forKey: .upgrade) ?? false
        do {
            request = .success(try Self.request(method, container, more: more, upgrade: upgrade))
        } catch let error as WireError {
            request = .failure(error)
        }
    }

    private static func request(_ method: String, _ container: KeyedDecodingContainer<CodingKeys>,
                                more: Bool, upgrade: Bool) throws -> Request {
        guard let reader = RequestReader.byName[method] else {
            guard let dot = method.lastIndex(of: ".") else { throw WireError.methodNotFound(method: method) }
            let interface = String(method[..<dot])
            throw Service.texts[interface] == nil
                ? WireError.interfaceNotFound(interface: interface) : WireError.methodNotFound(method: method)
        }
        if upgrade { throw WireError.notSupported(feature: "upgrade") }
        if reader.method.streams && !more { throw WireError.expectedMore }
        do {
            let present = try container.contains(.parameters) && !container.decodeNil(forKey: .parameters)
            return try reader.read(Parameters(decoder: present ? container.superDecoder(forKey: .parameters) : nil))
        } catch let error as DecodingError {
            throw WireError.invalidParameter(parameter: error.parameterPath)
        }
    }
}

/// The parameters of one call, not yet read as a type. Absent ones read as `{}`.
struct Parameters {
    let decoder: (any Decoder)?

    func decode<Fields: WireFields>(_: Fields.Type) throws -> Fields {
        let decoder = try decoder ?? JSONTreeDecoder.emptyObject
        let known = Fields.CodingKeys.allCases.map(\.stringValue)
        for key in try decoder.container(keyedBy: WireKey.self).allKeys where !known.contains(key.stringValue) {
            throw WireError.invalidParameter(parameter: key.stringValue)
        }
        return try Fields(from: decoder)
    }
}

extension DecodingError {
    /// `shards[3].dtype`: where in the parameters the value is that is missing or of another type.
    var parameterPath: String {
        var path: [any CodingKey]
        switch self {
        case .keyNotFound(let key, let context): path = context.codingPath + [key]
        case .typeMismatch(_, let context), .valueNotFound(_, let context), .dataCorrupted(let context): path = context.codingPath
        @unknown default: path = []
        }
        if path.first?.stringValue == "parameters" { path.removeFirst() }
        var text = ""
        for key in path {
            if let index = key.intValue { text += "[\(index)]" } else { text += (text.isEmpty ? "" : ".") + key.stringValue }
        }
        return text.isEmpty ? "parameters" : text
    }
}
