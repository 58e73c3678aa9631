// The text of a JSON string that has escapes in it.

enum JSONEscapes {
    /// nil for an unknown escape, half a surrogate pair, or bytes that are not UTF-8.
    static func decode(_ bytes: ArraySlice<UInt8>) -> String? {
        var text: [UInt8] = []
        text.reserveCapacity(bytes.count)
        var at = bytes.startIndex
        while at < bytes.endIndex {
            guard bytes[at] == UInt8(ascii: "\\") else {
                text.append(bytes[at])
                at += 1
                continue
            }
            guard at + 1 < bytes.endIndex else { return nil }
            at += 2
            switch bytes[at - 1] {
            case UInt8(ascii: "\""), UInt8(ascii: "\\"), UInt8(ascii: "/"): text.append(bytes[at - 1])
            case UInt8(ascii: "b"): text.append(0x08)
            case UInt8(ascii: "f"): text.append(0x0C)
            case UInt8(ascii: "n"): text.append(0x0A)
            case UInt8(ascii: "r"): text.append(0x0D)
            case UInt8(ascii: "t"): text.append(0x09)
            case UInt8(ascii: "u"):
                guard let scalar = scalar(bytes, &at) else { return nil }
                text.append(contentsOf: Array(String(scalar).utf8))
            default: return nil
            }
        }
        return String(validating: text, as: UTF8.self)
    }

    /// At the first of four hexadecimal digits; of a surrogate pair, takes both halves.
    private static func scalar(_ bytes: ArraySlice<UInt8>, _ at: inout Int) -> Unicode.Scalar? {
        guard let first = unit(bytes, &at) else { return nil }
        guard (0xD800...0xDFFF).contains(first) else { return Unicode.Scalar(first) }
        guard first < 0xDC00, at + 1 < bytes.endIndex, bytes[at] == UInt8(ascii: "\\"), bytes[at + 1] == UInt8(ascii: "u") else { return nil }
        at += 2
        guard let second = unit(bytes, &at), (0xDC00...0xDFFF).contains(second) else { return nil }
        return Unicode.Scalar(0x10000 + (first - 0xD800) << 10 + (second - 0xDC00))
    }

    private static func unit(_ bytes: ArraySlice<UInt8>, _ at: inout Int) -> UInt32? {
        guard at + 4 <= bytes.endIndex else { return nil }
        var value: UInt32 = 0
        for byte in bytes[at..<at + 4] {
            switch byte {
            case 0x30...0x39: value = value << 4 | UInt32(byte - 0x30)
            case 0x41...0x46: value = value << 4 | UInt32(byte - 0x41 + 10)
            case 0x61...0x66: value = value << 4 | UInt32(byte - 0x61 + 10)
            default: return nil
            }
        }
        at += 4
        return value
    }
}
