// Digests as the formats use them: lower-case hex of SHA-256, whole in records, 128 bits of it in names.
import CairnIO

enum Digests {
    static func full(_ bytes: [UInt8]) -> String { Digest.sha256Hex(bytes) }
    static func short(_ bytes: [UInt8]) -> String { String(full(bytes).prefix(StoreLimits.nameDigestDigits)) }

    static func isHex(_ text: String, digits: Int) -> Bool {
        text.utf8.count == digits && text.utf8.allSatisfy { (0x30...0x39).contains($0) || (0x61...0x66).contains($0) }
    }
    static func isFull(_ text: String) -> Bool { isHex(text, digits: 64) }
}
