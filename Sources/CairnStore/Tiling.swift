// Whether the boxes of all ranks tile each global tensor exactly: every element once, or once per declared replica.
// Inside the tensor (a layout's rule), no two overlap, and their volumes add up to the whole: then there is no gap either.
// Overlaps are found by a sweep along the dimension with the most distinct offsets, so that any one-dimensional sharding
// costs n log n, and a grid of them n times its other side.
import CairnModel

public enum Tiling {
    private struct Part {
        let rank: Int
        let shard: Shard
        var offsets: [Int]
        var shape: [Int] { shard.shape }
        var isEmpty: Bool { shard.shape.contains(0) }
    }

    public static func check(tables: [RankTable]) throws(TilingError) {
        var ranks: Set<Int> = []
        for table in tables {
            guard ranks.insert(table.rank).inserted else { throw .rankTwice(table.rank) }
        }
        var slots: [String: Int] = [:]
        var names: [String] = []
        var parts: [[Part]] = []
        for table in tables {
            for stored in table.shards where !stored.shard.isPrivate {
                let part = Part(rank: table.rank, shard: stored.shard,
                                offsets: stored.shard.offsets ?? Array(repeating: 0, count: stored.shard.shape.count))
                if let slot = slots[stored.shard.name] {
                    parts[slot].append(part)
                } else {
                    slots[stored.shard.name] = parts.count
                    names.append(stored.shard.name)
                    parts.append([part])
                }
            }
        }
        for slot in parts.indices { try check(names[slot], parts[slot]) }
    }

    private static func check(_ name: String, _ parts: [Part]) throws(TilingError) {
        let whole = parts[0].shard.globalShape ?? parts[0].shard.shape
        for part in parts.dropFirst() {
            let other = part.shard.globalShape ?? part.shard.shape
            guard other == whole else { throw .shapesDiffer(name: name, ranks: [parts[0].rank, part.rank], reason: "global shapes \(whole) and \(other)") }
            guard part.shard.dtype == parts[0].shard.dtype else {
                throw .shapesDiffer(name: name, ranks: [parts[0].rank, part.rank], reason: "dtypes \(parts[0].shard.dtype) and \(part.shard.dtype)")
            }
        }
        // Empty parts are usual where a tensor has fewer rows than the world has ranks; they hold nothing that could be wrong.
        let boxes = try distinct(name, parts.filter { !$0.isEmpty })
        let missing = volume(whole) - boxes.reduce(0) { $0 + volume($1.shape) }
        if boxes.count > 1 { try checkOverlap(name, boxes, dimensions: whole.count) }
        guard missing == 0 else { throw .incomplete(name: name, ranks: parts.map(\.rank), missingElements: missing) }
    }

    /// One part per box, after checking that equal boxes are declared and complete replicas.
    private static func distinct(_ name: String, _ parts: [Part]) throws(TilingError) -> [Part] {
        let sorted = parts.sorted { left, right in
            if left.offsets != right.offsets { return left.offsets.lexicographicallyPrecedes(right.offsets) }
            if left.shape != right.shape { return left.shape.lexicographicallyPrecedes(right.shape) }
            return left.rank < right.rank
        }
        var boxes: [Part] = []
        var begin = 0
        while begin < sorted.count {
            var end = begin + 1
            while end < sorted.count, sorted[end].offsets == sorted[begin].offsets, sorted[end].shape == sorted[begin].shape { end += 1 }
            let equal = sorted[begin..<end]
            let ranks = equal.map(\.rank)
            if equal.contains(where: { ($0.shard.replicas ?? 1) != (sorted[begin].shard.replicas ?? 1) }) {
                throw .shapesDiffer(name: name, ranks: ranks, reason: "how many replicas there are")
            }
            let replicas = sorted[begin].shard.replicas ?? 1
            if equal.count > 1 && replicas == 1 { throw .undeclaredReplicas(name: name, ranks: ranks) }
            if equal.count != replicas || Set(equal.map { $0.shard.replica ?? 0 }).count != replicas {
                throw .replicasIncomplete(name: name, ranks: ranks, replicas: replicas)
            }
            boxes.append(sorted[begin])
            begin = end
        }
        return boxes
    }

    private static func checkOverlap(_ name: String, _ boxes: [Part], dimensions: Int) throws(TilingError) {
        let axis = (0..<dimensions).max { left, right in
            Set(boxes.map { $0.offsets[left] }).count < Set(boxes.map { $0.offsets[right] }).count
        }
        guard let axis else { throw .overlap(name: name, ranks: boxes.map(\.rank)) }      // two boxes of a 0-d tensor
        let sorted = boxes.sorted { $0.offsets[axis] < $1.offsets[axis] }
        var active: [Part] = []
        for box in sorted {
            active.removeAll { $0.offsets[axis] + $0.shape[axis] <= box.offsets[axis] }
            for other in active where overlap(box, other) { throw .overlap(name: name, ranks: [other.rank, box.rank].sorted()) }
            active.append(box)
        }
    }

    private static func overlap(_ left: Part, _ right: Part) -> Bool {
        left.offsets.indices.allSatisfy { dimension in
            left.offsets[dimension] < right.offsets[dimension] + right.shape[dimension]
                && right.offsets[dimension] < left.offsets[dimension] + left.shape[dimension]
        }
    }

    /// Cannot overflow: a layout's rules bound the bytes of global shapes.
    private static func volume(_ shape: [Int]) -> Int { shape.reduce(1, *) }
}
