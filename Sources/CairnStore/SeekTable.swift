// `rank-00003.safetensors.zst`: a rank's file as zstd frames, one for each chunk of the plain file, in their order, and behind them the
// table of zstd's seekable format (contrib/seekable_format/zstd_seekable_compression_format.md), which is a frame that decoders skip. So
// `zstd -d` gives back the plain file, and a reader of some bytes reads and decompresses only the frames that hold them.
//
//   0        frame of chunk 0, of chunk 1, …; each says its content's size and has zstd's own checksum of it
//   table    u32 LE 0x184D2A5E, u32 LE bytes that follow: 8 for each frame, and 9
//            for each frame: u32 LE its bytes, u32 LE bytes of its content
//            u32 LE frames, u8 0 (no checksums here), u32 LE 0x8F92EAB1; the file ends here
//
// (1) What a frame's content must have follows from the plain file's size, which the manifest says: a table that says otherwise is none.
// (2) The table proves nothing by itself: the manifest has its SHA-256, and the CRC32C of every block of the plain file is the same as
//     where it is stored plain.
import CairnIO
import CairnModel

public enum SeekTableError: Error, Sendable, Equatable, CustomStringConvertible {
    case wrongSize(bytes: Int, expected: Int)
    case notOurs
    case wrongFrames(found: Int, expected: Int)
    case wrongContent(frame: Int, bytes: Int, expected: Int)
    case wrongFrame(frame: Int, bytes: Int)
    case wrongEnd(bytes: Int, expected: Int)

    public var description: String {
        switch self {
        case .wrongSize(let bytes, let expected): "the seek table has \(bytes) bytes, not \(expected)"
        case .notOurs: "it does not end in a seek table of zstd"
        case .wrongFrames(let found, let expected): "the seek table tells of \(found) frames, not \(expected)"
        case .wrongContent(let frame, let bytes, let expected): "the seek table says that frame \(frame) holds \(bytes) bytes, not \(expected)"
        case .wrongFrame(let frame, let bytes): "the seek table says that frame \(frame) has \(bytes) bytes, which no frame of a chunk has"
        case .wrongEnd(let bytes, let expected): "the frames of the seek table end at byte \(bytes), not \(expected)"
        }
    }
}

public struct SeekTable: Sendable, Equatable {
    private static let magic: UInt32 = 0x184D_2A5E, endMagic: UInt32 = 0x8F92_EAB1
    private static let headBytes = 8, rowBytes = 8, endBytes = 9
    /// No frame is shorter: its magic number, its head, and a block's head.
    private static let leastFrameBytes = 9

    /// Where each frame begins in the file, and at last where the table does.
    private let begins: [Int]

    public init(frameBytes: [Int]) {
        var at = 0
        begins = [0] + frameBytes.map { bytes in
            at += bytes
            return at
        }
    }

    public var count: Int { begins.count - 1 }
    /// In the file.
    public func frame(_ frame: Int) -> Range<Int> { begins[frame]..<begins[frame + 1] }
    /// Of frames and table.
    public var fileBytes: Int { begins[count] + Self.bytes(frames: count) }

    public static func bytes(frames: Int) -> Int { headBytes + frames * rowBytes + endBytes }
    public static func bytes(plainBytes: Int) -> Int { bytes(frames: Sizes.chunks(ofFile: plainBytes)) }

    public func encode(plainBytes: Int) -> [UInt8] {
        precondition(count == Sizes.chunks(ofFile: plainBytes), "\(count) frames for \(plainBytes) bytes")
        var bytes: [UInt8] = []
        bytes.reserveCapacity(Self.bytes(frames: count))
        BlockChecksums.append(Self.magic, to: &bytes)
        BlockChecksums.append(UInt32(Self.bytes(frames: count) - Self.headBytes), to: &bytes)
        for index in 0..<count {
            BlockChecksums.append(UInt32(frame(index).count), to: &bytes)
            BlockChecksums.append(UInt32(Sizes.bytes(ofChunk: index, fileBytes: plainBytes)), to: &bytes)
        }
        BlockChecksums.append(UInt32(count), to: &bytes)
        bytes.append(0)
        BlockChecksums.append(Self.endMagic, to: &bytes)
        return bytes
    }

    /// `bytes`: the last of a file of `fileBytes`, as many as the table of a plain file of `plainBytes` has.
    public static func decode(_ bytes: [UInt8], plainBytes: Int, fileBytes: Int) throws(SeekTableError) -> SeekTable {
        let frames = Sizes.chunks(ofFile: plainBytes), expected = Self.bytes(frames: frames)
        guard bytes.count == expected else { throw .wrongSize(bytes: bytes.count, expected: expected) }
        func word(_ offset: Int) -> Int { Int(BlockChecksums.word(bytes, at: offset)) }
        guard word(0) == Int(magic), word(4) == expected - headBytes, word(expected - 4) == Int(endMagic), bytes[expected - 5] == 0 else { throw .notOurs }
        guard word(expected - endBytes) == frames else { throw .wrongFrames(found: word(expected - endBytes), expected: frames) }
        var sizes: [Int] = []
        sizes.reserveCapacity(frames)
        for frame in 0..<frames {
            let size = word(headBytes + rowBytes * frame), content = word(headBytes + rowBytes * frame + 4)
            let chunk = Sizes.bytes(ofChunk: frame, fileBytes: plainBytes)
            guard content == chunk else { throw .wrongContent(frame: frame, bytes: content, expected: chunk) }
            guard size >= leastFrameBytes, size <= Zstd.bound(chunk) else { throw .wrongFrame(frame: frame, bytes: size) }
            sizes.append(size)
        }
        let table = SeekTable(frameBytes: sizes)
        guard table.fileBytes == fileBytes else { throw .wrongEnd(bytes: table.fileBytes - expected, expected: fileBytes - expected) }
        return table
    }
}
