// The `.crc` file: CRC32C of each 256 KiB block of the plain file.
//
//   0    8 bytes "CAIRNCRC"
//   8    u32 LE version, 1
//   12   u32 LE bytes of a block
//   16   u32 LE CRC32C per block (the last block may be shorter)
//   end  u32 LE CRC32C of all bytes before it
import CairnIO
import CairnModel

public enum BlockChecksumError: Error, Sendable, Equatable, CustomStringConvertible {
    case wrongSize(bytes: Int, expected: Int)
    case notOurs
    case unknownVersion(UInt32)
    case wrongBlockBytes(UInt32)
    case corrupt

    public var description: String {
        switch self {
        case .wrongSize(let bytes, let expected): "the checksum file has \(bytes) bytes, not \(expected)"
        case .notOurs: "not a checksum file"
        case .unknownVersion(let version): "checksum file of version \(version), known is 1"
        case .wrongBlockBytes(let bytes): "checksums of blocks of \(bytes) bytes, not \(Sizes.blockBytes)"
        case .corrupt: "the checksum file's own checksum does not match"
        }
    }
}

public enum BlockChecksums {
    private static let magic = Array("CAIRNCRC".utf8)
    private static let version: UInt32 = 1
    private static let headBytes = 16

    public static func fileBytes(blocks: Int) -> Int { headBytes + blocks * 4 + 4 }

    public static func encode(_ crcs: [UInt32]) -> [UInt8] {
        var bytes = magic
        bytes.reserveCapacity(fileBytes(blocks: crcs.count))
        append(version, to: &bytes)
        append(UInt32(Sizes.blockBytes), to: &bytes)
        for crc in crcs { append(crc, to: &bytes) }
        append(Checksum.crc32c(bytes), to: &bytes)
        return bytes
    }

    /// `fileBytes`: size of the plain file that the checksums are for.
    public static func decode(_ bytes: [UInt8], fileBytes plainBytes: Int) throws(BlockChecksumError) -> [UInt32] {
        let blocks = Sizes.blocks(ofFile: plainBytes)
        guard bytes.count == fileBytes(blocks: blocks) else { throw .wrongSize(bytes: bytes.count, expected: fileBytes(blocks: blocks)) }
        guard bytes.starts(with: magic) else { throw .notOurs }
        guard word(bytes, at: 8) == version else { throw .unknownVersion(word(bytes, at: 8)) }
        guard word(bytes, at: 12) == UInt32(Sizes.blockBytes) else { throw .wrongBlockBytes(word(bytes, at: 12)) }
        guard word(bytes, at: bytes.count - 4) == Checksum.crc32c(Array(bytes.dropLast(4))) else { throw .corrupt }
        return (0..<blocks).map { word(bytes, at: headBytes + 4 * $0) }
    }

    static func append(_ word: UInt32, to bytes: inout [UInt8]) {
        for shift in stride(from: UInt32(0), to: 32, by: 8) { bytes.append(UInt8(truncatingIfNeeded: word >> shift)) }
    }

    static func word(_ bytes: [UInt8], at offset: Int) -> UInt32 {
        (0..<4).reduce(0) { $0 | UInt32(bytes[offset + $1]) << UInt32(8 * $1) }
    }
}
