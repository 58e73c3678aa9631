// The head of one rank's file: a valid safetensors header, so that stock tools read the file as it is.
//
//   0           u64 LE: bytes of JSON that follow
//   8           JSON, padded with spaces so that data begins at a multiple of 4096 (O_DIRECT, page-aligned views)
//   dataStart   tensors in the layout's order, back to back; then objects in the order given; then the file ends
//
//   {"__metadata__": {"format": "pt",                  // what transformers and others insist on
//                     "cairn.format": "cairn-1", "cairn.layout": DIGEST, "run", "step", "save", "rank", "worldSize",
//                     "DCP_SHARDING_INFO": "{NAME: {\"saved_offsets\": […]}, …}",   // every key: torch's reader needs each
//                     "cairn.table": "{NAME: {dtype, globalShape, private, replica, replicas | scope, key}, …}"},
//    "NAME": {"dtype": …, "shape": […], "data_offsets": [begin, end]}, …,      // private tensors: "rank-00003/NAME"
//    "cairn.object.00003.NAME": {"dtype": "U8", "shape": [bytes], …}, …}
//
// (1) Keys stand in the order of their bytes, without gap or overlap, and the last one ends where the file ends.
// (2) The tensors' part is rendered once per layout; a save adds its metadata and objects.
import CairnModel

public enum FileHeader {
    public static let format = "cairn-1"

    public static func make(layout: Layout, objects: [ObjectInfo], run: RunKey, save: SaveID,
                            rank: Int, worldSize: Int) throws(FileHeaderError) -> FilePlan {
        precondition(layout.rank == rank && layout.worldSize == worldSize, "the layout was made for this rank")
        let ends = try objectEnds(objects, of: layout)
        let objectKeys = objects.map { Names.objectPrefix(rank: rank) + $0.name }

        // The objects' members; they follow the layout's, which are megabytes where tensors are many and are copied once.
        var sharding = JSONWriter(quoting: true), table = JSONWriter(quoting: true), tensors = JSONWriter()
        var begin = layout.dataBytes
        for (index, object) in objects.enumerated() {
            tensors.tensor(objectKeys[index], .u8, [object.bytes], begin: begin, end: ends[index])
            begin = ends[index]
            sharding.key(objectKeys[index]); sharding.open(); sharding.key("saved_offsets"); sharding.integers([0]); sharding.close()
            table.key(objectKeys[index]); table.open()
            if let key = object.key { table.key("key"); table.string(key) }
            table.key("scope"); table.string(object.scope.rawValue)
            table.close()
        }

        var json = JSONWriter()
        json.bytes.reserveCapacity([layout.rendered.sharding, layout.rendered.table, layout.rendered.tensors, sharding.bytes, table.bytes, tensors.bytes]
            .reduce(2 * Sizes.alignment) { $0 + $1.count })
        json.bytes.append(contentsOf: repeatElement(0, count: 8))
        json.open()
        json.key("__metadata__")
        json.open()
        for (key, value) in [("format", "pt"), ("cairn.format", format), ("cairn.layout", layout.digest), ("run", run.name),
                             ("step", "\(save.step)"), ("save", "\(save)"), ("rank", "\(rank)"), ("worldSize", "\(worldSize)")] {
            json.key(key)
            json.string(value)
        }
        json.key("DCP_SHARDING_INFO")
        json.quoted(members: layout.rendered.sharding, sharding.bytes)
        json.key("cairn.table")
        json.quoted(members: layout.rendered.table, table.bytes)
        json.close()
        json.rendered(layout.rendered.tensors)
        json.rendered(tensors.bytes)
        json.close()

        var header = json.bytes
        json.bytes = []
        let dataStart = (header.count + Sizes.alignment - 1) / Sizes.alignment * Sizes.alignment
        guard dataStart - 8 <= StoreLimits.headerBytes else {
            throw .headerTooLarge(bytes: dataStart - 8, limit: StoreLimits.headerBytes)
        }
        for at in 0..<8 { header[at] = UInt8(truncatingIfNeeded: (dataStart - 8) >> (8 * at)) }
        header.append(contentsOf: repeatElement(UInt8(ascii: " "), count: dataStart - header.count))

        let storedObjects = objects.enumerated().map { index, object in
            StoredObject(object: object, fileOffset: dataStart + ends[index] - object.bytes)
        }
        let fileBytes = dataStart + (ends.last ?? layout.dataBytes)
        return FilePlan(headerBytes: header, dataStart: dataStart, fileBytes: fileBytes, objects: storedObjects, layout: layout)
    }

    /// Checks the objects, and where each one ends in the data.
    private static func objectEnds(_ objects: [ObjectInfo], of layout: Layout) throws(FileHeaderError) -> [Int] {
        guard objects.count <= StoreLimits.objects else {
            throw .layout(.tooMany(what: "objects in one rank", count: objects.count, limit: StoreLimits.objects))
        }
        var names: Set<String> = []
        var ends: [Int] = []
        var end = layout.dataBytes
        for object in objects {
            func invalid(_ reason: String) -> FileHeaderError { .layout(.invalidObject(name: object.name, reason: reason)) }
            if let reason = CheckedShard.problem(ofName: object.name) { throw invalid(reason) }
            guard !layout.names.contains(object.name), names.insert(object.name).inserted else { throw invalid("another object or shard of this rank has the same name") }
            guard object.bytes >= 0 else { throw invalid("\(object.bytes) bytes") }
            guard (object.key != nil) == (object.scope == .keyed) else {
                throw invalid("a key belongs to the scope keyed, and to no other")
            }
            if let key = object.key, let reason = CheckedShard.problem(ofName: key) { throw invalid("its key: \(reason)") }
            let (sum, overflow) = end.addingReportingOverflow(object.bytes)
            guard !overflow, sum <= StoreLimits.fileBytes else {
                throw .layout(.tooLarge(what: "the file of rank \(layout.rank)", bytes: overflow ? Int.max : sum, limit: StoreLimits.fileBytes))
            }
            end = sum
            ends.append(end)
        }
        return ends
    }
}
