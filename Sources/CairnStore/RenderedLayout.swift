// The parts of a file's header that depend only on the layout, rendered once and copied into every save's header.
import CairnModel

struct RenderedLayout: Sendable {
    /// `"NAME":{"dtype":…,"shape":…,"data_offsets":…}` of each tensor, joined by commas.
    var tensors: [UInt8] = []
    /// `"NAME":{"saved_offsets":[…]}` of each tensor, joined by commas and escaped to stand inside a JSON string.
    var sharding: [UInt8] = []
    /// What safetensors lacks, of those tensors that have it; likewise inside a JSON string.
    var table: [UInt8] = []

    init(_ entries: [Layout.Entry]) {
        var tensors = JSONWriter(), sharding = JSONWriter(quoting: true), table = JSONWriter(quoting: true)
        tensors.bytes.reserveCapacity(entries.count * 96)
        sharding.bytes.reserveCapacity(entries.count * 64)
        for entry in entries {
            let shard = entry.shard
            let storedShape = entry.dtype.storedShape(shard.shape)
            tensors.tensor(entry.storedName, entry.dtype.stored, storedShape, begin: entry.dataOffset, end: entry.dataOffset + entry.bytes)

            sharding.key(entry.storedName)
            sharding.open()
            sharding.key("saved_offsets")
            let offsets = shard.offsets ?? Array(repeating: 0, count: shard.shape.count)
            sharding.integers(entry.dtype.isPair ? offsets + [0] : offsets)
            sharding.close()

            guard entry.dtype.stored != entry.dtype || shard.globalShape != nil || shard.replicas != nil || shard.isPrivate else { continue }
            table.key(entry.storedName)
            table.open()
            if entry.dtype.stored != entry.dtype { table.key("dtype"); table.string(shard.dtype) }
            if let globalShape = shard.globalShape { table.key("globalShape"); table.integers(globalShape) }
            if shard.isPrivate { table.key("private"); table.literal("true") }
            if let replica = shard.replica { table.key("replica"); table.integer(replica) }
            if let replicas = shard.replicas { table.key("replicas"); table.integer(replicas) }
            table.close()
        }
        self.tensors = tensors.bytes
        self.sharding = sharding.bytes
        self.table = table.bytes
    }
}

extension JSONWriter {
    mutating func tensor(_ name: String, _ dtype: DType, _ shape: [Int], begin: Int, end: Int) {
        key(name)
        open()
        key("dtype")
        string(dtype.rawValue)
        key("shape")
        integers(shape)
        key("data_offsets")
        integers([begin, end])
        close()
    }
}
