// Writes JSON straight into bytes: a header of 100,000 tensors is rendered in milliseconds, without a tree of values between.
// With `quoting` the text is meant to stand inside a JSON string, so its own quotes and backslashes are escaped once more.

struct JSONWriter {
    var bytes: [UInt8] = []
    private let quoting: Bool
    /// A comma is due before the next key or value.
    private var pending = false

    init(quoting: Bool = false) { self.quoting = quoting }

    mutating func open() { separate(); bytes.append(UInt8(ascii: "{")); pending = false }
    mutating func close() { bytes.append(UInt8(ascii: "}")); pending = true }
    mutating func openArray() { separate(); bytes.append(UInt8(ascii: "[")); pending = false }
    mutating func closeArray() { bytes.append(UInt8(ascii: "]")); pending = true }

    mutating func key(_ name: String) {
        string(name)
        bytes.append(UInt8(ascii: ":"))
        pending = false
    }

    mutating func string(_ text: String) {
        separate()
        quote()
        for byte in text.utf8 {
            switch byte {
            case UInt8(ascii: "\""), UInt8(ascii: "\\"):
                escape()
                if quoting { bytes.append(UInt8(ascii: "\\")) }
                bytes.append(byte)
            case 0..<0x20:
                let hex = Array("0123456789abcdef".utf8)
                escape()
                bytes.append(contentsOf: "u00".utf8)
                bytes.append(hex[Int(byte >> 4)])
                bytes.append(hex[Int(byte & 15)])
            default: bytes.append(byte)
            }
        }
        quote()
        pending = true
    }

    mutating func integer(_ number: Int) {
        separate()
        append(number)
        pending = true
    }

    mutating func integers(_ numbers: [Int]) {
        openArray()
        for number in numbers { integer(number) }
        closeArray()
    }

    mutating func literal(_ text: String) {
        separate()
        bytes.append(contentsOf: text.utf8)
        pending = true
    }

    /// Text that is JSON already, e.g. members rendered earlier; nothing if empty.
    mutating func rendered(_ text: [UInt8]) {
        guard !text.isEmpty else { return }
        separate()
        bytes.append(contentsOf: text)
        pending = true
    }

    /// An object as a JSON string: its members were written with `quoting`, so their quotes are escaped already.
    mutating func quoted(members: [UInt8]...) {
        separate()
        bytes.append(contentsOf: "\"{".utf8)
        for each in members { rendered(each) }
        bytes.append(contentsOf: "}\"".utf8)
        pending = true
    }

    private mutating func separate() {
        if pending { bytes.append(UInt8(ascii: ",")) }
        pending = false
    }

    private mutating func quote() {
        if quoting { bytes.append(UInt8(ascii: "\\")) }
        bytes.append(UInt8(ascii: "\""))
    }

    private mutating func escape() {
        bytes.append(UInt8(ascii: "\\"))
        if quoting { bytes.append(UInt8(ascii: "\\")) }
    }

    private mutating func append(_ number: Int) {
        var magnitude = number.magnitude
        if number < 0 { bytes.append(UInt8(ascii: "-")) }
        let begin = bytes.count
        repeat {
            bytes.append(UInt8(ascii: "0") + UInt8(magnitude % 10))
            magnitude /= 10
        } while magnitude > 0
        bytes[begin...].reverse()
    }
}
