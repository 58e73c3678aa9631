// A rank's file being written: made at `create`, void after its first error, gone at `publish` or `abandon`.
import CairnIO
import CairnMessages
import CairnModel

final class OutFile: Sendable {
    struct Opened: Sendable {
        let root: TierRoot
        let descriptor: Descriptor
        /// Folder and temporary name, below the root.
        let folder: String, temporary: String
        var path: String { "\(folder)/\(temporary)" }
    }
    /// How its bytes lie in it; decided by its first chunk, on a tier that may compress.
    enum Form: Sendable {
        case plain
        case frames(PackedFile)
    }
    private struct State: Sendable {
        var opened: Opened?
        var failure: TierFailure?
        var isAbandoned = false
        var packed: PackedFile?
        /// With `auto`: chunks that came before its form was decided, and what pieces of its chunks shrink to.
        var queued: [Compressing.Chunk] = []
        var isDecided = false
        var expectedShare: Double?
        var sampledPlain = 0, sampledFrames = 0
    }

    let number: Int, key: RankSaveKey, fileTry: Int, bytes: Int
    private let state = Monitor(State())
    private let decided = Monitor<Form?>(nil)

    init(number: Int, key: RankSaveKey, fileTry: Int, bytes: Int) {
        self.number = number
        self.key = key
        self.fileTry = fileTry
        self.bytes = bytes
    }

    /// False if it was abandoned meanwhile.
    func open(_ opened: Opened) -> Bool {
        state.withLock { state in
            state.opened = opened
            return !state.isAbandoned
        }
    }

    /// The file, if no error has voided it.
    func usable() throws -> Opened {
        try state.withLock { state in
            if let failure = state.failure { throw failure }
            guard let opened = state.opened, !state.isAbandoned else {
                throw TierFailure(kind: .other, text: "file \(number) of \(key) is not open")
            }
            return opened
        }
    }

    /// After any error on a file the file is void.
    func fail(_ failure: TierFailure) { state.withLock { $0.failure = $0.failure ?? failure } }

    /// What is to be unlinked; nil while `create` still runs, which then does it.
    func abandon() -> Opened? {
        let (opened, packed) = state.withLock { state in
            state.isAbandoned = true
            return (state.opened, state.packed)
        }
        packed?.void(TierFailure(kind: .other, text: "file \(number) of \(key) was abandoned"))
        return opened
    }

    // MARK: its form

    func queued(_ chunk: Compressing.Chunk) {
        state.withLock { state in
            if !state.isDecided, state.queued.count < TierLimits.samplePieces { state.queued.append(chunk) }
        }
    }

    /// Decided by whoever comes first, by the chunks that wait by then.
    func form(_ decide: ([Compressing.Chunk]) throws -> Form) throws -> Form {
        try decided.withLock { decided in
            if let decided { return decided }
            let form = try decide(state.withLock(\.queued))
            let isAbandoned = state.withLock { state in
                state.queued = []
                state.isDecided = true
                if case .frames(let packed) = form { state.packed = packed }
                return state.isAbandoned
            }
            if isAbandoned, case .frames(let packed) = form { packed.void(TierFailure(kind: .other, text: "file \(number) of \(key) was abandoned")) }
            decided = form
            return form
        }
    }

    /// Nil: nothing was written to it, or its tier does not compress.
    var frames: PackedFile? { state.withLock(\.packed) }

    func expect(share: Double) { state.withLock { $0.expectedShare = share } }
    var expectedShare: Double? { state.withLock(\.expectedShare) }

    func sampled(_ piece: (plain: Int, frames: Int)) {
        state.withLock { state in
            state.sampledPlain += piece.plain
            state.sampledFrames += piece.frames
        }
    }

    /// Of all chunks of a file that is stored plain.
    var sampledShare: Double? { state.withLock { $0.sampledPlain > 0 ? Double($0.sampledFrames) / Double($0.sampledPlain) : nil } }
}
