// The form of every JSON record: one object whose last member is the digest of all bytes before it.
//
//   {"a":1,"b":"text","digest":"64 hex digits of SHA-256"}\n
//   \____________________/  these bytes are hashed: the object without its closing brace
//
// (1) A torn, cut or altered record does not open: a record is believed whole or not at all.
// (2) Equal values have equal bytes (sorted keys), so publishing by `link` can compare what stands there.
import CairnModel
import FoundationEssentials

public enum RecordError: Error, Sendable, Equatable, CustomStringConvertible {
    case tooLarge(bytes: Int, limit: Int)
    /// Cut, torn or never a record.
    case noDigest
    case digestMismatch
    case malformed(reason: String)
    case wrongFormat(found: String)
    /// Whole, but its parts contradict each other or what was asked for.
    case inconsistent(reason: String)

    public var description: String {
        switch self {
        case .tooLarge(let bytes, let limit): "a record of \(bytes) bytes, at most \(limit) are possible"
        case .noDigest: "the record does not end in its digest: it is cut off or not a record"
        case .digestMismatch: "the record's digest does not match its bytes"
        case .malformed(let reason): "the record is malformed: \(reason)"
        case .wrongFormat(let found): "the record's format is '\(found)', not '\(FileHeader.format)'"
        case .inconsistent(let reason): reason
        }
    }
}

/// A record's value checks itself before it is written and after it is read back.
public protocol RecordValue: Codable, Sendable {
    var format: String { get }
    /// What is wrong with it, nil if nothing.
    func problem() -> String?
}

public enum Record {
    private static let middle = Array(",\"digest\":\"".utf8)
    private static let end = Array("\"}\n".utf8)
    private static let digestBytes = 64
    private static var tailBytes: Int { middle.count + digestBytes + end.count }

    /// `json`: one object with at least one member.
    public static func seal(_ json: [UInt8]) -> [UInt8] {
        precondition(json.count > 2 && json.first == UInt8(ascii: "{") && json.last == UInt8(ascii: "}"), "a record is a JSON object")
        let body = Array(json.dropLast())
        return body + middle + Array(Digests.full(body).utf8) + end
    }

    /// The JSON object without the digest.
    public static func open(_ bytes: [UInt8]) throws(RecordError) -> [UInt8] {
        guard let digest = digest(bytes) else { throw .noDigest }
        let body = Array(bytes.dropLast(tailBytes))
        guard Digests.full(body) == digest else { throw .digestMismatch }
        return body + [UInt8(ascii: "}")]
    }

    /// The digest that a sealed record ends with, not checked.
    public static func digest(_ bytes: [UInt8]) -> String? {
        guard bytes.count > tailBytes + 1 else { return nil }
        let tail = Array(bytes.suffix(tailBytes))
        guard tail.starts(with: middle), tail.suffix(end.count).elementsEqual(end) else { return nil }
        let digest = String(decoding: tail[middle.count..<middle.count + digestBytes], as: UTF8.self)
        return Digests.isFull(digest) ? digest : nil
    }

    /// The part of a sealed record's digest that stands in its file's name.
    public static func nameDigest(_ bytes: [UInt8]) -> String {
        guard let digest = digest(bytes) else { preconditionFailure("only a sealed record has a digest for its name") }
        return String(digest.prefix(StoreLimits.nameDigestDigits))
    }

    public static func encode<Value: RecordValue>(_ value: Value) -> [UInt8] {
        if let problem = value.problem() { preconditionFailure("a record that lies must not be written: \(problem)") }
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        do { return seal(Array(try encoder.encode(value))) }
        catch { preconditionFailure("a record of our own does not encode: \(error)") }
    }

    public static func decode<Value: RecordValue>(_ type: Value.Type, from bytes: [UInt8]) throws(RecordError) -> Value {
        guard bytes.count <= StoreLimits.recordBytes else { throw .tooLarge(bytes: bytes.count, limit: StoreLimits.recordBytes) }
        let json = try open(bytes)
        let value: Value
        do { value = try JSONDecoder().decode(type, from: Data(json)) }
        catch { throw .malformed(reason: "\(error)") }
        guard value.format == FileHeader.format else { throw .wrongFormat(found: value.format) }
        if let problem = value.problem() { throw .inconsistent(reason: problem) }
        return value
    }
}
