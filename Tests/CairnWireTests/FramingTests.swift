@testable import CairnWire
import Testing

@Suite struct FramingTests {
    private let stream: [UInt8] = Array("{\"a\":1}".utf8) + [0] + [0] + Array("{\"b\":\"\u{E9}\"}".utf8) + [0] + Array("half".utf8)
    private let expected = ["{\"a\":1}", "", "{\"b\":\"\u{E9}\"}"]

    @Test(arguments: 1...30) func piecesOfAnySizeGiveTheSameMessages(size: Int) throws {
        var framing = VarlinkFraming()
        var messages: [String] = []
        for start in stride(from: 0, to: stream.count, by: size) {
            framing.append(Array(stream[start..<min(start + size, stream.count)]))
            while let message = try framing.next() { messages.append(String(decoding: message, as: UTF8.self)) }
        }
        #expect(messages == expected)
        #expect(framing.pendingBytes == 4)
    }

    @Test func manyMessagesTakenLateAreAllThere() throws {
        var framing = VarlinkFraming(limit: 1000)
        for index in 0..<5000 {
            framing.append(Array("message \(index)".utf8) + [0])
            if index % 7 == 0 { _ = try framing.next() }
        }
        var last: [UInt8] = []
        while let message = try framing.next() { last = message }
        #expect(String(decoding: last, as: UTF8.self) == "message 4999")
        #expect(framing.pendingBytes == 0)
    }

    @Test func messageAtTheLimitIsTakenAndOneOverIsRefused() throws {
        var framing = VarlinkFraming(limit: 8)
        framing.append(Array(repeating: 1, count: 8) + [0])
        #expect(try framing.next()?.count == 8)
        framing.append(Array(repeating: 1, count: 9) + [0])
        #expect(throws: WireError.tooLarge(bytes: 9, limit: 8)) { try framing.next() }
    }

    @Test func endlessMessageIsRefusedWhileItIsStillSent() throws {
        var framing = VarlinkFraming(limit: 100)
        framing.append(Array(repeating: 1, count: 100))
        #expect(try framing.next() == nil)
        framing.append([1])
        #expect(throws: WireError.tooLarge(bytes: 101, limit: 100)) { try framing.next() }
    }

    @Test func messagesBeforeOneTooLargeAreStillTaken() throws {
        var framing = VarlinkFraming(limit: 4)
        framing.append([1, 0] + Array(repeating: 2, count: 5))
        #expect(try framing.next() == [1])
        #expect(throws: WireError.self) { try framing.next() }
    }

    @Test func eachByteIsScannedOnce() throws {
        // 4 MiB in pieces of 64 bytes: were the whole rescanned at each, 137 billion bytes would be looked at.
        var framing = VarlinkFraming()
        let piece = [UInt8](repeating: 1, count: 64)
        for _ in 0..<(4 << 20) / 64 {
            framing.append(piece)
            #expect(try framing.next() == nil)
        }
        framing.append([0])
        #expect(try framing.next()?.count == 4 << 20)
    }
}
