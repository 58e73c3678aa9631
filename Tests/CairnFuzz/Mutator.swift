// Bytes that are nearly right, the same ones for the same seed. Most changes keep to the grammar of JSON, so that they get past the reader:
// a number becomes one at an edge, a value is left out, doubled, put somewhere else or nested deep.

/// SplitMix64.
struct SeededRandom: RandomNumberGenerator {
    private var state: UInt64
    init(seed: UInt64) { state = seed }
    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var value = state
        value = (value ^ (value >> 30)) &* 0xBF58_476D_1CE4_E5B9
        value = (value ^ (value >> 27)) &* 0x94D0_49BB_1331_11EB
        return value ^ (value >> 31)
    }
}

public struct Mutator {
    private var random: SeededRandom
    public init(seed: UInt64) { random = SeededRandom(seed: seed) }

    private static let edges = [
        "0", "-0", "-1", "1", "2", "31", "64", "65", "4095", "4096", "4097", "1048575", "1048576", "1048577", "4294967295", "4294967296", "17592186044416",
        "1000000000000000000", "4611686018427387904", "9223372036854775807", "9223372036854775808", "-9223372036854775808", "-9223372036854775809",
        "18446744073709551615", "99999999999999999999999", "1e3", "1e999", "1.5", "-1e-999", "00", "NaN", "Infinity", "0x10",
    ].map { Array($0.utf8) }
    private static let values = [
        "null", "true", "[]", "{}", "\"\"", "\"..\"", "\"a/b\"", "\"\\u0000\"", "\"\\ud800\"", "\"\\uD83D\\uDE00\"", "\"e\\u0301\"", "[[[[]]]]", "{\"\":{}}", "[0,0]",
    ].map { Array($0.utf8) }

    /// One of the inputs after one to six changes.
    public mutating func mutated(_ inputs: [[UInt8]]) -> [UInt8] {
        var bytes = inputs.randomElement(using: &random) ?? []
        for _ in 0..<Int.random(in: 1...6, using: &random) { change(&bytes, inputs) }
        return bytes
    }

    private mutating func change(_ bytes: inout [UInt8], _ inputs: [[UInt8]]) {
        guard !bytes.isEmpty else { bytes = Self.values.randomElement(using: &random) ?? []; return }
        switch Int.random(in: 0..<14, using: &random) {
        case 0...4: replace(&bytes, number(bytes), with: Self.edges)
        case 5: replace(&bytes, value(bytes), with: Self.values)
        case 6: bytes.removeSubrange(value(bytes))
        case 7:
            let found = value(bytes)
            bytes.insert(contentsOf: Array(bytes[found]) + [UInt8(ascii: ",")], at: found.lowerBound)
        case 8: bytes.replaceSubrange(value(bytes), with: Array(bytes[value(bytes)]))
        case 9:
            let other = inputs.randomElement(using: &random) ?? []
            if !other.isEmpty { bytes.replaceSubrange(value(bytes), with: Array(other[value(other)])) }
        case 10:
            let depth = Int.random(in: 1...600, using: &random)
            bytes.replaceSubrange(value(bytes), with: Array(repeating: UInt8(ascii: "["), count: depth) + Array(repeating: UInt8(ascii: "]"), count: depth))
        case 11: bytes[Int.random(in: bytes.indices, using: &random)] = UInt8.random(in: 0...255, using: &random)
        case 12: bytes.removeLast(Int.random(in: 1...bytes.count, using: &random))
        default: bytes.insert(contentsOf: [0xC3, 0xA9, 0xFF, 0x00, 0x22, 0x5C].shuffled(using: &random).prefix(2), at: Int.random(in: 0...bytes.count, using: &random))
        }
    }

    private mutating func replace(_ bytes: inout [UInt8], _ range: Range<Int>, with choices: [[UInt8]]) {
        bytes.replaceSubrange(range, with: choices.randomElement(using: &random) ?? [])
    }

    private static func isDigit(_ byte: UInt8) -> Bool { byte &- 0x30 < 10 }

    /// A run of digits somewhere; where there is none, an empty place.
    private mutating func number(_ bytes: [UInt8]) -> Range<Int> {
        let from = Int.random(in: bytes.indices, using: &random)
        guard let begin = bytes[from...].firstIndex(where: Self.isDigit) ?? bytes.firstIndex(where: Self.isDigit) else { return from..<from }
        return begin..<(bytes[begin...].firstIndex { !Self.isDigit($0) } ?? bytes.count)
    }

    /// What stands between two marks of JSON: a member, a value, a part of a list.
    private mutating func value(_ bytes: [UInt8]) -> Range<Int> {
        func isMark(_ byte: UInt8) -> Bool { [UInt8(ascii: ","), UInt8(ascii: ":"), UInt8(ascii: "["), UInt8(ascii: "{")].contains(byte) }
        let from = Int.random(in: bytes.indices, using: &random)
        let begin = bytes[...from].lastIndex(where: isMark).map { $0 + 1 } ?? 0
        var depth = 0, end = begin
        while end < bytes.count {
            switch bytes[end] {
            case UInt8(ascii: "["), UInt8(ascii: "{"): depth += 1
            case UInt8(ascii: "]"), UInt8(ascii: "}"):
                if depth == 0 { return begin..<end }
                depth -= 1
            case UInt8(ascii: ",") where depth == 0: return begin..<end
            default: break
            }
            end += 1
        }
        return begin..<end
    }
}
