// Why a box that a rank asked for cannot be given.

public enum SliceError: Error, Sendable, Equatable, CustomStringConvertible {
    case noSuchTensor(name: String, rank: Int?)
    case boxOutOfRange(name: String, reason: String)
    /// Parts of the box are in none of the files at hand.
    case notCovered(name: String)
    case tooManyRuns(name: String, limit: Int)
    /// The boxes do not fit into the segments.
    case tooLarge(bytes: Int, available: Int)

    public var description: String {
        switch self {
        case .noSuchTensor(let name, nil): "the step has no tensor or shared object '\(name)'"
        case .noSuchTensor(let name, let rank?): "the step has no private tensor or object '\(name)' of rank \(rank)"
        case .boxOutOfRange(let name, let reason): "box of '\(name)': \(reason)"
        case .notCovered(let name): "parts of '\(name)' are not in the files at hand"
        case .tooManyRuns(let name, let limit): "'\(name)' is cut into more than \(limit) runs: load it in smaller boxes"
        case .tooLarge(let bytes, let available): "the boxes need \(bytes) bytes, the segments have \(available)"
        }
    }
}
