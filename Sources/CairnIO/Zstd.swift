// Frames of zstd between maps. A frame holds one chunk, and says its content's size and checksum, so that stock tools check it too.
// (1) A frame is of one segment, whatever its level's window: then its head says nothing but the content's size, which is known, and no
//     byte of it can change unnoticed.
// (2) Whole frames are read by the one-shot call, into exactly the room that their content must have: nothing is allocated by what a
//     frame says of itself. Where only a frame's beginning is wanted, its window is bounded.
import CZstd

/// What libzstd, or a frame's own words, said.
public struct ZstdFailure: Error, Sendable, Equatable, CustomStringConvertible {
    public let description: String

    init(_ text: String) { description = text }
    fileprivate init(_ operation: String, code: Int) { description = unsafe "\(operation): \(String(cString: ZSTD_getErrorName(code)))" }
}

public enum Zstd {
    /// The window holds a chunk (8 MiB).
    fileprivate static let windowBits = 23
    /// The byte behind a frame's magic number: of one segment, with a checksum, without a dictionary; the two highest bits are the length of
    /// its content's size.
    fileprivate static let headByte: UInt8 = 0x24, headMask: UInt8 = 0x3F, headOffset = 4

    /// The longest frame that content of so many bytes may take.
    public static func bound(_ bytes: Int) -> Int { ZSTD_compressBound(bytes) }

    fileprivate static func made(_ context: OpaquePointer?) throws(ZstdFailure) -> OpaquePointer {
        guard let context = unsafe context else { throw ZstdFailure("zstd: no memory for a context") }
        return unsafe context
    }

    fileprivate static func checked(_ operation: String, _ code: Int) throws(ZstdFailure) -> Int {
        guard ZSTD_isError(code) == 0 else { throw ZstdFailure(operation, code: code) }
        return code
    }
}

/// Belongs to one thread.
@safe public final class ZstdCompressor {
    private let context: OpaquePointer

    public init(level: Int) throws(ZstdFailure) {
        unsafe context = try Zstd.made(ZSTD_createCCtx())
        for (parameter, value) in [(ZSTD_c_compressionLevel, level), (ZSTD_c_checksumFlag, 1), (ZSTD_c_windowLog, Zstd.windowBits)] {
            _ = try Zstd.checked("set a parameter of zstd", unsafe ZSTD_CCtx_setParameter(context, parameter, Int32(value)))
        }
    }

    deinit { unsafe ZSTD_freeCCtx(context) }

    /// One frame; its bytes. `room`: from `to` on.
    public func compress(_ map: MemoryMap, offset: Int, bytes: Int, to target: MemoryMap, at: Int, room: Int) throws(ZstdFailure) -> Int {
        let from = unsafe map.pointer(offset, bytes), into = unsafe target.pointer(at, room, writing: true)
        return try Zstd.checked("compress", unsafe ZSTD_compress2(context, into, room, from, bytes))
    }
}

/// Belongs to one thread.
@safe public final class ZstdDecompressor {
    private let context: OpaquePointer

    public init() throws(ZstdFailure) {
        unsafe context = try Zstd.made(ZSTD_createDCtx())
        _ = try Zstd.checked("set a parameter of zstd", unsafe ZSTD_DCtx_setParameter(context, ZSTD_d_windowLogMax, Int32(Zstd.windowBits)))
    }

    deinit { unsafe ZSTD_freeDCtx(context) }

    /// Exactly one frame of `bytes`, whose content must have `content` bytes.
    public func decompress(_ map: MemoryMap, offset: Int, bytes: Int, to target: MemoryMap, at: Int, content: Int) throws(ZstdFailure) {
        let from = unsafe map.pointer(offset, bytes), into = unsafe target.pointer(at, content, writing: true)
        // Both look at headers only.
        let said = unsafe ZSTD_getFrameContentSize(from, bytes)
        guard bytes > Zstd.headOffset, unsafe from.load(fromByteOffset: Zstd.headOffset, as: UInt8.self) & Zstd.headMask == Zstd.headByte else {
            throw ZstdFailure("the frame is not of the form that this tier's frames have")
        }
        guard said == UInt64(content) else { throw ZstdFailure("the frame does not say that its content has \(content) bytes") }
        let length = try Zstd.checked("measure a frame", unsafe ZSTD_findFrameCompressedSize(from, bytes))
        guard length == bytes else { throw ZstdFailure("the frame has \(length) bytes, not \(bytes)") }
        let got = try Zstd.checked("decompress", unsafe ZSTD_decompressDCtx(context, into, content, from, bytes))
        guard got == content else { throw ZstdFailure("the frame's content has \(got) bytes, not \(content)") }
    }

    /// The first `count` bytes of a frame's content, fewer where it ends. `next` gives the frame's bytes piece by piece, at last an empty one.
    public func beginning(_ count: Int, next: () throws -> [UInt8]) throws -> [UInt8] {
        unsafe ZSTD_DCtx_reset(context, ZSTD_reset_session_only)
        var content = [UInt8](repeating: 0, count: count), filled = 0
        while filled < count {
            let piece = try next()
            if piece.isEmpty { break }
            var at = 0, isEnd = false
            while at < piece.count && filled < count && !isEnd {
                let left = try unsafe content.withUnsafeMutableBytes { (to) throws -> Int in
                    try unsafe piece.withUnsafeBytes { (from) throws -> Int in
                        var input = unsafe ZSTD_inBuffer(src: from.baseAddress, size: piece.count, pos: at)
                        var output = unsafe ZSTD_outBuffer(dst: to.baseAddress, size: count, pos: filled)
                        let left = try Zstd.checked("decompress", unsafe ZSTD_decompressStream(context, &output, &input))
                        unsafe (at, filled) = (input.pos, output.pos)
                        return left
                    }
                }
                isEnd = left == 0
            }
            if isEnd { break }
        }
        content.removeLast(count - filled)
        return content
    }
}
