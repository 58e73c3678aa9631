// What lies whole in the pool, written so that the next process of the daemon can take it up: a memfd of its own, kept beside the pool's
// segments by the service manager. Main is its only writer; nothing in it is believed that does not prove itself.
//
//   0           head: "CAIRNKPT", version, slots, bytes of a chunk, boot id, node, identities of the pool's segments; CRC32C of all that
//   65536       one entry for each slot of the pool, 160 bytes: CRC32C of the rest, chunk, part, chunks of the part, blocks, their CRC32Cs
//   …           one cell for each slot, 64 KiB (sparse: only pages that were written take memory), for the part whose chunk 0 the slot
//               holds: CRC32C of the rest, bytes of JSON, part, JSON (KeptPart)
//
// A part is one rank's file of one save; its number is never used twice, whichever process gave it.
// (1) A part counts when its cell and an entry for each of its chunks are whole: a write that a SIGKILL cuts makes its CRC wrong, and the
//     part is not there. The order of writes does not matter.
// (2) An entry is cleared before its slot is given to another chunk; where that is missed, the chunk's bytes do not match the entry's CRCs.
// (3) What the CRCs of the entries do not say of the pool's bytes is not taken up (I7).
import CairnIO
import CairnModel
import FoundationEssentials

/// What the engine and the manifest need of a part, beside what its own header says.
public struct KeptPart: Codable, Hashable, Sendable {
    public var run: RunKey, save: SaveID, rank: Int, worldSize: Int
    public var fileBytes: Int
    /// This part's, the save's by now, and the one in the manifest where that was made.
    public var upto: Level, saveUpto: Level, manifestUpto: Level?
    /// Rank 0's count of saves.
    public var count: Int?
    public var parent: CommitSequence?, previous: SaveID?
    /// Nil: all ranks.
    public var participants: [Int]?
    public var metadata: [String: String]?
    public var files: [Manifest.File]?
    public var savedAt: String
    /// Committed, as this sequence.
    public var committed: CommitSequence?

    public init(run: RunKey, save: SaveID, rank: Int, worldSize: Int, fileBytes: Int, upto: Level, saveUpto: Level, manifestUpto: Level?, count: Int?,
                parent: CommitSequence?, previous: SaveID?, participants: [Int]?, metadata: [String: String]?, files: [Manifest.File]?, savedAt: String,
                committed: CommitSequence?) {
        self.run = run; self.save = save; self.rank = rank; self.worldSize = worldSize; self.fileBytes = fileBytes; self.upto = upto
        self.saveUpto = saveUpto; self.manifestUpto = manifestUpto; self.count = count; self.parent = parent; self.previous = previous
        self.participants = participants; self.metadata = metadata; self.files = files; self.savedAt = savedAt; self.committed = committed
    }

    public var chunks: Int { Sizes.chunks(ofFile: fileBytes) }

    /// A JSON that its CRC proves may still be of a version that meant something else.
    var problem: String? {
        if fileBytes <= 0 || fileBytes > StoreLimits.fileBytes { return "\(fileBytes) bytes" }
        if !(1...StoreLimits.worldSize).contains(worldSize) || !(0..<worldSize).contains(rank) { return "rank \(rank) of \(worldSize)" }
        if !RunKey.isValidName(run.name) || save.attempt < 1 || save.attemptTry < 1 { return "save \(save) of run '\(run.name)'" }
        if upto == .failed || saveUpto == .failed || upto == .accepted || saveUpto == .accepted { return "upto \(upto)" }
        return nil
    }
}

/// A part as the index has it: where its chunks lie, and their blocks' CRCs in file order.
public struct KeptEntry: Sendable {
    public var number: UInt64, part: KeptPart, slots: [Int], crcs: [UInt32]
}

/// Why an index cannot be used.
public struct KeptProblem: Error, Sendable, CustomStringConvertible {
    public let description: String
    public init(_ description: String) { self.description = description }
}

public final class KeptIndex {
    static let magic = Array("CAIRNKPT".utf8), version: UInt32 = 1
    static let headBytes = 64 << 10, entryBytes = 160, cellBytes = 64 << 10

    public let memory: SharedMemory
    private let map: MemoryMap
    private let slots: Int

    public static func bytes(slots: Int) -> Int { cells(slots) + slots * cellBytes }
    private static func cells(_ slots: Int) -> Int { (headBytes + slots * entryBytes + 4095) / 4096 * 4096 }

    private init(_ memory: SharedMemory, slots: Int) throws(IOFailure) {
        self.memory = memory
        self.slots = slots
        map = try memory.map(writable: true)
    }

    private static func head(slots: Int, node: String, segments: [SharedMemory]) throws -> [UInt8] {
        var bytes = magic
        for word in [version, UInt32(slots), UInt32(Sizes.chunkBytes), UInt32(segments.count)] { append(word, to: &bytes) }
        for text in [ProcessFacts.bootID(), node] {
            append(UInt32(text.utf8.count), to: &bytes)
            bytes += Array(text.utf8)
        }
        for segment in segments { append(try segment.identity(), to: &bytes) }
        guard bytes.count + 4 <= headBytes else { throw KeptProblem("a pool of \(segments.count) segments is too large for an index") }
        append(Checksum.crc32c(bytes), to: &bytes)
        return bytes
    }

    public static func create(slots: Int, node: String, segments: [SharedMemory]) throws -> KeptIndex {
        let head = try head(slots: slots, node: node, segments: segments)
        let index = try KeptIndex(SharedMemory.create(name: "cairn-index", bytes: bytes(slots: slots)), slots: slots)
        index.map.copy(from: head, at: 0)
        return index
    }

    /// The index of this node's pool since this boot; `segments` in any order, given back in the pool's.
    public static func open(_ memory: SharedMemory, slots: Int, node: String, segments: [SharedMemory]) throws -> (KeptIndex, [SharedMemory]) {
        let found = try memory.read(offset: 0, count: min(headBytes, memory.bytes))
        var reader = HeadReader(found)
        guard reader.take(8) == magic else { throw KeptProblem("its index is none") }
        let said = reader.word()
        guard said == version else { throw KeptProblem("its index has version \(said.map(String.init) ?? "?"), this cairnd writes \(version)") }
        let words = (0..<3).map { _ in reader.word() }, boot = reader.text(), itsNode = reader.text()
        guard let count = words[2], count <= 8192, let boot, let itsNode else { throw KeptProblem("its index is cut off") }
        let identities = (0..<count).compactMap { _ in reader.long() }
        let end = reader.at
        guard identities.count == count, let crc = reader.word(), crc == Checksum.crc32c(seed: 0, found[..<end]) else { throw KeptProblem("its index has a wrong checksum") }
        guard boot == ProcessFacts.bootID() else { throw KeptProblem("it is of boot '\(boot)', not of this one") }
        guard itsNode == node else { throw KeptProblem("it is of the daemon '\(itsNode)', this one is '\(node)'") }
        guard words[1] == UInt32(Sizes.chunkBytes), words[0] == UInt32(slots) else {
            throw KeptProblem("its pool has \(words[0] ?? 0) chunks of \((words[1] ?? 0) >> 20) MiB, the configuration now says \(slots) of \(Sizes.chunkBytes >> 20) MiB")
        }
        guard memory.bytes == bytes(slots: slots) else { throw KeptProblem("its index has \(memory.bytes) bytes instead of \(bytes(slots: slots))") }
        var known: [UInt64: SharedMemory] = [:]
        for segment in segments { known[try segment.identity()] = segment }
        let ordered = identities.compactMap { known[$0] }
        guard ordered.count == identities.count else {
            throw KeptProblem("\(identities.count - ordered.count) of the pool's \(identities.count) segments are missing: raise FileDescriptorStoreMax= of the unit")
        }
        return (try KeptIndex(memory, slots: slots), ordered)
    }

    // MARK: parts

    /// False: what is said of it is too long for its cell, and it is not kept. `isKnown`: its chunks' entries are there already.
    public func put(_ number: UInt64, _ part: KeptPart, slots places: [Int], crcs: [UInt32], isKnown: Bool = false) -> Bool {
        precondition(places.count == part.chunks && crcs.count == Sizes.blocks(ofFile: part.fileBytes), "a part of \(part.chunks) chunks in \(places.count) slots")
        let json: [UInt8]
        do { json = Array(try JSONEncoder().encode(part)) } catch { preconditionFailure("a part does not encode: \(error)") }
        guard json.count <= Self.cellBytes - 16 else { return false }
        var cell: [UInt8] = []
        append(UInt32(json.count), to: &cell)
        append(number, to: &cell)
        write(cell + json, at: Self.cells(slots) + places[0] * Self.cellBytes)
        guard !isKnown else { return true }
        for (chunk, slot) in places.enumerated() {
            let first = chunk * Sizes.blocksPerChunk, blocks = crcs[first..<min(first + Sizes.blocksPerChunk, crcs.count)]
            var entry: [UInt8] = []
            entry.reserveCapacity(Self.entryBytes)
            append(UInt32(chunk), to: &entry)
            append(number, to: &entry)
            append(UInt32(places.count), to: &entry)
            append(UInt32(blocks.count), to: &entry)
            for crc in blocks { append(crc, to: &entry) }
            entry.append(contentsOf: repeatElement(0, count: Self.entryBytes - 4 - entry.count))
            write(entry, at: Self.headBytes + slot * Self.entryBytes)
        }
        return true
    }

    private func write(_ bytes: [UInt8], at offset: Int) {
        var crc: [UInt8] = []
        append(Checksum.crc32c(bytes), to: &crc)
        map.copy(from: crc + bytes, at: offset)
    }

    /// These slots hold nothing that is kept; with `owner`, those of them that are that part's.
    public func clear(_ places: some Sequence<Int>, of owner: UInt64? = nil) {
        for slot in places {
            let at = Self.headBytes + slot * Self.entryBytes
            if let owner, number(map.copyBytes(offset: at + 8, count: 8)) != owner { continue }
            map.zero(offset: at, bytes: 24)
        }
    }

    /// All parts that are whole; and of how many something is missing.
    public func read() -> (parts: [KeptEntry], cut: [KeptPart]) {
        struct Chunk { var slot: Int, crcs: [UInt32] }
        var found: [UInt64: [Int: Chunk]] = [:], counts: [UInt64: Int] = [:]
        for slot in 0..<slots {
            var reader = HeadReader(map.copyBytes(offset: Self.headBytes + slot * Self.entryBytes, count: Self.entryBytes))
            guard let crc = reader.word(), crc != 0, crc == Checksum.crc32c(reader.rest), let chunk = reader.word(), let number = reader.long(),
                  let count = reader.word(), let blocks = reader.word(), blocks <= UInt32(Sizes.blocksPerChunk) else { continue }
            let crcs = (0..<blocks).compactMap { _ in reader.word() }
            found[number, default: [:]][Int(chunk)] = Chunk(slot: slot, crcs: crcs)
            counts[number] = Int(count)
        }
        var parts: [KeptEntry] = [], cut: [KeptPart] = []
        for (number, chunks) in found.sorted(by: { $0.key < $1.key }) {
            guard let first = chunks[0], let part = cell(first.slot, number) else { continue }
            let ordered = (0..<part.chunks).compactMap { chunks[$0] }, crcs = ordered.flatMap(\.crcs)
            guard ordered.count == part.chunks, counts[number] == part.chunks, crcs.count == Sizes.blocks(ofFile: part.fileBytes) else { cut.append(part); continue }
            parts.append(KeptEntry(number: number, part: part, slots: ordered.map(\.slot), crcs: crcs))
        }
        return (parts, cut)
    }

    private func cell(_ slot: Int, _ number: UInt64) -> KeptPart? {
        let at = Self.cells(slots) + slot * Self.cellBytes
        var reader = HeadReader(map.copyBytes(offset: at, count: 16))
        guard let crc = reader.word(), let count = reader.word(), reader.long() == number, count <= UInt32(Self.cellBytes - 16) else { return nil }
        guard map.crc32c(offset: at + 4, bytes: 12 + Int(count)) == crc,
              let part = try? JSONDecoder().decode(KeptPart.self, from: Data(map.copyBytes(offset: at + 16, count: Int(count)))) else { return nil }
        return part.problem == nil ? part : nil
    }
}

private func append<Word: FixedWidthInteger & UnsignedInteger>(_ word: Word, to bytes: inout [UInt8]) {
    for shift in stride(from: 0, to: Word.bitWidth, by: 8) { bytes.append(UInt8(truncatingIfNeeded: word >> Word(shift))) }
}

private func number(_ bytes: [UInt8]) -> UInt64 { bytes.reversed().reduce(UInt64(0)) { $0 << 8 | UInt64($1) } }

/// Little-endian words of a head or an entry, as far as it goes.
private struct HeadReader {
    private let bytes: [UInt8]
    private(set) var at = 0
    init(_ bytes: [UInt8]) { self.bytes = bytes }

    var rest: [UInt8] { Array(bytes[at...]) }
    mutating func take(_ count: Int) -> [UInt8]? {
        guard count >= 0, bytes.count - at >= count else { return nil }
        defer { at += count }
        return Array(bytes[at..<at + count])
    }
    mutating func word() -> UInt32? { take(4).map { UInt32(truncatingIfNeeded: number($0)) } }
    mutating func long() -> UInt64? { take(8).map { number($0) } }
    mutating func text() -> String? {
        guard let count = word(), count <= 256, let bytes = take(Int(count)) else { return nil }
        return String(decoding: bytes, as: UTF8.self)
    }
}
