// Errors of the engine, the store and the tier workers as clients see them.
import CairnEngine
import CairnMessages
import CairnModel
import CairnStore
import CairnWire

extension Daemon {
    func wireError(_ error: EngineError) -> WireError {
        switch error {
        case .attemptEnded(let by): .attemptEnded(by: by)
        case .rankTaken(let pid): .rankTaken(pid: Int(pid))
        case .unknownSave(let save): .unknownSave(save: save)
        case .busy(let step): .busy(step: step)
        case .tooLarge(let bytes, let limit): .tooLarge(bytes: bytes, limit: limit)
        case .noSuchStep(let step): .noSuchStep(step: step < 0 ? nil : step)
        case .tierDown(let tier, let reason): .tierDown(tier: tier, reason: reason)
        case .invalid(let name, let reason): name == "worldSize" ? .notPermitted(reason: reason) : .failed(reason: reason)
        case .timedOut(let level): .timedOut(level: level)
        case .draining: .draining
        case .notOpen: .notOpen
        }
    }

    func wireError(_ error: LayoutError) -> WireError {
        switch error {
        case .invalidShard(let name, let reason), .invalidObject(let name, let reason): .invalidShard(name: name, reason: reason)
        case .invalidWorld(let reason): .failed(reason: reason)
        case .tooMany(_, let count, let limit): .tooLarge(bytes: count, limit: limit)
        case .tooLarge(_, let bytes, let limit): .tooLarge(bytes: bytes, limit: limit)
        }
    }

    /// Of a header that is made here: only what the client gave can be wrong.
    func wireError(_ error: FileHeaderError) -> WireError {
        switch error {
        case .layout(let error): wireError(error)
        case .headerTooLarge(let bytes, let limit): .tooLarge(bytes: bytes, limit: limit)
        default: .failed(reason: error.description)
        }
    }

    func wireError(_ error: SliceError) -> WireError {
        switch error {
        case .noSuchTensor(let name, _), .boxOutOfRange(let name, _), .notCovered(let name), .tooManyRuns(let name, _):
            .invalidShard(name: name, reason: error.description)
        case .tooLarge(let bytes, let available): .tooLarge(bytes: bytes, limit: available)
        }
    }

    func wireError(_ failure: TierFailure, tier: Tier, step: Int? = nil) -> WireError {
        switch failure.kind {
        case .noSpace: .noSpace(tier: tier.rawValue, needed: failure.needed ?? 0, available: failure.available ?? 0)
        case .corrupt: .corrupt(path: failure.path ?? failure.text, block: failure.block ?? 0)
        case .noSuchStep, .notHere, .missing: .noSuchStep(step: step)
        case .noSuchTensor: .invalidShard(name: failure.path ?? "", reason: failure.text)
        case .tooLarge: .tooLarge(bytes: failure.needed ?? 0, limit: failure.available ?? 0)
        case .invalid, .other, .ended, .notWhole: .failed(reason: failure.text)
        case .io, .unreachable, .workerLost: .tierDown(tier: tier.rawValue, reason: failure.text)
        }
    }
}
