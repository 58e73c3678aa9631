import CairnIO

/// A folder of one test, removed with it.
final class TemporaryFolder: Sendable {
    let path: String
    let root: Descriptor
    private let name: String
    private let parent: Descriptor

    init() throws {
        parent = try Files.openRoot("/tmp")
        name = "cairn-io-\(Entropy.hex(bytes: 8))"
        try Files.makeFolder(parent, name, mode: 0o700)
        path = "/tmp/\(name)"
        root = try Files.openRoot(path)
    }

    deinit { try? Files.removeTree(parent, name) }
}

/// Bytes that look like no pattern, the same for one seed: 64 KiB, again and again, but marked with its place.
func patternBytes(_ count: Int, seed: UInt64 = 1) -> [UInt8] {
    var state = seed &* 0x9E37_79B9_7F4A_7C15 | 1
    var block: [UInt8] = []
    while block.count < min(count, 1 << 16) {
        state ^= state << 13; state ^= state >> 7; state ^= state << 17
        for shift in stride(from: UInt64(0), to: 64, by: 8) { block.append(UInt8(truncatingIfNeeded: state >> shift)) }
    }
    var bytes: [UInt8] = []
    bytes.reserveCapacity(count + block.count)
    while bytes.count < count {
        block[0] &+= 1
        block[1] = UInt8(truncatingIfNeeded: bytes.count >> 16)
        block[2] = UInt8(truncatingIfNeeded: bytes.count >> 24)
        bytes.append(contentsOf: block)
    }
    bytes.removeLast(bytes.count - count)
    return bytes
}
