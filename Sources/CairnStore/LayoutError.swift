// Why a rank's registered shards, or its objects, cannot be a file.

public enum LayoutError: Error, Sendable, Equatable, CustomStringConvertible {
    case invalidShard(name: String, reason: String)
    case invalidObject(name: String, reason: String)
    case invalidWorld(reason: String)
    case tooMany(what: String, count: Int, limit: Int)
    case tooLarge(what: String, bytes: Int, limit: Int)

    public var description: String {
        switch self {
        case .invalidShard(let name, let reason): "shard '\(name)': \(reason)"
        case .invalidObject(let name, let reason): "object '\(name)': \(reason)"
        case .invalidWorld(let reason): reason
        case .tooMany(let what, let count, let limit): "\(count) \(what), at most \(limit) are possible: save fewer, larger ones"
        case .tooLarge(let what, let bytes, let limit): "\(what) of \(bytes) bytes, at most \(limit) are possible"
        }
    }
}
