// Replies on their way to the main process: in order, from any thread, sent by one thread of normal priority, so that a copy
// thread of low priority never holds up another's news. Bounded by what is asked for: each request and each slot has one reply.
import CairnIO
import CairnMessages

final class Outbox: Sendable {
    private enum Item: Sendable {
        case reply(StagerReply)
        case staged(ChunkStaged, [UInt32])
    }
    private struct State: Sendable { var items: [Item] = []; var isClosed = false }
    private let state = Monitor(State())
    private let channel: BlockingFrameChannel

    init(_ channel: BlockingFrameChannel) { self.channel = channel }

    func post(_ reply: StagerReply) { state.update { $0.items.append(.reply(reply)) } }
    func post(_ staged: ChunkStaged, checksums: [UInt32]) { state.update { $0.items.append(.staged(staged, checksums)) } }
    func close() { state.update { $0.isClosed = true } }

    /// The sender's thread. Ends after `close` once all is sent, or when the main process is gone.
    func run() {
        while true {
            let items: [Item]? = state.wait { state in
                if state.items.isEmpty { return state.isClosed ? .some(nil) : nil }
                defer { state.items.removeAll() }
                return state.items
            } ?? nil
            guard let items else { return }
            do { try send(items) } catch { return }
        }
    }

    /// Chunks that follow each other share one frame.
    private func send(_ items: [Item]) throws(FrameFailure) {
        var chunks: [ChunkStaged] = [], checksums: [UInt32] = []
        func flush() throws(FrameFailure) {
            guard !chunks.isEmpty else { return }
            try channel.send(Frame(json: MessageCoding.encode(StagerReply.staged(chunks)), payload: Words.pack32(checksums)))
            chunks.removeAll()
            checksums.removeAll()
        }
        for item in items {
            switch item {
            case .staged(let chunk, let words):
                chunks.append(chunk)
                checksums.append(contentsOf: words)
            case .reply(let reply):
                try flush()
                try channel.send(Frame(json: MessageCoding.encode(reply)))
            }
        }
        try flush()
    }
}
