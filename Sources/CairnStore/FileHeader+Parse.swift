// The strict reader of our own headers. A header proves itself: what it says is checked against the file's size, against
// its own metadata, and at last by making the layout anew and comparing order and digest. Each lie has its error.
import CairnModel

/// What a rank's file says of itself.
public struct ParsedHeader: Sendable {
    public let runName: String, save: SaveID, rank: Int, worldSize: Int
    public let layoutDigest: String, dataStart: Int
    public let table: RankTable
    /// As `make` gave it, but for the header's own bytes.
    public let plan: FilePlan
}

extension FileHeader {
    /// Bytes of the head (length field and JSON), from the file's first 8 bytes: how much to read for `parse`.
    public static func headBytes(first8: [UInt8], fileBytes: Int) throws(FileHeaderError) -> Int {
        guard first8.count >= 8 else { throw .truncated(fileBytes: fileBytes, needed: 8) }
        var length: UInt64 = 0
        for index in 0..<8 { length |= UInt64(first8[index]) << UInt64(8 * index) }
        guard length <= UInt64(StoreLimits.headerBytes) else {
            throw .headerTooLarge(bytes: Int(clamping: length), limit: StoreLimits.headerBytes)
        }
        let bytes = 8 + Int(length)
        guard bytes <= fileBytes else { throw .truncated(fileBytes: fileBytes, needed: bytes) }
        guard bytes.isMultiple(of: Sizes.alignment) else { throw .dataNotAligned(dataStart: bytes) }
        return bytes
    }

    /// `prefix`: at least the whole head.
    public static func parse(prefix: [UInt8], fileBytes: Int) throws(FileHeaderError) -> ParsedHeader {
        let dataStart = try headBytes(first8: prefix, fileBytes: fileBytes)
        guard prefix.count >= dataStart else { throw .truncated(fileBytes: prefix.count, needed: dataStart) }
        let raw = try RawHeader(Array(prefix[8..<dataStart]))
        let metadata = try HeaderMetadata(raw.metadata)

        var shards: [Shard] = [], objects: [StoredObject] = []
        var offset = 0
        var described = 0
        for tensor in raw.tensors {
            guard tensor.begin >= offset else { throw .overlap(tensor: tensor.key, begin: tensor.begin, expected: offset) }
            guard tensor.begin == offset else { throw .gap(tensor: tensor.key, begin: tensor.begin, expected: offset) }
            guard tensor.end >= tensor.begin, tensor.end <= fileBytes - dataStart else {
                throw .outOfRange(tensor: tensor.key, end: tensor.end, dataBytes: fileBytes - dataStart)
            }
            offset = tensor.end
            guard let savedOffsets = metadata.sharding[tensor.key] else { throw .missingSharding(tensor: tensor.key) }
            let extra = metadata.table[tensor.key]
            if extra != nil { described += 1 }
            if tensor.key.hasPrefix(Names.objectPrefix) {
                objects.append(try object(tensor, extra ?? TableEntry(), savedOffsets, rank: metadata.rank, dataStart: dataStart))
            } else {
                guard objects.isEmpty else { throw .badOrder(tensor: tensor.key) }
                shards.append(try shard(tensor, extra ?? TableEntry(), savedOffsets, rank: metadata.rank))
            }
        }
        guard fileBytes - dataStart == offset else { throw .trailingBytes(fileBytes: fileBytes, expected: dataStart + offset) }
        guard metadata.sharding.count == raw.tensors.count, described == metadata.table.count else {
            let keys = Set(raw.tensors.map(\.key))
            let stray = (Array(metadata.sharding.keys) + Array(metadata.table.keys)).filter { !keys.contains($0) }.min()
            throw .strayMetadata(tensor: stray ?? "")
        }

        // The layout's own rules, and its order: whatever the header claims, this is what it must have been made from.
        let layout: Layout
        do { layout = try Layout.make(shards: shards, rank: metadata.rank, worldSize: metadata.worldSize, renders: false) } catch { throw .layout(error) }
        for (index, entry) in layout.entries.enumerated() where entry.index != index || entry.dataOffset != raw.tensors[index].begin {
            throw .badOrder(tensor: entry.storedName)
        }
        guard layout.digest == metadata.layoutDigest else {
            throw .layoutMismatch(found: layout.digest, expected: metadata.layoutDigest)
        }
        for object in objects where layout.names.contains(object.object.name) { throw .duplicateKey(object.object.name) }
        let stored = layout.entries.map { StoredShard(shard: $0.shard, fileOffset: dataStart + $0.dataOffset, bytes: $0.bytes) }
        let table = RankTable(rank: metadata.rank, fileBytes: fileBytes, shards: stored, objects: objects)
        return ParsedHeader(runName: metadata.runName, save: metadata.save, rank: metadata.rank, worldSize: metadata.worldSize,
                            layoutDigest: metadata.layoutDigest, dataStart: dataStart, table: table,
                            plan: FilePlan(headerBytes: [], dataStart: dataStart, fileBytes: fileBytes, objects: objects, layout: layout))
    }

    private static func shard(_ tensor: RawTensor, _ extra: TableEntry, _ savedOffsets: [Int], rank: Int) throws(FileHeaderError) -> Shard {
        let key = tensor.key
        guard let stored = DType(rawValue: tensor.dtype), stored.stored == stored else { throw .unknownDType(tensor: key, dtype: tensor.dtype) }
        guard let dtype = DType(rawValue: extra.dtype ?? tensor.dtype) else { throw .unknownDType(tensor: key, dtype: extra.dtype ?? "") }
        guard dtype.stored == stored, extra.scope == nil else { throw .dtypeMismatch(tensor: key, stored: tensor.dtype, expected: dtype.stored.rawValue) }
        var shape = tensor.shape, offsets = savedOffsets
        if dtype.isPair {
            guard shape.last == 2, offsets.last == 0 else { throw .dtypeMismatch(tensor: key, stored: "\(tensor.dtype) \(shape)", expected: "pairs") }
            shape.removeLast()
            offsets.removeLast()
        }
        guard let bytes = CheckedShard.bytes(shape, dtype), bytes == tensor.end - tensor.begin else {
            throw .sizeMismatch(tensor: key, bytes: tensor.end - tensor.begin, expected: CheckedShard.bytes(shape, dtype) ?? -1)
        }
        guard offsets.count == shape.count else { throw .badMetadata(key: "DCP_SHARDING_INFO", value: "\(key): \(savedOffsets)") }
        var name = key
        if extra.isPrivate {
            let prefix = Names.privatePrefix(rank: rank)
            guard key.hasPrefix(prefix) else { throw .badMetadata(key: "cairn.table", value: "\(key) is private, but not to rank \(rank)") }
            name = String(key.dropFirst(prefix.count))
        }
        return Shard(name: name, dtype: dtype.rawValue, shape: shape, globalShape: extra.globalShape, offsets: offsets,
                     replica: extra.replica, replicas: extra.replicas, isPrivate: extra.isPrivate)
    }

    private static func object(_ tensor: RawTensor, _ extra: TableEntry, _ savedOffsets: [Int], rank: Int,
                               dataStart: Int) throws(FileHeaderError) -> StoredObject {
        let prefix = Names.objectPrefix(rank: rank)
        guard tensor.key.hasPrefix(prefix) else { throw .badObject(name: tensor.key, reason: "belongs to another rank") }
        let name = String(tensor.key.dropFirst(prefix.count))
        if let reason = CheckedShard.problem(ofName: name) { throw .badObject(name: name, reason: reason) }
        guard tensor.dtype == DType.u8.rawValue, tensor.shape == [tensor.end - tensor.begin], savedOffsets == [0] else {
            throw .badObject(name: name, reason: "is \(tensor.dtype) \(tensor.shape), not U8 of its \(tensor.end - tensor.begin) bytes")
        }
        guard let text = extra.scope, let scope = ObjectScope(rawValue: text), (scope == .keyed) == (extra.key != nil) else {
            throw .badObject(name: name, reason: "has no valid scope")
        }
        return StoredObject(object: ObjectInfo(name: name, scope: scope, key: extra.key, bytes: tensor.end - tensor.begin),
                            fileOffset: dataStart + tensor.begin)
    }
}
