// The way back to main: from any thread, one frame at a time.
import CairnIO
import CairnMessages

final class Replies: Sendable {
    private let channel: BlockingFrameChannel
    init(_ channel: BlockingFrameChannel) { self.channel = channel }

    func send(_ reply: TierReply, payload: [UInt8] = []) {
        // When main is gone the channel's end is seen by the receiving thread; nobody is left to be told here.
        try? channel.send(Frame(json: MessageCoding.encode(reply), payload: payload))
    }
}
