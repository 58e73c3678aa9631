// What stands under a name that a rank's file is to get: put there by a worker that ended before it had told, maybe with another setting of
// compression. It is accepted only if it is the same plain file, and then the manifest says how *it* is stored.
import CairnIO
import CairnMessages
import CairnModel
import CairnStore

struct Standing {
    let root: TierRoot
    /// `data`: the plain file's name, in the folder.
    let folder: String, data: String, crc: String
    /// Of the plain file.
    let bytes: Int
    let checksums: [UInt8], crcs: [UInt32]

    func name(isCompressed: Bool) -> String { isCompressed ? Names.compressed(data) : data }

    /// Whether the file stands there in this form and is sound. What is not is left alone: no manifest names it.
    func isSound(isCompressed: Bool) throws -> Bool {
        guard try Files.statIfPresent(root.folder, "\(folder)/\(name(isCompressed: isCompressed))") != nil else { return false }
        do { _ = try accept(isCompressed: isCompressed) } catch let failure as TierFailure where failure.kind == .corrupt { return false }
        return true
    }

    /// What stands under the name of this form, as its manifest is to say.
    func accept(isCompressed: Bool) throws -> Manifest.Compression? {
        let path = "\(folder)/\(name(isCompressed: isCompressed))", found = try Files.stat(root.folder, path).bytes
        let table = isCompressed ? try SeekTable.read(root, path, plainBytes: bytes, fileBytes: found) : nil
        guard table != nil || found == bytes else { throw taken(path, "has another size") }
        let accepted = table.map { Manifest.Compression.zstd(storedBytes: found, table: $0.encode(plainBytes: bytes)) }
        if let standing = try? Files.readAll(root.folder, "\(folder)/\(crc)", limit: checksums.count) {
            guard standing == checksums else { throw taken(path, "has other checksums") }
            return accepted
        }
        // Its worker ended between the two links: only its bytes can say.
        let file = try Files.open(root.folder, path, flags: .read)
        if let table { try check(file, path, table) } else { try check(file, path) }
        try Files.sync(file, root.absolute(path))
        return accepted
    }

    private func taken(_ path: String, _ reason: String) -> TierFailure {
        TierFailure(kind: .corrupt, text: "'\(root.absolute(path))' stands there and \(reason)", path: root.absolute(path))
    }

    private func check(_ file: Descriptor, _ path: String) throws {
        for (block, crc) in crcs.enumerated() {
            let part = try PositionedIO.read(file, bytes: min(Sizes.blockBytes, bytes - block * Sizes.blockBytes), fileOffset: block * Sizes.blockBytes, path: path)
            guard Checksum.crc32c(part) == crc else { throw taken(path, "has other bytes in block \(block)") }
        }
    }

    private func check(_ file: Descriptor, _ path: String, _ table: SeekTable) throws {
        let unpacker = try FrameUnpacker(), chunk = try MemoryMap(anonymous: Sizes.chunkBytes)
        for frame in 0..<table.count {
            let content = Sizes.bytes(ofChunk: frame, fileBytes: bytes)
            if let failure = unpacker.read(file, path, table.frame(frame), direct: false, to: chunk, at: 0, content: content) { throw taken(path, "\(failure)") }
            for block in frame * Sizes.blocksPerChunk..<min(crcs.count, (frame + 1) * Sizes.blocksPerChunk) {
                let begin = block * Sizes.blockBytes
                let crc = chunk.crc32c(offset: begin - frame * Sizes.chunkBytes, bytes: min(Sizes.blockBytes, bytes - begin))
                guard crc == crcs[block] else { throw taken(path, "has other bytes in block \(block)") }
            }
        }
    }
}
