// `layout-DIGEST.json`: where every box of every tensor of a step is, all ranks in one file, so that a restore in another
// sharding opens this and not every rank's header. Rows, not objects: a step of 160,000 shards is read in a fraction of a second.
//
//   {"format": "cairn-1", "worldSize": N, "ranks": [{"rank": 0, "fileBytes": B,
//      "shards":  [[name, dtype, shape, globalShape | null, offsets | null, replica | null, replicas | null, private, fileOffset, bytes], …],
//      "objects": [[name, scope, key | null, bytes, fileOffset], …]}, …], "digest": …}
//
// (1) It opens only if every shard is valid by the rules of a layout, and lies inside its file behind the one before it.
import CairnModel

public enum LayoutFile {
    public static func encode(worldSize: Int, tables: [RankTable]) -> [UInt8] {
        if let problem = problem(worldSize, tables) { preconditionFailure("a layout that lies must not be written: \(problem)") }
        var json = JSONWriter()
        json.bytes.reserveCapacity(tables.reduce(0) { $0 + $1.shards.count } * 128 + 4096)
        json.open()
        json.key("format"); json.string(FileHeader.format)
        json.key("worldSize"); json.integer(worldSize)
        json.key("ranks")
        json.openArray()
        for table in tables { append(table, to: &json) }
        json.closeArray()
        json.close()
        return Record.seal(json.bytes)
    }

    private static func append(_ table: RankTable, to json: inout JSONWriter) {
        json.open()
        json.key("rank"); json.integer(table.rank)
        json.key("fileBytes"); json.integer(table.fileBytes)
        json.key("shards")
        json.openArray()
        for stored in table.shards {
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
            json.integer(stored.fileOffset)
            json.integer(stored.bytes)
            json.closeArray()
        }
        json.closeArray()
        json.key("objects")
        json.openArray()
        for stored in table.objects {
            json.openArray()
            json.string(stored.object.name)
            json.string(stored.object.scope.rawValue)
            json.optional(stored.object.key) { json, value in json.string(value) }
            json.integer(stored.object.bytes)
            json.integer(stored.fileOffset)
            json.closeArray()
        }
        json.closeArray()
        json.close()
    }

    public static func decode(_ bytes: [UInt8]) throws(RecordError) -> (worldSize: Int, tables: [RankTable]) {
        guard bytes.count <= StoreLimits.layoutFileBytes else { throw .tooLarge(bytes: bytes.count, limit: StoreLimits.layoutFileBytes) }
        let json = try Record.open(bytes)
        var reader = JSONReader(json)
        var format: String?, worldSize: Int?, tables: [RankTable]?
        do {
            try reader.object { (reader, key) throws(JSONFault) in
                switch key {
                case "format" where format == nil: format = try reader.string()
                case "worldSize" where worldSize == nil: worldSize = try reader.integer()
                case "ranks" where tables == nil:
                    var read: [RankTable] = []
                    try reader.array { (reader) throws(JSONFault) in read.append(try table(&reader)) }
                    tables = read
                default: throw reader.fault("unknown or second '\(key)'")
                }
            }
            try reader.end()
        } catch { throw .malformed(reason: "byte \(error.offset): \(error.reason)") }
        guard format == FileHeader.format else { throw .wrongFormat(found: format ?? "") }
        guard let worldSize, let tables else { throw .malformed(reason: "worldSize or ranks is missing") }
        if let problem = problem(worldSize, tables) { throw .inconsistent(reason: problem) }
        return (worldSize, tables)
    }

    private static func table(_ reader: inout JSONReader) throws(JSONFault) -> RankTable {
        var rank: Int?, fileBytes: Int?, shards: [StoredShard]?, objects: [StoredObject]?
        try reader.object { (reader, key) throws(JSONFault) in
            switch key {
            case "rank" where rank == nil: rank = try reader.integer()
            case "fileBytes" where fileBytes == nil: fileBytes = try reader.integer()
            case "shards" where shards == nil:
                var read: [StoredShard] = []
                try reader.array { (reader) throws(JSONFault) in read.append(try shard(&reader)) }
                shards = read
            case "objects" where objects == nil:
                var read: [StoredObject] = []
                try reader.array { (reader) throws(JSONFault) in read.append(try object(&reader)) }
                objects = read
            default: throw reader.fault("unknown or second '\(key)'")
            }
        }
        guard let rank, let fileBytes, let shards, let objects else { throw reader.fault("a rank lacks a member") }
        return RankTable(rank: rank, fileBytes: fileBytes, shards: shards, objects: objects)
    }

    private static func shard(_ reader: inout JSONReader) throws(JSONFault) -> StoredShard {
        try reader.take("[")
        var shard = Shard(name: try reader.string(), dtype: "", shape: [])
        try reader.take(",")
        shard.dtype = try reader.string()
        try reader.take(",")
        shard.shape = try reader.integers(limit: StoreLimits.dimensions)
        try reader.take(",")
        shard.globalShape = reader.null() ? nil : try reader.integers(limit: StoreLimits.dimensions)
        try reader.take(",")
        shard.offsets = reader.null() ? nil : try reader.integers(limit: StoreLimits.dimensions)
        try reader.take(",")
        shard.replica = reader.null() ? nil : try reader.integer()
        try reader.take(",")
        shard.replicas = reader.null() ? nil : try reader.integer()
        try reader.take(",")
        shard.isPrivate = try reader.boolean()
        try reader.take(",")
        let fileOffset = try reader.integer()
        try reader.take(",")
        let bytes = try reader.integer()
        try reader.take("]")
        return StoredShard(shard: shard, fileOffset: fileOffset, bytes: bytes)
    }

    private static func object(_ reader: inout JSONReader) throws(JSONFault) -> StoredObject {
        try reader.take("[")
        let name = try reader.string()
        try reader.take(",")
        guard let scope = ObjectScope(rawValue: try reader.string()) else { throw reader.fault("unknown scope of '\(name)'") }
        try reader.take(",")
        let key = reader.null() ? nil : try reader.string()
        try reader.take(",")
        let bytes = try reader.integer()
        try reader.take(",")
        let fileOffset = try reader.integer()
        try reader.take("]")
        return StoredObject(object: ObjectInfo(name: name, scope: scope, key: key, bytes: bytes), fileOffset: fileOffset)
    }

    /// What is wrong with a set of tables, nil if nothing. Tiling is checked by the commit, not here.
    static func problem(_ worldSize: Int, _ tables: [RankTable]) -> String? {
        guard (1...StoreLimits.worldSize).contains(worldSize) else { return "world size \(worldSize)" }
        var previous = -1
        for table in tables {
            guard table.rank > previous, table.rank < worldSize else { return "rank \(table.rank) is out of order or outside the world of \(worldSize)" }
            previous = table.rank
            guard (Sizes.alignment...StoreLimits.fileBytes).contains(table.fileBytes) else { return "rank \(table.rank): a file of \(table.fileBytes) bytes" }
            var end = Sizes.alignment
            func place(_ name: String, _ offset: Int, _ bytes: Int) -> String? {
                guard offset >= end, bytes >= 0, offset <= table.fileBytes, bytes <= table.fileBytes - offset else {
                    return "rank \(table.rank): '\(name)' lies at \(offset) with \(bytes) bytes, outside its file or inside another"
                }
                end = offset + bytes
                return nil
            }
            for stored in table.shards {
                let checked: CheckedShard
                do { checked = try CheckedShard(stored.shard) } catch { return "rank \(table.rank): \(error)" }
                guard checked.bytes == stored.bytes, checked.shard == stored.shard else { return "rank \(table.rank): '\(stored.shard.name)' has \(stored.bytes) bytes" }
                if let problem = place(stored.shard.name, stored.fileOffset, stored.bytes) { return problem }
            }
            for stored in table.objects {
                if let problem = place(stored.object.name, stored.fileOffset, stored.object.bytes) { return problem }
            }
        }
        return nil
    }
}

extension JSONWriter {
    fileprivate mutating func optional<Value>(_ value: Value?, _ write: (inout JSONWriter, Value) -> Void) {
        if let value { write(&self, value) } else { literal("null") }
    }
}
