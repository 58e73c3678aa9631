import CairnIO
import Testing

@Suite struct SocketTests {
    let folder: TemporaryFolder
    init() throws { folder = try TemporaryFolder() }

    @Test func listenerIsRefusedWhileOneAnswersAndTakesOverAStaleSocket() throws {
        let path = folder.path + "/s.sock"
        var listener: Descriptor? = try UnixSocket.listen(path: path, mode: 0o600)
        #expect(try Files.stat(folder.root, "s.sock").permissions == 0o600)
        let failure = #expect(throws: IOFailure.self) { try UnixSocket.listen(path: path) }
        #expect(failure?.isInUse == true)
        while let waiting = try UnixSocket.accept(listener!) { _ = waiting }
        listener = nil                                          // stays on disk, nobody behind it
        let nobody = #expect(throws: IOFailure.self) { try UnixSocket.connect(path: path, timeoutMilliseconds: 1000) }
        #expect(nobody?.isNobodyThere == true)
        let second = try UnixSocket.listen(path: path)
        let client = try UnixSocket.connect(path: path, timeoutMilliseconds: 1000)
        let server = try #require(try UnixSocket.accept(second))
        #expect(try UnixSocket.accept(second) == nil)
        #expect(try UnixSocket.peer(server) == .init(pid: ProcessFacts.pid, uid: ProcessFacts.uid, gid: ProcessFacts.gid))
        #expect(!UnixSocket.hungUp(server))
        UnixSocket.shutdownWriting(client)
        #expect(UnixSocket.hungUp(server))
        #expect(try UnixSocket.receive(server, max: 10) == .closed)
        #expect(throws: IOFailure.self) { try UnixSocket.listen(path: folder.path + "/" + String(repeating: "x", count: 108)) }
    }

    @Test func regularFileInPlaceOfTheSocketIsNotRemoved() throws {
        try Files.writeNew(folder.root, "file", [1])
        #expect(throws: IOFailure.self) { try UnixSocket.listen(path: folder.path + "/file") }
        #expect(try Files.readAll(folder.root, "file", limit: 1) == [1])
    }

    @Test func descriptorsArriveOnlyWhereThereIsRoom() throws {
        let (a, b) = try UnixSocket.pair()
        let memory = try SharedMemory.create(name: "sent", bytes: 4096)
        try memory.map(writable: true).copy(from: [42], at: 0)
        #expect(try UnixSocket.send(a, [1, 2], descriptors: [memory.descriptor, memory.descriptor]) == .bytes(2))
        let got = try UnixSocket.receiveWithDescriptors(b, max: 10)
        #expect(got.bytes == [1, 2] && got.descriptors.count == 2 && !got.droppedDescriptors)
        #expect(try MemoryMap(got.descriptors[1], bytes: 4096, writable: false).copyBytes(offset: 0, count: 1) == [42])
        #expect(try UnixSocket.send(a, [3], descriptors: [memory.descriptor]) == .bytes(1))
        #expect(try UnixSocket.receive(b, max: 10) == .bytes([3]))
        #expect(try UnixSocket.send(a, [4], descriptors: [memory.descriptor, memory.descriptor, memory.descriptor]) == .bytes(1))
        #expect(try UnixSocket.receiveWithDescriptors(b, max: 10, room: 1).droppedDescriptors)
        #expect(try UnixSocket.receive(b, max: 10) == .wouldBlock)
    }

    @Test func framesOfBothSidesArriveWholeAndInOrder() throws {
        let (mainEnd, workerEnd) = try UnixSocket.pair()
        let queue = try FrameQueue(mainEnd)
        let channel = BlockingFrameChannel(workerEnd)
        let memory = try SharedMemory.create(name: "frame", bytes: 4096)
        let echo = try Threads.spawn(name: "echo") {
            while let frame = try? channel.receive() {
                let head = Array("\(frame.descriptors.count)".utf8)
                guard (try? channel.send(Frame(json: head + frame.json, payload: frame.payload))) != nil else { return }
            }
        }
        let sizes = [0, 1, 70_000, 5 << 20, 3, 900_001]
        for (index, size) in sizes.enumerated() {
            try queue.enqueue(Frame(json: Array("{\(index)}".utf8), payload: patternBytes(size, seed: UInt64(index + 1)),
                                    descriptors: Array(repeating: memory.descriptor, count: index)))
        }
        var got: [Frame] = []
        let deadline = Clock.monotonicNanoseconds() + 20_000_000_000
        while got.count < sizes.count {
            try #require(Clock.monotonicNanoseconds() < deadline)
            let drained = try queue.flush()
            got += try queue.readable()
            if drained { _ = UnixSocket.waitReadable(mainEnd, timeoutMilliseconds: 100) }
        }
        #expect(queue.queuedBytes == 0)
        for (index, size) in sizes.enumerated() {
            #expect(String(decoding: got[index].json, as: UTF8.self) == "\(index){\(index)}")
            #expect(got[index].payload == patternBytes(size, seed: UInt64(index + 1)))
        }
        UnixSocket.shutdownWriting(mainEnd)
        #expect(echo.join(timeoutMilliseconds: 10_000))
        channel.shutdown()
        #expect(try queue.readable().isEmpty)
        #expect(queue.isClosed)
    }

    @Test(arguments: [[0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0, 0, 0, 0, 0], [1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 9], [4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]] as [[UInt8]])
    func frameThatLiesIsRefused(bytes: [UInt8]) throws {
        let (a, b) = try UnixSocket.pair(), (c, d) = try UnixSocket.pair()
        for end in [a, c] {
            #expect(try UnixSocket.send(end, bytes) == .bytes(bytes.count))
            UnixSocket.shutdownWriting(end)
        }
        let queue = try FrameQueue(b)
        #expect(throws: FrameFailure.self) { try queue.readable() }
        #expect(throws: FrameFailure.self) { try BlockingFrameChannel(d).receive() }
    }

    @Test func sendToAPeerThatDoesNotReadEndsInTime() throws {
        let (a, b) = try UnixSocket.pair()
        let failure = #expect(throws: IOFailure.self) {
            try UnixSocket.sendAll(a, [UInt8](repeating: 0, count: 8 << 20), timeoutMilliseconds: 50)
        }
        #expect(failure?.isTimedOut == true)
        _ = b
    }
}
