// The strict reader of a layout file: every member once and nothing else, numbers that overflow nowhere.
import CairnModel

extension LayoutFile {
    public static func decode(_ bytes: [UInt8]) throws(RecordError) -> StoredLayout {
        guard bytes.count <= StoreLimits.layoutFileBytes else { throw .tooLarge(bytes: bytes.count, limit: StoreLimits.layoutFileBytes) }
        let json = try Record.open(bytes)
        var reader = JSONReader(json)
        var format: String?, worldSize: Int?, runs: [RankRun]?, sets: [[Tag]]?, rows: [Row]?
        do {
            try reader.object { (reader, key) throws(JSONFault) in
                switch key {
                case "format" where format == nil: format = try reader.string()
                case "worldSize" where worldSize == nil: worldSize = try reader.integer()
                case "runs" where runs == nil:
                    var read: [RankRun] = []
                    try reader.array { (reader) throws(JSONFault) in read.append(try run(&reader)) }
                    runs = read
                case "objects" where sets == nil:
                    var read: [[Tag]] = []
                    try reader.array { (reader) throws(JSONFault) in
                        var set: [Tag] = []
                        try reader.array { (reader) throws(JSONFault) in set.append(try tag(&reader)) }
                        read.append(set)
                    }
                    sets = read
                case "files" where rows == nil:
                    var read: [Row] = []
                    try reader.array { (reader) throws(JSONFault) in read.append(try row(&reader)) }
                    rows = read
                default: throw reader.fault("unknown or second '\(key)'")
                }
            }
            try reader.end()
        } catch { throw .malformed(reason: "byte \(error.offset): \(error.reason)") }
        guard format == FileHeader.format else { throw .wrongFormat(found: format ?? "") }
        guard let worldSize, let runs, let sets, let rows else { throw .malformed(reason: "a member is missing") }
        return try layout(worldSize, runs, sets, rows)
    }

    private struct Row { let rank: Int, dataStart: Int, set: Int, bytes: [Int] }

    /// Puts together what the members say; `problem` then checks it as a whole.
    private static func layout(_ worldSize: Int, _ runs: [RankRun], _ sets: [[Tag]], _ rows: [Row]) throws(RecordError) -> StoredLayout {
        guard (1...StoreLimits.worldSize).contains(worldSize) else { throw .inconsistent(reason: "world size \(worldSize)") }
        var dataBytes: [Int: Int] = [:], members = 0
        for run in runs {
            guard StoredLayout.isPossible(run, worldSize) else {
                throw .inconsistent(reason: "a run of \(run.count) ranks from \(run.first) by \(run.stride)")
            }
            // A few bytes can say a run of a million ranks; all runs together have as many as there are files.
            members += run.count
            guard members <= rows.count else { throw .inconsistent(reason: "the runs hold more than \(rows.count) files") }
            for member in 0..<run.count { dataBytes[run.rank(member)] = run.dataBytes }
        }
        var files: [StoredFile] = []
        files.reserveCapacity(rows.count)
        for row in rows {
            guard sets.indices.contains(row.set), sets[row.set].count == row.bytes.count, let bytes = dataBytes[row.rank],
                  (0...StoreLimits.fileBytes).contains(row.dataStart) else {
                throw .inconsistent(reason: "rank \(row.rank) is in no run, or its objects are not what is said of them")
            }
            var end = row.dataStart + bytes, objects: [StoredObject] = []
            for (tag, bytes) in zip(sets[row.set], row.bytes) {
                guard (0...StoreLimits.fileBytes).contains(bytes) else { throw .inconsistent(reason: "rank \(row.rank): object '\(tag.name)' has \(bytes) bytes") }
                objects.append(StoredObject(object: ObjectInfo(name: tag.name, scope: tag.scope, key: tag.key, bytes: bytes), fileOffset: end))
                end += bytes
                guard end <= StoreLimits.fileBytes else { throw .inconsistent(reason: "rank \(row.rank): a file of more than \(StoreLimits.fileBytes) bytes") }
            }
            files.append(StoredFile(rank: row.rank, dataStart: row.dataStart, fileBytes: end, objects: objects))
        }
        let layout = StoredLayout(worldSize: worldSize, runs: runs, files: files)
        if let problem = layout.problem() { throw .inconsistent(reason: problem) }
        return layout
    }

    private static func run(_ reader: inout JSONReader) throws(JSONFault) -> RankRun {
        var first: Int?, stride: Int?, count: Int?, shards: [StoredShard]?, moves: [[Int]] = []
        try reader.object { (reader, key) throws(JSONFault) in
            switch key {
            case "first" where first == nil: first = try reader.integer()
            case "stride" where stride == nil: stride = try reader.integer()
            case "count" where count == nil: count = try reader.integer()
            case "shards" where shards == nil:
                var read: [StoredShard] = [], end = 0
                try reader.array { (reader) throws(JSONFault) in
                    let (shard, move) = try self.shard(&reader)
                    guard let dtype = DType(rawValue: shard.dtype), let bytes = CheckedShard.bytes(shard.shape, dtype), bytes <= StoreLimits.fileBytes - end else {
                        throw reader.fault("'\(shard.name)' has an unknown type or no possible size")
                    }
                    read.append(StoredShard(shard: shard, fileOffset: end, bytes: bytes))
                    moves.append(move)
                    end += bytes
                }
                shards = read
            default: throw reader.fault("unknown or second '\(key)'")
            }
        }
        guard let first, let stride, let count, let shards else { throw reader.fault("a run lacks a member") }
        return RankRun(first: first, stride: stride, count: count, shards: shards, moves: moves)
    }

    private static func shard(_ reader: inout JSONReader) throws(JSONFault) -> (shard: Shard, move: [Int]) {
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
        let move = reader.null() ? [] : try reader.integers(limit: StoreLimits.dimensions)
        try reader.take("]")
        return (shard, move)
    }

    private static func tag(_ reader: inout JSONReader) throws(JSONFault) -> Tag {
        try reader.take("[")
        let name = try reader.string()
        try reader.take(",")
        guard let scope = ObjectScope(rawValue: try reader.string()) else { throw reader.fault("unknown scope of '\(name)'") }
        try reader.take(",")
        let key = reader.null() ? nil : try reader.string()
        try reader.take("]")
        return Tag(name: name, scope: scope, key: key)
    }

    private static func row(_ reader: inout JSONReader) throws(JSONFault) -> Row {
        try reader.take("[")
        let rank = try reader.integer()
        try reader.take(",")
        let dataStart = try reader.integer()
        try reader.take(",")
        let set = try reader.integer()
        try reader.take(",")
        let bytes = try reader.integers(limit: StoreLimits.objects)
        try reader.take("]")
        return Row(rank: rank, dataStart: dataStart, set: set, bytes: bytes)
    }
}
