// The words of the design as values: who (run, attempt, save, sequence) and how far (level).
// Pure: no I/O, no clock. Every other module means these types when it uses these words.

/// How far one save has come. Ordered, except that `failed` is an end of its own.
public enum Level: String, Codable, Sendable, CaseIterable, Comparable {
    case accepted, staged, local, global, committed, failed

    private var order: Int {
        switch self {
        case .accepted: 0
        case .staged: 1
        case .local: 2
        case .global: 3
        case .committed: 4
        case .failed: 5
        }
    }
    public static func < (left: Level, right: Level) -> Bool { left.order < right.order }
}

/// Where bytes can live and be restored from.
public enum Tier: String, Codable, Sendable, CaseIterable { case memory, local, global }

/// One training job's checkpoint history. The owner's uid is part of it, so names of two users cannot collide.
public struct RunKey: Hashable, Codable, Sendable, CustomStringConvertible, Comparable {
    public let uid: UInt32
    public let name: String
    public init(uid: UInt32, name: String) { self.uid = uid; self.name = name }
    public var description: String { "\(uid)/\(name)" }
    public static func < (left: RunKey, right: RunKey) -> Bool { (left.uid, left.name) < (right.uid, right.name) }

    /// `[A-Za-z0-9][A-Za-z0-9._-]{0,99}`: it becomes a folder's name.
    public static func isValidName(_ name: String) -> Bool {
        let bytes = Array(name.utf8)
        guard (1...100).contains(bytes.count) else { return false }
        func alphanumeric(_ byte: UInt8) -> Bool {
            (0x30...0x39).contains(byte) || (0x41...0x5A).contains(byte) || (0x61...0x7A).contains(byte)
        }
        guard alphanumeric(bytes[0]) else { return false }
        return bytes.allSatisfy { alphanumeric($0) || $0 == 0x2E || $0 == 0x5F || $0 == 0x2D }
    }
}

/// One `save()` of all ranks: attempt + step + how often a rank called `save()` for this step in this attempt.
/// Its text, `17-1200-1`, is part of every name on disk: two saves never mix.
public struct SaveID: Hashable, Codable, Sendable, CustomStringConvertible, Comparable {
    public let attempt: Int, step: Int, attemptTry: Int
    public init(attempt: Int, step: Int, attemptTry: Int) {
        self.attempt = attempt; self.step = step; self.attemptTry = attemptTry
    }
    public var description: String { "\(attempt)-\(step)-\(attemptTry)" }
    public init?(_ text: String) {
        guard let numbers = decimalFields(text, count: 3) else { return nil }
        self.init(attempt: numbers[0], step: numbers[1], attemptTry: numbers[2])
    }
    public static func < (left: SaveID, right: SaveID) -> Bool {
        (left.attempt, left.step, left.attemptTry) < (right.attempt, right.step, right.attemptTry)
    }
    public init(from decoder: Decoder) throws {
        let text = try decoder.singleValueContainer().decode(String.self)
        guard let value = SaveID(text) else {
            throw DecodingError.dataCorrupted(.init(codingPath: decoder.codingPath, debugDescription: "not a save id: '\(text)'"))
        }
        self = value
    }
    public func encode(to encoder: Encoder) throws {
        var container = encoder.singleValueContainer()
        try container.encode(description)
    }
}

/// A rank may have a second file of a save, its *copies*: replicas that ranks of other nodes own, kept in memory and on the local tier
/// only, so that this node restores without the global tier. Where files are numbered by rank, that file has the number `base + rank`.
public enum Copies {
    public static let base = 1 << 20
    public static func number(of rank: Int) -> Int { base + rank }
    public static func isCopies(_ number: Int) -> Bool { number >= base }
    /// The rank whose file this is, its own or its copies.
    public static func rank(_ number: Int) -> Int { number >= base ? number - base : number }
}

/// The order of commits in a run: the attempt's number, then rank 0's own count of `save()` calls (from 1).
/// Text `17-41`, on the wire attempt * 2^32 + count. *Newest* means the highest sequence, never the highest step.
public struct CommitSequence: Hashable, Codable, Sendable, CustomStringConvertible, Comparable {
    public let attempt: Int, count: Int
    public init(attempt: Int, count: Int) { self.attempt = attempt; self.count = count }
    /// A client's number: a negative one is no step's, and would have no text (0-0 is no step's either).
    public init(wire: Int) { self.init(attempt: max(0, wire) >> 32, count: max(0, wire) & 0xFFFF_FFFF) }
    public var wire: Int { attempt << 32 | count }
    public var description: String { "\(attempt)-\(count)" }
    public init?(_ text: String) {
        guard let numbers = decimalFields(text, count: 2) else { return nil }
        self.init(attempt: numbers[0], count: numbers[1])
    }
    public static func < (left: CommitSequence, right: CommitSequence) -> Bool {
        (left.attempt, left.count) < (right.attempt, right.count)
    }
    public init(from decoder: Decoder) throws {
        let text = try decoder.singleValueContainer().decode(String.self)
        guard let value = CommitSequence(text) else {
            throw DecodingError.dataCorrupted(.init(codingPath: decoder.codingPath, debugDescription: "not a sequence: '\(text)'"))
        }
        self = value
    }
    public func encode(to encoder: Encoder) throws {
        var container = encoder.singleValueContainer()
        try container.encode(description)
    }
}

/// Decimal fields joined by '-', none with a sign, a leading zero or more than 18 digits: one text for one value.
private func decimalFields(_ text: String, count: Int) -> [Int]? {
    let fields = text.split(separator: "-", omittingEmptySubsequences: false)
    guard fields.count == count else { return nil }
    var numbers: [Int] = []
    for field in fields {
        guard (1...18).contains(field.utf8.count), field.utf8.allSatisfy({ (0x30...0x39).contains($0) }),
              field == "0" || field.first != "0", let number = Int(field) else { return nil }
        numbers.append(number)
    }
    return numbers
}
