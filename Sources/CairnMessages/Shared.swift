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
    /// So many that all of the largest pool's fit one message (`Configuration.Pool.mostBytes`).
    public static let segmentBytes = 1 << 30
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
    public static func pack(_ words: [UInt64]) -> [UInt8] { bytes(of: words) }
    public static func unpack(_ bytes: ArraySlice<UInt8>) -> [UInt64] { words(of: bytes) }
    public static func pack32(_ words: [UInt32]) -> [UInt8] { bytes(of: words) }
    public static func unpack32(_ bytes: ArraySlice<UInt8>) -> [UInt32] { words(of: bytes) }

    private static func bytes<Word: FixedWidthInteger & UnsignedInteger>(of words: [Word]) -> [UInt8] {
        var bytes: [UInt8] = []
        bytes.reserveCapacity(words.count * (Word.bitWidth / 8))
        for word in words { for shift in stride(from: 0, to: Word.bitWidth, by: 8) { bytes.append(UInt8(truncatingIfNeeded: word >> Word(shift))) } }
        return bytes
    }
    private static func words<Word: FixedWidthInteger & UnsignedInteger>(of bytes: ArraySlice<UInt8>) -> [Word] {
        precondition(bytes.count.isMultiple(of: Word.bitWidth / 8), "a list of words of \(Word.bitWidth) bits has \(bytes.count) bytes")
        var words: [Word] = []
        words.reserveCapacity(bytes.count / (Word.bitWidth / 8))
        var word: Word = 0, filled = 0
        for byte in bytes {
            word |= Word(byte) << Word(filled)
            filled += 8
            if filled == Word.bitWidth { words.append(word); word = 0; filled = 0 }
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
