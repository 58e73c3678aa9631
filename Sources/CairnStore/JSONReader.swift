// Reads JSON of a known shape straight from bytes, strictly: the caller asks for what must come next. Unlike a decoder into
// dictionaries it lets the caller see each key, so a key that stands twice can be refused, and it never builds a tree.

struct JSONFault: Error, Equatable {
    let reason: String
    let offset: Int
}

struct JSONReader {
    private let bytes: [UInt8]
    private(set) var position: Int

    init(_ bytes: [UInt8], at position: Int = 0) {
        self.bytes = bytes
        self.position = position
    }

    func fault(_ reason: String) -> JSONFault { JSONFault(reason: reason, offset: position) }

    private mutating func skipSpace() {
        while position < bytes.count {
            switch bytes[position] {
            case 0x20, 0x09, 0x0A, 0x0D: position += 1
            default: return
            }
        }
    }

    /// The next byte that is not space, without taking it.
    mutating func peek() -> UInt8? {
        skipSpace()
        return position < bytes.count ? bytes[position] : nil
    }

    mutating func take(_ character: Unicode.Scalar) throws(JSONFault) {
        guard peek() == UInt8(ascii: character) else { throw fault("expected '\(character)'") }
        position += 1
    }

    /// Calls `member` at the value of each key; it must take that value.
    mutating func object(_ member: (inout JSONReader, String) throws(JSONFault) -> Void) throws(JSONFault) {
        try take("{")
        if peek() == UInt8(ascii: "}") { position += 1; return }
        while true {
            let key = try string()
            try take(":")
            try member(&self, key)
            if peek() == UInt8(ascii: ",") { position += 1; continue }
            try take("}")
            return
        }
    }

    mutating func array(_ element: (inout JSONReader) throws(JSONFault) -> Void) throws(JSONFault) {
        try take("[")
        if peek() == UInt8(ascii: "]") { position += 1; return }
        while true {
            try element(&self)
            if peek() == UInt8(ascii: ",") { position += 1; continue }
            try take("]")
            return
        }
    }

    mutating func integers(limit: Int = .max) throws(JSONFault) -> [Int] {
        var numbers: [Int] = []
        try array { (reader) throws(JSONFault) in
            guard numbers.count < limit else { throw reader.fault("more than \(limit) numbers") }
            numbers.append(try reader.integer())
        }
        return numbers
    }

    mutating func integer() throws(JSONFault) -> Int {
        guard let first = peek() else { throw fault("expected a number") }
        let negative = first == UInt8(ascii: "-")
        if negative { position += 1 }
        let begin = position
        var value = 0
        while position < bytes.count, (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(bytes[position]) {
            let (scaled, overflow) = value.multipliedReportingOverflow(by: 10)
            let (sum, carried) = scaled.addingReportingOverflow(Int(bytes[position] - UInt8(ascii: "0")))
            guard !overflow, !carried else { throw fault("a number of more than 63 bits") }
            value = sum
            position += 1
        }
        guard position > begin else { throw fault("expected a number") }
        guard bytes[begin] != UInt8(ascii: "0") || position == begin + 1 else { throw fault("a number with a leading zero") }
        if position < bytes.count, [UInt8(ascii: "."), UInt8(ascii: "e"), UInt8(ascii: "E")].contains(bytes[position]) {
            throw fault("expected a whole number")
        }
        return negative ? -value : value
    }

    mutating func boolean() throws(JSONFault) -> Bool {
        _ = peek()
        for (text, value) in [("true", true), ("false", false)] where bytes[position...].starts(with: text.utf8) {
            position += text.utf8.count
            return value
        }
        throw fault("expected true or false")
    }

    /// True if null stood here, and was taken.
    mutating func null() -> Bool {
        guard peek() != nil, bytes[position...].starts(with: "null".utf8) else { return false }
        position += 4
        return true
    }

    mutating func string() throws(JSONFault) -> String {
        try take("\"")
        let begin = position
        // Most strings have no escape: they are taken where they stand.
        skipPlain()
        let string: String?
        if position < bytes.count, bytes[position] == UInt8(ascii: "\"") {
            string = String(validating: bytes[begin..<position], as: UTF8.self)
            position += 1
        } else {
            string = String(validating: try rest(ofStringFrom: begin), as: UTF8.self)
        }
        guard let string else { throw fault("a string that is not UTF-8") }
        return string
    }

    /// To the next byte of a string that may mean something else than itself.
    private mutating func skipPlain() {
        while position < bytes.count, bytes[position] >= 0x20, bytes[position] != UInt8(ascii: "\""), bytes[position] != UInt8(ascii: "\\") { position += 1 }
    }

    /// The bytes of a string with its escapes resolved; not checked to be UTF-8.
    private mutating func rest(ofStringFrom begin: Int) throws(JSONFault) -> [UInt8] {
        var text = Array(bytes[begin..<position])
        while position < bytes.count {
            let byte = bytes[position]
            position += 1
            switch byte {
            case UInt8(ascii: "\""): return text
            case 0..<0x20: throw fault("a control character in a string")
            case UInt8(ascii: "\\"): try escape(into: &text)
            default: text.append(byte)
            }
        }
        throw fault("a string without an end")
    }

    private mutating func escape(into text: inout [UInt8]) throws(JSONFault) {
        guard position < bytes.count else { throw fault("a string without an end") }
        let byte = bytes[position]
        position += 1
        switch byte {
        case UInt8(ascii: "\""), UInt8(ascii: "\\"), UInt8(ascii: "/"): text.append(byte)
        case UInt8(ascii: "b"): text.append(8)
        case UInt8(ascii: "f"): text.append(12)
        case UInt8(ascii: "n"): text.append(10)
        case UInt8(ascii: "r"): text.append(13)
        case UInt8(ascii: "t"): text.append(9)
        case UInt8(ascii: "u"):
            var code = try hex4()
            if (0xD800..<0xDC00).contains(code) {
                guard position + 1 < bytes.count, bytes[position] == UInt8(ascii: "\\"), bytes[position + 1] == UInt8(ascii: "u") else {
                    throw fault("half a surrogate pair")
                }
                position += 2
                let low = try hex4()
                guard (0xDC00..<0xE000).contains(low) else { throw fault("half a surrogate pair") }
                code = 0x10000 + (code - 0xD800) << 10 + (low - 0xDC00)
            }
            guard let scalar = Unicode.Scalar(code) else { throw fault("half a surrogate pair") }
            text.append(contentsOf: String(Character(scalar)).utf8)
        default: throw fault("an unknown escape")
        }
    }

    private mutating func hex4() throws(JSONFault) -> UInt32 {
        guard position + 4 <= bytes.count else { throw fault("a string without an end") }
        var code: UInt32 = 0
        for byte in bytes[position..<position + 4] {
            guard let digit = Character(Unicode.Scalar(byte)).hexDigitValue else { throw fault("an unknown escape") }
            code = code << 4 | UInt32(digit)
        }
        position += 4
        return code
    }

    /// Nothing but space may follow.
    mutating func end() throws(JSONFault) {
        guard peek() == nil else { throw fault("more text after the end") }
    }
}
