// Whether the boxes of all ranks tile each global tensor exactly: every element once, or once per declared replica.
// Inside the tensor (a layout's rule), no two overlap, and their volumes add up to the whole: then there is no gap either.
// Overlaps are found by a sweep along the dimension with the most distinct offsets, so that any one-dimensional sharding
// costs n log n, and a grid of them n times its other side.
// Ranges of the flattened tensor are boxes of one dimension, and tile it likewise.
// In a large world most boxes are of runs of ranks whose boxes abut: such a run is one box, and only what does not tile so, or holds
// replicas, is looked at rank by rank, which also names the ranks that are wrong.
import CairnModel

public enum Tiling {
    private struct Part {
        let rank: Int
        let shard: Shard
        var offsets: [Int], shape: [Int]
        var isEmpty: Bool { shape.contains(0) }
    }

    public static func check(tables: [RankTable]) throws(TilingError) {
        var ranks: Set<Int> = []
        for table in tables {
            guard ranks.insert(table.rank).inserted else { throw .rankTwice(table.rank) }
        }
        // A world of any size is right here: only boxes are looked at.
        try check(StoredLayout(worldSize: StoreLimits.worldSize, tables: tables))
    }

    public static func check(_ layout: StoredLayout) throws(TilingError) {
        var slots: [String: Int] = [:], names: [String] = [], places: [[(run: RankRun, index: Int)]] = []
        for run in layout.runs {
            for (index, stored) in run.shards.enumerated() where !stored.shard.isPrivate {
                if let slot = slots[stored.shard.name] { places[slot].append((run, index)) } else {
                    slots[stored.shard.name] = places.count
                    names.append(stored.shard.name)
                    places.append([(run, index)])
                }
            }
        }
        for (slot, places) in places.enumerated() where !tiles(places) {
            var parts: [Part] = []
            for (run, index) in places {
                let shard = run.shards[index].shard
                for member in 0..<run.count {
                    let offsets = run.offsets(ofShard: index, member) ?? Array(repeating: 0, count: shard.shape.count)
                    parts.append(Part(rank: run.rank(member), shard: shard, offsets: offsets, shape: shard.shape))
                }
            }
            try check(names[slot], parts.sorted { $0.rank < $1.rank })
        }
    }

    /// Whether the runs of one tensor, each as one box, tile it. False says only that nobody knows yet.
    private static func tiles(_ places: [(run: RankRun, index: Int)]) -> Bool {
        let first = places[0].run.shards[places[0].index].shard, whole = first.space
        var boxes: [Part] = []
        for (run, index) in places {
            let shard = run.shards[index].shard
            guard shard.dtype == first.dtype, differs(shard, first) == nil, shard.replicas == nil else { return false }
            var box = Part(rank: run.first, shard: shard, offsets: shard.offsets ?? Array(repeating: 0, count: whole.count), shape: shard.shape)
            guard !box.isEmpty else { continue }
            if run.count > 1 {
                let move = run.moves[index], moving = move.indices.filter { move[$0] != 0 }
                guard moving.count == 1, let axis = moving.first, abs(move[axis]) == box.shape[axis] else { return false }
                if move[axis] < 0 { box.offsets[axis] += move[axis] * (run.count - 1) }
                box.shape[axis] *= run.count
            }
            boxes.append(box)
        }
        guard boxes.reduce(0, { $0 + volume($1.shape) }) == volume(whole) else { return false }
        return boxes.count < 2 || (try? checkOverlap(first.name, boxes, dimensions: whole.count)) != nil
    }

    /// How two shards' wholes differ.
    private static func differs(_ one: Shard, _ other: Shard) -> String? {
        let shapes = (one.globalShape ?? one.shape, other.globalShape ?? other.shape)
        guard shapes.0 == shapes.1 else { return "global shapes \(shapes.0) and \(shapes.1)" }
        // Each of both could be cut into the other's kind, but no saver has both, and one kind only is what stock readers put together.
        return one.isFlat == other.isFlat ? nil : "one is a box, the other a range of the flattened tensor"
    }

    private static func check(_ name: String, _ parts: [Part]) throws(TilingError) {
        let whole = parts[0].shard.space
        for part in parts.dropFirst() {
            if let reason = differs(parts[0].shard, part.shard) { throw .shapesDiffer(name: name, ranks: [parts[0].rank, part.rank], reason: reason) }
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
