// A daemon of one connection: answers each message by a closure, on a thread of its own.
import CairnIO
import CairnWire
import Testing

final class OneConnection: Sendable {
    let path: String
    private let thread: Thread
    private let folder: String

    /// `answer` makes of each message what goes back; nil hangs up.
    init(answer: @escaping @Sendable ([UInt8], _ descriptors: [Descriptor]) -> (bytes: [UInt8], descriptors: [Descriptor])?) throws {
        folder = "/tmp/cairn-client-" + Entropy.bytes(8).map { String($0, radix: 16) }.joined()
        path = folder + "/s"
        _ = try Files.makeFolder(Files.openRoot("/tmp"), String(folder.dropFirst(5)))
        let listener = try UnixSocket.listen(path: path)
        thread = try Threads.spawn(name: "daemon") {
            // An error or a silence of 10 s ends the thread; the test then fails on its own bound.
            guard UnixSocket.waitReadable(listener, timeoutMilliseconds: 10_000), let socket = try? UnixSocket.accept(listener) else { return }
            var framing = VarlinkFraming()
            while UnixSocket.waitReadable(socket, timeoutMilliseconds: 10_000), let received = try? UnixSocket.receiveWithDescriptors(socket, max: 4096), !received.isClosed {
                framing.append(received.bytes)
                while let message = try? framing.next() {
                    guard let reply = answer(message, received.descriptors) else { return }
                    if !reply.bytes.isEmpty { try? UnixSocket.sendAll(socket, reply.bytes, descriptors: reply.descriptors, timeoutMilliseconds: 10_000) }
                }
            }
        }
    }

    deinit {
        _ = thread.join(timeoutMilliseconds: 10_000)
        if let root = try? Files.openRoot("/tmp") { try? Files.removeTree(root, String(folder.dropFirst(5))) }
    }
}
