// What a tier worker maps: the pool for reading, its own read buffer, and the other tier worker's buffer for reading.
import CairnIO
import CairnMessages
import CairnModel

final class TierMemory: Sendable {
    private let shape: PoolShape
    private let pool: [MemoryMap]
    let buffer: MemoryMap
    private let peer = Monitor<(instance: String, map: MemoryMap)?>(nil)

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
        buffer = try MemoryMap(last, bytes: (start.bufferSlots + TierStart.readBackSlots) * Sizes.chunkBytes, writable: true)
    }

    func setPeer(instance: String, bytes: Int, _ descriptor: Descriptor) throws {
        let map = try MemoryMap(descriptor, bytes: bytes, writable: false)
        peer.withLock { $0 = (instance, map) }
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
