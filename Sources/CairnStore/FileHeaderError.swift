// Each way in which the header of a rank's file cannot be made, or lies.

public enum FileHeaderError: Error, Sendable, Equatable, CustomStringConvertible {
    /// A shard or object that cannot be in a file, found when writing or when reading.
    case layout(LayoutError)
    case headerTooLarge(bytes: Int, limit: Int)
    /// The file ends within its header or is shorter than the header says.
    case truncated(fileBytes: Int, needed: Int)
    case trailingBytes(fileBytes: Int, expected: Int)
    case dataNotAligned(dataStart: Int)
    case malformed(reason: String, offset: Int)
    case notCairn(format: String?)
    case missingMetadata(key: String)
    case badMetadata(key: String, value: String)
    case duplicateKey(String)
    case unknownField(tensor: String, field: String)
    case unknownDType(tensor: String, dtype: String)
    /// What the metadata says of a tensor does not fit to what the header says of it.
    case dtypeMismatch(tensor: String, stored: String, expected: String)
    case sizeMismatch(tensor: String, bytes: Int, expected: Int)
    case overlap(tensor: String, begin: Int, expected: Int)
    case gap(tensor: String, begin: Int, expected: Int)
    case outOfRange(tensor: String, end: Int, dataBytes: Int)
    case missingSharding(tensor: String)
    /// Metadata of a tensor or object that the file does not hold.
    case strayMetadata(tensor: String)
    case badObject(name: String, reason: String)
    case badOrder(tensor: String)
    case layoutMismatch(found: String, expected: String)

    public var description: String {
        switch self {
        case .layout(let error): "\(error)"
        case .headerTooLarge(let bytes, let limit): "a header of \(bytes) bytes, safetensors allows \(limit): save fewer tensors a rank"
        case .truncated(let fileBytes, let needed): "the file has \(fileBytes) bytes, its header needs \(needed)"
        case .trailingBytes(let fileBytes, let expected): "the file has \(fileBytes) bytes, \(expected) are described"
        case .dataNotAligned(let dataStart): "data begins at \(dataStart), not at a multiple of 4096"
        case .malformed(let reason, let offset): "header, byte \(offset): \(reason)"
        case .notCairn(let format): "the header's format is '\(format ?? "")', not '\(FileHeader.format)'"
        case .missingMetadata(let key): "metadata lacks '\(key)'"
        case .badMetadata(let key, let value): "metadata '\(key)' is '\(value)'"
        case .duplicateKey(let key): "'\(key)' stands twice"
        case .unknownField(let tensor, let field): "'\(tensor)' has the unknown field '\(field)'"
        case .unknownDType(let tensor, let dtype): "'\(tensor)' has the unknown dtype '\(dtype)'"
        case .dtypeMismatch(let tensor, let stored, let expected): "'\(tensor)' is stored as \(stored), not as \(expected)"
        case .sizeMismatch(let tensor, let bytes, let expected): "'\(tensor)' has \(bytes) bytes, its shape needs \(expected)"
        case .overlap(let tensor, let begin, let expected): "'\(tensor)' begins at \(begin), inside the one before it, which ends at \(expected)"
        case .gap(let tensor, let begin, let expected): "'\(tensor)' begins at \(begin), the one before it ends at \(expected)"
        case .outOfRange(let tensor, let end, let dataBytes): "'\(tensor)' ends at \(end) of \(dataBytes) bytes of data"
        case .missingSharding(let tensor): "'\(tensor)' has no DCP_SHARDING_INFO"
        case .strayMetadata(let tensor): "metadata describes '\(tensor)', which the file does not hold"
        case .badObject(let name, let reason): "object '\(name)': \(reason)"
        case .badOrder(let tensor): "'\(tensor)' is not where the order of its layout puts it"
        case .layoutMismatch(let found, let expected): "the tensors' layout is \(found), the metadata says \(expected)"
        }
    }
}
