@testable import CairnWire
import Testing

@Suite struct JSONTests {
    private func tree(_ text: String) throws -> JSONTree { try JSONTree(Array(text.utf8)) }

    @Test(arguments: [(#""""#, ""), (#""a\"\\\/\b\f\n\r\tz""#, "a\"\\/\u{8}\u{C}\n\r\tz"), (#""\u00e9\u0000""#, "\u{E9}\u{0}"),
                      (#""\ud83d\uDDFF""#, "\u{1F5FF}"), ("\"石\"", "石")])
    func stringsReadAsWritten(json: String, text: String) throws {
        #expect(try tree(json).string(0) == text)
    }

    @Test(arguments: [#""\x""#, #""\u12""#, #""\u12g4""#, #""\ud83d""#, #""\ud83dx""#, #""\udDFF""#, #""\ud83d\u0041""#])
    func wrongEscapesAreNoText(json: String) throws {
        #expect(try tree(json).string(0) == nil)
    }

    @Test func bytesThatAreNotUTF8AreNoText() throws {
        for bytes in [[0xFF], [0xC3], [0xC0, 0x80], [0xED, 0xA0, 0x80]] as [[UInt8]] {
            #expect(try JSONTree([0x22] + bytes + [0x22]).string(0) == nil)
            #expect(try JSONTree([0x22] + bytes + Array(#"\n""#.utf8)).string(0) == nil)
        }
    }

    @Test(arguments: [("0", 0), ("-0", 0), ("-1", -1), ("9223372036854775807", Int.max), ("-9223372036854775808", Int.min),
                      ("9223372036854775808", nil), ("-9223372036854775809", nil), ("99999999999999999999999", nil), ("1.0", nil), ("1e3", nil)])
    func integersAreExactOrNone(json: String, value: Int?) throws {
        #expect(try tree(json).integer(0, as: Int.self) == value)
    }

    @Test func integersFitTheirType() throws {
        #expect(try tree("18446744073709551615").integer(0, as: UInt64.self) == UInt64.max)
        #expect(try tree("18446744073709551616").integer(0, as: UInt64.self) == nil)
        #expect(try tree("4294967296").integer(0, as: UInt32.self) == nil)
        #expect(try tree("-1").integer(0, as: UInt32.self) == nil)
    }

    @Test(arguments: ["", "-", "01", "1.", ".5", "1e", "+1", "tru", "nulll", "\"", "\"\\", "\"a\nb\"", "[1,]", "[,1]", "[1 2]", "{\"a\"}", "{\"a\":}",
                      "{\"a\":1,}", "{a:1}", "{1:1}", "[", "{", "]", "[}", "1 1", "NaN", "\u{FEFF}1"])
    func whatIsNoJSONIsRefused(json: String) {
        #expect(throws: ProtocolViolation.self) { try tree(json) }
    }

    @Test func depthAndCountAreBounded() throws {
        let nested = String(repeating: "[", count: 8) + String(repeating: "]", count: 8)
        #expect(throws: Never.self) { try JSONTree(Array(nested.utf8), maximumDepth: 8) }
        #expect(throws: ProtocolViolation.self) { try JSONTree(Array(nested.utf8), maximumDepth: 7) }
        #expect(throws: Never.self) { try JSONTree(Array("[1,2,3]".utf8), maximumNodes: 4) }
        #expect(throws: ProtocolViolation.self) { try JSONTree(Array("[1,2,3]".utf8), maximumNodes: 3) }
    }

    @Test func largeMapsAreReadWhole() throws {
        struct Map: Decodable { var map: [String: Int] }
        let members = (0..<100_000).map { "\"key \\u0041\($0)\":\($0)" }.joined(separator: ",")
        let map = try Map(from: JSONTreeDecoder(tree: tree("{\"map\":{\(members)}}"), node: 0)).map
        #expect(map.count == 100_000 && map["key A99999"] == 99_999)
    }

    @Test func doubledKeyCountsOnceTheFirstTime() throws {
        struct One: Decodable { var a: Int }
        #expect(try One(from: JSONTreeDecoder(tree: tree(#"{"a":1,"a":2}"#), node: 0)).a == 1)
    }
}
