// `layout-DIGEST.json`: where every box of every tensor of a step is, all ranks in one file, so that a restore in another sharding opens
// this and not every rank's header. Every node reads it at a restore, so it must not grow with ranks x tensors: ranks that hold the
// same in the same shapes are one run (StoredLayout).
//
//   {"format": "cairn-1", "worldSize": N,
//    "runs": [{"first": rank, "stride": S, "count": C,
//              "shards": [[name, dtype, shape, globalShape | null, offsets | null, replica | null, replicas | null, private, move | null], …]}, …],
//    "objects": [[[name, scope, key | null], …], …],                 // sets of objects; ranks mostly share one
//    "files": [[rank, dataStart, set, [bytes of each object]], …], "digest": …}
//
// (1) Shards lie back to back from dataStart, the objects behind them: what follows from that is not written, so it cannot be a lie.
// (2) It opens only if every shard is valid by the rules of a layout.
import CairnModel

public enum LayoutFile {
    public static func encode(worldSize: Int, tables: [RankTable]) -> [UInt8] { encode(StoredLayout(worldSize: worldSize, tables: tables)) }

    public static func encode(_ layout: StoredLayout) -> [UInt8] {
        if let problem = layout.problem() { preconditionFailure("a layout that lies must not be written: \(problem)") }
        var json = JSONWriter()
        json.bytes.reserveCapacity(layout.runs.reduce(0) { $0 + $1.shards.count } * 160 + layout.files.count * 40 + 4096)
        json.open()
        json.key("format"); json.string(FileHeader.format)
        json.key("worldSize"); json.integer(layout.worldSize)
        json.key("runs")
        json.openArray()
        for run in layout.runs { append(run, to: &json) }
        json.closeArray()
        var sets: [[Tag]] = [], positions: [[Tag]: Int] = [:]
        for file in layout.files {
            let tags = file.objects.map { Tag(name: $0.object.name, scope: $0.object.scope, key: $0.object.key) }
            guard positions[tags] == nil else { continue }
            positions[tags] = sets.count
            sets.append(tags)
        }
        json.key("objects")
        json.openArray()
        for set in sets {
            json.openArray()
            for tag in set {
                json.openArray()
                json.string(tag.name)
                json.string(tag.scope.rawValue)
                json.optional(tag.key) { json, value in json.string(value) }
                json.closeArray()
            }
            json.closeArray()
        }
        json.closeArray()
        json.key("files")
        json.openArray()
        for file in layout.files {
            json.openArray()
            json.integer(file.rank)
            json.integer(file.dataStart)
            json.integer(positions[file.objects.map { Tag(name: $0.object.name, scope: $0.object.scope, key: $0.object.key) }] ?? 0)
            json.integers(file.objects.map(\.object.bytes))
            json.closeArray()
        }
        json.closeArray()
        json.close()
        return Record.seal(json.bytes)
    }

    private static func append(_ run: RankRun, to json: inout JSONWriter) {
        json.open()
        json.key("first"); json.integer(run.first)
        json.key("stride"); json.integer(run.stride)
        json.key("count"); json.integer(run.count)
        json.key("shards")
        json.openArray()
        for (stored, move) in zip(run.shards, run.moves) {
            let shard = stored.shard
            json.openArray()
            json.string(shard.name)
            json.string(shard.dtype)
            json.integers(shard.shape)
            json.optional(shard.globalShape) { json, value in json.integers(value) }
            json.optional(shard.offsets) { json, value in json.integers(value) }
            json.optional(shard.replica) { json, value in json.integer(value) }
            json.optional(shard.replicas) { json, value in json.integer(value) }
            json.literal(shard.isPrivate ? "true" : "false")
            json.optional(move.isEmpty ? nil : move) { json, value in json.integers(value) }
            json.closeArray()
        }
        json.closeArray()
        json.close()
    }

    /// An object without its bytes.
    struct Tag: Hashable { let name: String, scope: ObjectScope, key: String? }
}

extension JSONWriter {
    fileprivate mutating func optional<Value>(_ value: Value?, _ write: (inout JSONWriter, Value) -> Void) {
        if let value { write(&self, value) } else { literal("null") }
    }
}
