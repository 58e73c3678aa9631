import CairnIO
import CairnMessages

/// Why the copy of a chunk ended early.
enum StageFailure: Error, Sendable {
    case cancelled
    case failed(StageFailureKind, String)
    /// A lazy byte of the piece that begins there is not what it was at the save's begin.
    case changed(fileOffset: Int)

    init(_ failure: RankMemoryFailure) {
        let kind: StageFailureKind = switch failure {
        case .gone: .gone
        case .notMapped: .notMapped
        case .notPermitted: .notPermitted
        case .other: .other
        }
        self = .failed(kind, failure.description)
    }

    static let gone = StageFailure(RankMemoryFailure.gone)
}
