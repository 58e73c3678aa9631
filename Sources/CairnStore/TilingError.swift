// Why the ranks' shards do not make whole tensors: a commit of them would be a checkpoint that lies.

public enum TilingError: Error, Sendable, Equatable, CustomStringConvertible {
    case shapesDiffer(name: String, ranks: [Int], reason: String)
    /// The same box on several ranks, which nobody declared replicas.
    case undeclaredReplicas(name: String, ranks: [Int])
    case replicasIncomplete(name: String, ranks: [Int], replicas: Int)
    case overlap(name: String, ranks: [Int])
    case incomplete(name: String, ranks: [Int], missingElements: Int)
    case rankTwice(Int)

    public var description: String {
        switch self {
        case .shapesDiffer(let name, let ranks, let reason): "tensor '\(name)': ranks \(Self.listed(ranks)) disagree: \(reason)"
        case .undeclaredReplicas(let name, let ranks):
            "tensor '\(name)': ranks \(Self.listed(ranks)) hold the same box and do not declare it replicas; declare them, or make it private to each rank"
        case .replicasIncomplete(let name, let ranks, let replicas): "tensor '\(name)': ranks \(Self.listed(ranks)) hold a box that has \(replicas) replicas"
        case .overlap(let name, let ranks): "tensor '\(name)': the boxes of ranks \(Self.listed(ranks)) overlap"
        case .incomplete(let name, let ranks, let missing): "tensor '\(name)': ranks \(Self.listed(ranks)) leave \(missing) of its elements out"
        case .rankTwice(let rank): "rank \(rank) is there twice"
        }
    }

    /// A tensor may be on thousands of ranks, and this becomes a save's reason that all of them are told.
    public static func listed(_ ranks: [Int], atMost: Int = 16) -> String {
        ranks.count > atMost ? "\(ranks.prefix(atMost)) and \(ranks.count - atMost) more" : "\(ranks)"
    }
}
