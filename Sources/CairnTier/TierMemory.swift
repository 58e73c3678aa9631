// What a tier worker maps: the pool for reading, its own read buffer, the other tier worker's buffer for reading, and ranks' leases.
// What a rank does to its lease meanwhile harms what it reads itself, and nobody else: no other byte comes from there.
import CairnIO
import CairnMessages
import CairnModel

final class TierMemory: Sendable {
    private let shape: PoolShape
    private let pool: [MemoryMap]
    let buffer: MemoryMap
    private let loadSlots: Int
    /// Whether the buffer's slots for loads, and those for reading back, have their pages.
    private let filled = Monitor((loads: false, readBacks: false))
    private let peer = Monitor<(instance: String, map: MemoryMap)?>(nil)
    private let leases = Monitor<[Int: MemoryMap]>([:])

    init(_ start: TierStart, descriptors: [Descriptor]) throws {
        guard descriptors.count == start.pool.segments + 1, let last = descriptors.last else {
            throw TierFailure(kind: .invalid, text: "\(descriptors.count) descriptors with 'start', \(start.pool.segments + 1) are expected")
        }
        shape = start.pool
        var maps: [MemoryMap] = []
        for (segment, descriptor) in descriptors.dropLast().enumerated() {
            maps.append(try MemoryMap(descriptor, bytes: start.pool.bytes(ofSegment: segment), writable: false))
        }
        pool = maps
        loadSlots = start.bufferSlots
        buffer = try MemoryMap(last, bytes: (start.bufferSlots + TierStart.readBackSlots) * Sizes.chunkBytes, writable: true)
    }

    /// Before the first read into slots for loads, or for reading back: their pages, all at once and in huge ones where there are such, for a
    /// read that has to find each page first is slower. Memory that is short then shows at the read.
    func fill(readBacks: Bool) {
        filled.withLock { filled in
            guard !(readBacks ? filled.readBacks : filled.loads) else { return }
            let slots = readBacks ? loadSlots..<buffer.bytes / Sizes.chunkBytes : 0..<loadSlots
            for slot in slots { _ = try? buffer.prefault(offset: slot * Sizes.chunkBytes, bytes: Sizes.chunkBytes) }
            if readBacks { filled.readBacks = true } else { filled.loads = true }
        }
    }

    func setPeer(instance: String, bytes: Int, _ descriptor: Descriptor) throws {
        let map = try MemoryMap(descriptor, bytes: bytes, writable: false)
        peer.withLock { $0 = (instance, map) }
    }

    func setLease(_ segment: Int, bytes: Int, _ descriptor: Descriptor) throws {
        let map = try MemoryMap(descriptor, bytes: bytes, writable: true)
        try map.prefault(offset: 0, bytes: bytes)
        leases.withLock { $0[segment] = map }
    }

    func release(_ segment: Int) { leases.withLock { $0[segment] = nil } }

    /// Nil: main lent it to nobody here, or it could not be mapped.
    func lease(_ lease: LeaseSegment) -> MemoryMap? {
        leases.withLock { $0[lease.segment] }.flatMap { lease.bytes <= $0.bytes ? $0 : nil }
    }

    func source(_ source: ChunkSource) throws -> (map: MemoryMap, offset: Int) {
        switch source {
        case .pool(let slot):
            precondition((0..<shape.slots).contains(slot), "slot \(slot) of \(shape.slots)")
            return (pool[PoolShape.segment(ofSlot: slot)], PoolShape.offset(ofSlot: slot))
        case .peer(let instance, let slot):
            guard let peer = peer.withLock({ $0 }), peer.instance == instance, (slot + 1) * Sizes.chunkBytes <= peer.map.bytes else {
                throw TierFailure(kind: .other, text: "the local tier's worker was started anew: its read buffer is gone")
            }
            return (peer.map, slot * Sizes.chunkBytes)
        }
    }
}
