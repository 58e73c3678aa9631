import CairnIO

/// Removed with the last reference.
final class TemporaryFolder {
    let path: String
    private let parent: Descriptor, name = "cairn-keeper-\(Entropy.hex(bytes: 6))"

    init() throws {
        parent = try Files.openRoot(ProcessFacts.environment("TMPDIR") ?? "/tmp")
        path = "\(ProcessFacts.environment("TMPDIR") ?? "/tmp")/\(name)"
        try Files.makeFolder(parent, name)
    }

    deinit { try? Files.removeTree(parent, name) }

    func write(_ file: String, _ bytes: [UInt8], mode: UInt32 = 0o640) throws { try Files.writeNew(try Files.openRoot(path), file, bytes, mode: mode) }
    func size(_ file: String) throws -> Int { try Files.stat(try Files.openRoot(path), file).bytes }
}
