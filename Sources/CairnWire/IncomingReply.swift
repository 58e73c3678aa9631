// One reply as a client receives it: the method's typed reply, or a typed error.
//   {"parameters": {...}, "continues": true}   or   {"error": "dev.cairn.Checkpoint.Busy", "parameters": {"step": 1200}}
// Fields that this version does not know are ignored, so that a daemon may be newer than its clients.

public struct IncomingReply<Reply: WireFields>: Sendable {
    public let result: Result<Reply, WireError>
    /// Further replies to the same call follow.
    public let continues: Bool

    public init(message: [UInt8]) throws(ProtocolViolation) {
        let tree = try JSONTree(message)
        do {
            let envelope = try Envelope<Reply>(from: JSONTreeDecoder(tree: tree, node: 0))
            result = envelope.result
            continues = envelope.continues
        } catch {
            throw ProtocolViolation(error)
        }
    }
}

private struct Envelope<Reply: WireFields>: Decodable {
    enum CodingKeys: CodingKey { case parameters, continues, error }
    let result: Result<Reply, WireError>
    let continues: Bool

    init(from decoder: Decoder) throws {
        let container = try decoder.container(keyedBy: CodingKeys.self)
        continues = try container.decodeIfPresent(Bool.self, forKey: .continues) ?? false
        let present = try container.contains(.parameters) && !container.decodeNil(forKey: .parameters)
        if let name = try container.decodeIfPresent(String.self, forKey: .error) {
            let fields = present ? try container.nestedContainer(keyedBy: WireKey.self, forKey: .parameters) : nil
            result = .failure(try WireError(name: name, fields: fields))
        } else if present {
            result = .success(try container.decode(Reply.self, forKey: .parameters))
        } else {
            result = .success(try Reply(from: JSONTreeDecoder.emptyObject))
        }
    }
}
