// Errors of the layers below as what main is told.
import CairnIO
import CairnMessages
import CairnModel
import CairnStore

extension TierFailure {
    init(_ error: any Error) {
        switch error {
        case let failure as TierFailure: self = failure
        case let failure as IOFailure:
            let kind: TierFailureKind = failure.isNoSpace ? .noSpace : failure.isMissing ? .missing : failure.mayMeanGone ? .unreachable : .io
            self.init(kind: kind, text: failure.description, path: failure.path)
        case let failure as PositionedFailure:
            switch failure {
            case .failed(let failure): self.init(failure)
            case .truncated(let path, let offset):
                self.init(kind: .corrupt, text: failure.description, path: path, block: offset / Sizes.blockBytes)
            }
        case let error as SliceError:
            switch error {
            case .noSuchTensor(let name, _): self.init(kind: .noSuchTensor, text: error.description, path: name)
            case .boxOutOfRange: self.init(kind: .invalid, text: error.description)
            case .notCovered: self.init(kind: .notHere, text: error.description)
            case .tooManyRuns(_, let limit): self.init(kind: .tooLarge, text: error.description, needed: limit + 1, available: limit)
            case .tooLarge(let bytes, let available): self.init(kind: .tooLarge, text: error.description, needed: bytes, available: available)
            }
        case let error as TilingError: self.init(kind: .notWhole, text: error.description)
        default: self.init(kind: .other, text: "\(error)")
        }
    }

    /// What stands at a path is not what it should be.
    static func corrupt(_ path: String, _ reason: any Error) -> TierFailure {
        TierFailure(kind: .corrupt, text: "'\(path)': \(reason)", path: path)
    }

    static func noSuchStep(_ ref: StepRef) -> TierFailure {
        TierFailure(kind: .noSuchStep, text: "run \(ref.run) has no step \(ref.step) of sequence \(ref.sequence) on this tier")
    }
}
