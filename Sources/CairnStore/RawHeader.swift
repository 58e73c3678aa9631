// A header's JSON as it stands, before anything it says is believed: keys in their order, each once.
import CairnModel

struct RawTensor {
    var key: String
    var dtype = "", shape: [Int] = []
    var begin = 0, end = 0
}

struct RawHeader {
    var metadata: [String: String] = [:]
    var tensors: [RawTensor] = []

    init(_ json: [UInt8]) throws(FileHeaderError) {
        var reader = JSONReader(json)
        var keys: Set<String> = []
        // The reader's errors are positions in JSON; ours say what they mean, so one of ours is carried out of the closure.
        var problem: FileHeaderError?
        var metadata: [String: String] = [:], tensors: [RawTensor] = []
        do {
            try reader.object { (reader, key) throws(JSONFault) in
                guard keys.insert(key).inserted else { problem = problem ?? .duplicateKey(key); throw reader.fault("") }
                guard key == "__metadata__" else {
                    guard tensors.count < StoreLimits.shards + StoreLimits.objects else { throw reader.fault("too many tensors") }
                    tensors.append(try Self.tensor(key, &reader, &problem))
                    return
                }
                try reader.object { (reader, name) throws(JSONFault) in
                    let value = try reader.string()
                    guard metadata.updateValue(value, forKey: name) == nil else { problem = problem ?? .duplicateKey(name); throw reader.fault("") }
                }
            }
            try reader.end()
        } catch { throw problem ?? .malformed(reason: error.reason, offset: error.offset) }
        self.metadata = metadata
        self.tensors = tensors
    }

    private static func tensor(_ key: String, _ reader: inout JSONReader, _ problem: inout FileHeaderError?) throws(JSONFault) -> RawTensor {
        var tensor = RawTensor(key: key)
        // Of these three fields: a set of strings for each tensor would be most of the work.
        var hasType = false, hasShape = false, hasOffsets = false
        var found: FileHeaderError?
        try reader.object { (reader, field) throws(JSONFault) in
            func first(_ seen: inout Bool) throws(JSONFault) {
                guard !seen else { found = .duplicateKey("\(key).\(field)"); throw reader.fault("") }
                seen = true
            }
            switch field {
            case "dtype":
                try first(&hasType)
                tensor.dtype = try reader.string()
            case "shape":
                try first(&hasShape)
                tensor.shape = try reader.integers(limit: StoreLimits.dimensions + 1)
            case "data_offsets":
                try first(&hasOffsets)
                let offsets = try reader.integers(limit: 2)
                guard offsets.count == 2 else { throw reader.fault("data_offsets of '\(key)' are not two numbers") }
                (tensor.begin, tensor.end) = (offsets[0], offsets[1])
            default:
                found = .unknownField(tensor: key, field: field)
                throw reader.fault("")
            }
        } onFault: { problem = problem ?? found }
        guard hasType, hasShape, hasOffsets else { throw reader.fault("'\(key)' lacks dtype, shape or data_offsets") }
        return tensor
    }
}

extension JSONReader {
    /// As `object`; `onFault` runs before the fault is passed on.
    fileprivate mutating func object(_ member: (inout JSONReader, String) throws(JSONFault) -> Void,
                                     onFault: () -> Void) throws(JSONFault) {
        do { try object(member) } catch {
            onFault()
            throw error
        }
    }
}

/// What `cairn.table` says of one key.
struct TableEntry {
    var dtype: String?, globalShape: [Int]?, replica: Int?, replicas: Int?
    var isPrivate = false
    var scope: String?, key: String?
}

/// `__metadata__` of one of our files.
struct HeaderMetadata {
    var runName: String, layoutDigest: String
    var save: SaveID, rank: Int, worldSize: Int
    var sharding: [String: [Int]] = [:]
    var table: [String: TableEntry] = [:]

    init(_ metadata: [String: String]) throws(FileHeaderError) {
        guard metadata["cairn.format"] == FileHeader.format else { throw .notCairn(format: metadata["cairn.format"] ?? metadata["format"]) }
        func text(_ key: String) throws(FileHeaderError) -> String {
            guard let value = metadata[key] else { throw .missingMetadata(key: key) }
            return value
        }
        func number(_ key: String) throws(FileHeaderError) -> Int {
            let value = try text(key)
            guard let number = Int(value), number >= 0, "\(number)" == value else { throw .badMetadata(key: key, value: value) }
            return number
        }
        runName = try text("run")
        guard RunKey.isValidName(runName) else { throw .badMetadata(key: "run", value: runName) }
        let saveText = try text("save")
        guard let save = SaveID(saveText), save.step == (try number("step")) else { throw .badMetadata(key: "save", value: saveText) }
        self.save = save
        rank = try number("rank")
        worldSize = try number("worldSize")
        guard rank < worldSize else { throw .badMetadata(key: "rank", value: "\(rank) of \(worldSize)") }
        layoutDigest = try text("cairn.layout")
        try readSharding(try text("DCP_SHARDING_INFO"))
        try readTable(try text("cairn.table"))
    }

    private mutating func readSharding(_ text: String) throws(FileHeaderError) {
        var reader = JSONReader(Array(text.utf8))
        var sharding: [String: [Int]] = [:]
        // About as many as there are names of this length: growing a table copies it.
        sharding.reserveCapacity(min(text.utf8.count / 64, StoreLimits.shards))
        do {
            try reader.object { (reader, name) throws(JSONFault) in
                var offsets: [Int]?
                try reader.object { (reader, field) throws(JSONFault) in
                    guard field == "saved_offsets", offsets == nil else { throw reader.fault("'\(name)' has an unknown or second '\(field)'") }
                    offsets = try reader.integers(limit: StoreLimits.dimensions + 1)
                }
                guard let offsets else { throw reader.fault("'\(name)' lacks saved_offsets") }
                guard sharding.updateValue(offsets, forKey: name) == nil else { throw reader.fault("'\(name)' stands twice") }
            }
            try reader.end()
        } catch { throw .badMetadata(key: "DCP_SHARDING_INFO", value: "byte \(error.offset): \(error.reason)") }
        self.sharding = sharding
    }

    private mutating func readTable(_ text: String) throws(FileHeaderError) {
        var reader = JSONReader(Array(text.utf8))
        var table: [String: TableEntry] = [:]
        do {
            try reader.object { (reader, name) throws(JSONFault) in
                var entry = TableEntry()
                // A handful of fields: looking through them is quicker than a set of each entry's.
                var seen: [String] = []
                try reader.object { (reader, field) throws(JSONFault) in
                    guard !seen.contains(field) else { throw reader.fault("'\(name)' has '\(field)' twice") }
                    seen.append(field)
                    switch field {
                    case "dtype": entry.dtype = try reader.string()
                    case "globalShape": entry.globalShape = try reader.integers(limit: StoreLimits.dimensions)
                    case "replica": entry.replica = try reader.integer()
                    case "replicas": entry.replicas = try reader.integer()
                    case "private": entry.isPrivate = try reader.boolean()
                    case "scope": entry.scope = try reader.string()
                    case "key": entry.key = try reader.string()
                    default: throw reader.fault("'\(name)' has the unknown field '\(field)'")
                    }
                }
                guard table.updateValue(entry, forKey: name) == nil else { throw reader.fault("'\(name)' stands twice") }
            }
            try reader.end()
        } catch { throw .badMetadata(key: "cairn.table", value: "byte \(error.offset): \(error.reason)") }
        self.table = table
    }
}
