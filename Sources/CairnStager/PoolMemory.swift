// The pool's segments, mapped writable: the stager is the only process that writes them.
import CairnIO
import CairnMessages
import CairnModel

final class PoolMemory: Sendable {
    let shape: PoolShape
    private let maps: [MemoryMap]

    init(_ shape: PoolShape, segments: [Descriptor]) throws(IOFailure) {
        precondition(segments.count == shape.segments, "\(segments.count) segments of \(shape.segments)")
        self.shape = shape
        var maps: [MemoryMap] = []
        for (index, segment) in segments.enumerated() {
            let map = try MemoryMap(segment, bytes: shape.bytes(ofSegment: index), writable: true)
            map.adviseHugePages()       // fewer faults and faster copies where the kernel has them for shared memory
            maps.append(map)
        }
        self.maps = maps
    }

    var bytes: Int { shape.slots * Sizes.chunkBytes }

    func place(ofSlot slot: Int) -> (map: MemoryMap, offset: Int) {
        precondition((0..<shape.slots).contains(slot), "slot \(slot) of \(shape.slots)")
        return (maps[PoolShape.segment(ofSlot: slot)], PoolShape.offset(ofSlot: slot))
    }

    /// A range of source offsets (slot * chunkBytes + offset), cut where segments end; nil when it is outside the pool.
    func ranges(_ offset: Int, _ bytes: Int) -> [(map: MemoryMap, offset: Int, bytes: Int)]? {
        guard offset >= 0, bytes >= 0, offset <= self.bytes, bytes <= self.bytes - offset else { return nil }
        var ranges: [(map: MemoryMap, offset: Int, bytes: Int)] = [], at = offset
        while at < offset + bytes {
            let segment = at / PoolShape.segmentBytes, within = at % PoolShape.segmentBytes
            let count = min(offset + bytes - at, maps[segment].bytes - within)
            ranges.append((maps[segment], within, count))
            at += count
        }
        return ranges
    }
}
