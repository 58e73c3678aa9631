// CRC32C (Castagnoli), as everywhere: reflected, initial and final value inverted; "123456789" gives 0xE3069283.
// ISA-L's function does neither inversion, so both are here; a seed is an earlier call's result.
import CISAL

public enum Checksum {
    public static func crc32c(_ bytes: [UInt8]) -> UInt32 { crc32c(seed: 0, bytes) }

    /// Goes on where an earlier call stopped: crc32c(seed: crc32c(a), b) is crc32c(a + b).
    public static func crc32c(seed: UInt32, _ bytes: [UInt8]) -> UInt32 {
        unsafe bytes.withUnsafeBytes { unsafe crc32c(seed: seed, $0) }
    }

    public static func crc32c(seed: UInt32, _ bytes: ArraySlice<UInt8>) -> UInt32 {
        unsafe bytes.withUnsafeBytes { unsafe crc32c(seed: seed, $0) }
    }

    public static func crc32c(seed: UInt32, _ bytes: UnsafeRawBufferPointer) -> UInt32 {
        guard let base = bytes.baseAddress else { return seed }
        var value = ~seed, done = 0
        while done < bytes.count {
            let count = min(bytes.count - done, IOLimits.checksumBytes)
            // ISA-L takes a pointer to mutable bytes but only reads them.
            let start = unsafe UnsafeMutablePointer(mutating: (base + done).assumingMemoryBound(to: UInt8.self))
            value = unsafe crc32_iscsi(start, Int32(count), value)
            done += count
        }
        return ~value
    }
}
