import CairnIO
import Testing

@Suite struct ChecksumTests {
    @Test func crc32cIsTheStandardOne() {
        #expect(Checksum.crc32c(Array("123456789".utf8)) == 0xE306_9283)
        #expect(Checksum.crc32c([]) == 0)
        #expect(Checksum.crc32c([UInt8](repeating: 0, count: 32)) == 0x8A91_36AA)      // RFC 3720, B.4
        #expect(Checksum.crc32c([UInt8](repeating: 0xFF, count: 32)) == 0x62A8_AB43)
    }

    @Test func crc32cGoesOnWhereItStopped() throws {
        let bytes = patternBytes(100_003)
        for cut in [0, 1, 63, 64, 65_537, 100_003] {
            #expect(Checksum.crc32c(seed: Checksum.crc32c(Array(bytes[..<cut])), bytes[cut...]) == Checksum.crc32c(bytes))
        }
        let map = try MemoryMap(anonymous: 1 << 20)
        map.copy(from: bytes, at: 77)
        #expect(map.crc32c(offset: 77, bytes: bytes.count) == Checksum.crc32c(bytes))
    }

    @Test func sha256MatchesNISTVectors() {
        #expect(Digest.sha256Hex([]) == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
        #expect(Digest.sha256Hex(Array("abc".utf8)) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
        #expect(Digest.sha256Hex(Array("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq".utf8))
            == "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1")
        #expect(Digest.sha256Hex([UInt8](repeating: 0x61, count: 1_000_000))
            == "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0")
    }

    @Test func sha256InPartsIsTheSame() {
        let bytes = patternBytes(1000)
        for cut in [0, 1, 55, 56, 63, 64, 65, 128, 999] {
            var hash = SHA256()
            hash.update(Array(bytes[..<cut]))
            hash.update(Array(bytes[cut...]))
            #expect(hash.finish() == Digest.sha256(bytes))
        }
    }
}
