// Messages between the main process and its workers: values only, carried as frames (CairnIO's FrameChannel).
// A frame is JSON (one enum case) + a binary payload where a message says so + descriptors where a message says so.
// Every request with an `id` gets exactly one final reply with that id, unless the worker dies first.
import CairnModel
import FoundationEssentials

/// One rank's part of one save.
public struct RankSaveKey: Hashable, Codable, Sendable, CustomStringConvertible {
    public var run: RunKey, save: SaveID, rank: Int
    public init(run: RunKey, save: SaveID, rank: Int) { self.run = run; self.save = save; self.rank = rank }
    public var description: String { "\(run) save \(save) rank \(rank)" }
}

/// The pool as every worker maps it: equal segments (the last may be shorter), chunk slots numbered through all of them.
public struct PoolShape: Hashable, Codable, Sendable {
    public static let segmentBytes = 256 << 20
    public static let slotsPerSegment = segmentBytes / Sizes.chunkBytes
    public var slots: Int
    public init(slots: Int) { self.slots = slots }
    public var segments: Int { (slots + Self.slotsPerSegment - 1) / Self.slotsPerSegment }
    public func bytes(ofSegment segment: Int) -> Int {
        min(Self.slotsPerSegment, slots - segment * Self.slotsPerSegment) * Sizes.chunkBytes
    }
    public static func segment(ofSlot slot: Int) -> Int { slot / slotsPerSegment }
    public static func offset(ofSlot slot: Int) -> Int { slot % slotsPerSegment * Sizes.chunkBytes }
}

/// Fixed-width little-endian words in a payload: the hot lists travel so, not as JSON.
public enum Words {
    public static func pack(_ words: [UInt64]) -> [UInt8] {
        var bytes: [UInt8] = []
        bytes.reserveCapacity(words.count * 8)
        for word in words { for shift in stride(from: UInt64(0), to: 64, by: 8) { bytes.append(UInt8(truncatingIfNeeded: word >> shift)) } }
        return bytes
    }
    public static func unpack(_ bytes: ArraySlice<UInt8>) -> [UInt64] {
        precondition(bytes.count.isMultiple(of: 8), "a list of words is a multiple of 8 bytes")
        var words: [UInt64] = []
        words.reserveCapacity(bytes.count / 8)
        var word: UInt64 = 0, filled: UInt64 = 0
        for byte in bytes {
            word |= UInt64(byte) << filled
            filled += 8
            if filled == 64 { words.append(word); word = 0; filled = 0 }
        }
        return words
    }
    public static func pack32(_ words: [UInt32]) -> [UInt8] {
        var bytes: [UInt8] = []
        bytes.reserveCapacity(words.count * 4)
        for word in words { for shift in stride(from: UInt32(0), to: 32, by: 8) { bytes.append(UInt8(truncatingIfNeeded: word >> shift)) } }
        return bytes
    }
    public static func unpack32(_ bytes: ArraySlice<UInt8>) -> [UInt32] {
        precondition(bytes.count.isMultiple(of: 4), "a list of 32-bit words is a multiple of 4 bytes")
        var words: [UInt32] = []
        words.reserveCapacity(bytes.count / 4)
        var word: UInt32 = 0, filled: UInt32 = 0
        for byte in bytes {
            word |= UInt32(byte) << filled
            filled += 8
            if filled == 32 { words.append(word); word = 0; filled = 0 }
        }
        return words
    }
}

/// JSON of a message, both ways.
public enum MessageCoding {
    public static func encode<Message: Encodable>(_ message: Message) -> [UInt8] {
        do { return Array(try JSONEncoder().encode(message)) }
        catch { preconditionFailure("a message of our own does not encode: \(error)") }
    }
    public static func decode<Message: Decodable>(_ type: Message.Type, from bytes: [UInt8]) throws -> Message {
        try JSONDecoder().decode(type, from: Data(bytes))
    }
}
