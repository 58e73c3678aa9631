// What one rank's file is made of, and where each part comes from. Set once, read by all copy threads.
// Parts lie back to back: the header, the layout's extents shifted by dataStart, the objects. Empty extents are left out.
import CairnIO
import CairnMessages
import CairnModel
import Synchronization

/// A registered layout's extents, in file order, offsets counted from the data's start.
final class StageLayout: Sendable {
    let extents: [StageExtent]
    let bytes: Int

    /// Nil when they are not back to back.
    init?(_ extents: [StageExtent]) {
        self.extents = extents.filter { $0.bytes != 0 }
        var end = 0
        for extent in self.extents {
            guard extent.bytes > 0, extent.fileOffset == end else { return nil }
            end += extent.bytes
        }
        bytes = end
    }
}

final class StagePlan: Sendable {
    struct Part: Sendable {
        var begin: Int, bytes: Int, eager: Bool
        /// Nil: bytes of the header.
        var address: UInt64?
        /// Number of a memfd, in which the address is an offset, `StageExtent.pool` or `.streamed`; nil: the rank's memory.
        var source: Int?
        var end: Int { begin + bytes }
        /// In which it is copied.
        var phase: ChunkWork.Phase { source == StageExtent.streamed ? .streamed : eager ? .eager : .lazy }
    }

    let handle: Int
    let session: Session
    let header: [UInt8]
    let fileBytes: Int
    let chunks: Int
    let verifies: Bool
    private let layout: StageLayout
    private let objects: [StageExtent]
    /// Bit 0: the chunk has eager bytes, bit 1: lazy ones, bit 2: some that are in the rank's memory, bit 3: streamed ones.
    private let flags: [UInt8]
    private let stopped = Atomic(false)
    /// The session's memfds as they were when the save began: what is attached later under the same number is another save's.
    private let sources: [Int: SealedMemory]

    /// Nil when the parts do not make up the file that was announced.
    init?(_ begin: BeginStaging, session: Session, layout: StageLayout, header: [UInt8]) {
        handle = begin.handle; fileBytes = begin.fileBytes
        verifies = begin.verify
        self.session = session; self.layout = layout; self.header = header
        objects = begin.objects.filter { $0.bytes != 0 }
        sources = session.sources
        guard header.count == begin.dataStart, begin.fileBytes >= 0 else { return nil }
        var end = header.count + layout.bytes
        for object in objects {
            guard object.bytes > 0, object.fileOffset == end else { return nil }
            end += object.bytes
        }
        guard end == fileBytes else { return nil }
        chunks = Sizes.chunks(ofFile: fileBytes)
        var flags = [UInt8](repeating: 0, count: chunks)
        func mark(_ begin: Int, _ bytes: Int, eager: Bool, source: Int?) {
            guard bytes > 0 else { return }
            let flag: UInt8 = source == StageExtent.streamed ? 8 : (eager ? 1 : 2) | (source == StageExtent.pool ? 0 : 4)
            for chunk in begin / Sizes.chunkBytes...(begin + bytes - 1) / Sizes.chunkBytes { flags[chunk] |= flag }
        }
        mark(0, header.count, eager: true, source: StageExtent.pool)
        for extent in layout.extents { mark(header.count + extent.fileOffset, extent.bytes, eager: extent.eager, source: extent.source) }
        for object in objects { mark(object.fileOffset, object.bytes, eager: object.eager, source: object.source) }
        self.flags = flags
    }

    func hasEager(_ chunk: Int) -> Bool { flags[chunk] & 1 != 0 }
    func hasLazy(_ chunk: Int) -> Bool { flags[chunk] & 2 != 0 }
    func hasStreamed(_ chunk: Int) -> Bool { flags[chunk] & 8 != 0 }
    func isOfRank(_ chunk: Int) -> Bool { flags[chunk] & 4 != 0 }
    var eagerChunks: Int { flags.count { $0 & 1 != 0 } }

    /// No block is copied from now on, but one may still be under way.
    func stop() { stopped.store(true, ordering: .releasing) }
    var isStopped: Bool { stopped.load(ordering: .acquiring) }

    // Parts by number: the header is 0 (even when empty), then the extents, then the objects.

    var partCount: Int { 1 + layout.extents.count + objects.count }

    func part(_ number: Int) -> Part {
        if number == 0 { return Part(begin: 0, bytes: header.count, eager: true, address: nil) }
        if number <= layout.extents.count {
            let extent = layout.extents[number - 1]
            return Part(begin: header.count + extent.fileOffset, bytes: extent.bytes, eager: extent.eager, address: extent.address, source: extent.source)
        }
        let object = objects[number - 1 - layout.extents.count]
        return Part(begin: object.fileOffset, bytes: object.bytes, eager: object.eager, address: object.address, source: object.source)
    }

    /// The memfd of a part; `problemOfSources` has found all of them.
    func memory(ofSource number: Int) -> SealedMemory? { sources[number] }

    /// Why not all bytes that are to come from memfds are there; nil: they are.
    var problemOfSources: String? {
        for extent in [layout.extents, objects].joined() {
            guard let number = extent.source, number < StageExtent.sources else { continue }
            guard let memory = sources[number] else { return "descriptor \(number) is not attached" }
            guard extent.address <= UInt64(memory.bytes), extent.bytes <= memory.bytes - Int(extent.address) else {
                return "descriptor \(number) has \(memory.bytes) bytes, not \(extent.bytes) at \(extent.address)"
            }
        }
        return nil
    }

    /// Where the last streamed byte of a chunk that has some ends.
    func streamedEnd(_ chunk: Int) -> Int {
        let begin = chunk * Sizes.chunkBytes, end = begin + Sizes.bytes(ofChunk: chunk, fileBytes: fileBytes)
        var number = partNumber(at: end - 1)
        while part(number).phase != .streamed || part(number).bytes == 0 { number -= 1 }
        precondition(part(number).end > begin, "chunk \(chunk) has no streamed bytes")
        return min(end, part(number).end)
    }

    /// The part that holds a byte of the file.
    func partNumber(at offset: Int) -> Int {
        precondition((0..<fileBytes).contains(offset), "byte \(offset) of a file of \(fileBytes)")
        var low = 0, high = partCount - 1              // the last part whose begin is not behind the offset
        while low < high {
            let middle = (low + high + 1) / 2
            if part(middle).begin <= offset { low = middle } else { high = middle - 1 }
        }
        return low
    }
}
