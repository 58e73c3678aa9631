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
    private struct State: Sendable {
        var opened: Opened?
        var failure: TierFailure?
        var isAbandoned = false
    }

    let number: Int, key: RankSaveKey, fileTry: Int, bytes: Int
    private let state = Monitor(State())

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
        state.withLock { state in
            state.isAbandoned = true
            return state.opened
        }
    }
}
