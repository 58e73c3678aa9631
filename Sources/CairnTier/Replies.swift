// The way back to main: from any thread, one frame at a time.
// (1) An error that may mean that the filesystem is gone is not told before it was looked for: a file's own error voids the file, but
//     a worker whose folders are gone says so and ends, and main loses nothing but the worker.
import CairnIO
import CairnMessages

final class Replies: Sendable {
    private struct Doubtful: Sendable { let id: Int, failure: TierFailure }

    private let channel: BlockingFrameChannel
    private let doubtful = WorkQueue<Doubtful>(capacity: TierLimits.queuedTasks)
    private let limit: Int

    /// `limit`: of one message.
    init(_ channel: BlockingFrameChannel, limit: Int) {
        self.channel = channel
        self.limit = limit
    }

    /// An answer may be as large as what it tells of: a list of all steps, the index of a large world. One that does not fit into a message is a
    /// failure of its request, and is thrown before a byte of it is sent.
    func answer(_ reply: TierReply, payload: [UInt8]) throws {
        let json = MessageCoding.encode(reply), bytes = json.count + payload.count
        guard bytes <= limit else {
            throw TierFailure(kind: .tooLarge, text: "an answer of \(bytes) bytes does not fit into one message", needed: bytes, available: limit)
        }
        try? channel.send(Frame(json: json, payload: payload))
    }

    func send(_ reply: TierReply, payload: [UInt8] = []) {
        if case .failed(let id, let failure) = reply, failure.kind == .unreachable, doubtful.push(Doubtful(id: id, failure: failure)) { return }
        // When main is gone the channel's end is seen by the receiving thread; nobody is left to be told here.
        try? channel.send(Frame(json: MessageCoding.encode(reply), payload: payload))
    }

    func close() { doubtful.close() }

    /// From now on on a thread of its own, since looking may hang too; main then sees that nothing is answered.
    func lookFor(_ folders: TierFolders) throws {
        try Threads.spawn(name: "tier-presence") { [self] in
            while let first = doubtful.pop() {
                var failures = [first]
                while let next = doubtful.tryPop() { failures.append(next) }
                if let reason = folders.absence() {
                    send(.gone(reason))
                    return channel.shutdown()                   // the receiving thread then ends the worker
                }
                for failed in failures {
                    var failure = failed.failure
                    failure.kind = .io
                    send(.failed(id: failed.id, failure))
                }
            }
        }
    }
}
