// The checks of one shard as a rank sent it. Everything here comes from a client: nothing is trusted, sums and products may overflow.
import CairnModel

struct CheckedShard {
    let shard: Shard
    let dtype: DType
    let bytes: Int

    init(_ given: Shard) throws(LayoutError) {
        func invalid(_ reason: String) -> LayoutError { .invalidShard(name: given.name, reason: reason) }
        if let reason = Self.problem(ofName: given.name) { throw invalid(reason) }
        guard let dtype = DType(rawValue: given.dtype) else {
            throw invalid("unknown dtype '\(given.dtype)'; known are \(DType.allCases.map(\.rawValue).joined(separator: " "))")
        }
        guard given.shape.count <= StoreLimits.dimensions else {
            throw invalid("\(given.shape.count) dimensions, at most \(StoreLimits.dimensions) are possible")
        }
        guard let bytes = Self.bytes(given.shape, dtype) else {
            throw invalid("shape \(given.shape) is negative or its size overflows")
        }

        var shard = given
        if let globalShape = given.globalShape {
            let offsets = given.offsets ?? Array(repeating: 0, count: given.shape.count)
            guard given.isFlat || globalShape.count == given.shape.count, offsets.count == given.shape.count else {
                throw invalid("""
                    shape, global shape and offsets differ in their number of dimensions: \(given.shape.count), \(globalShape.count), \(offsets.count); \
                    only a range of the flattened tensor may, which has one
                    """)
            }
            guard Self.bytes(globalShape, dtype) != nil else {
                throw invalid("global shape \(globalShape) is negative or its size overflows")
            }
            let space = given.space
            for dimension in space.indices {
                let (end, overflow) = offsets[dimension].addingReportingOverflow(given.shape[dimension])
                guard offsets[dimension] >= 0, !overflow, end <= space[dimension] else {
                    throw invalid("offsets \(offsets) and shape \(given.shape) lie outside the global shape \(globalShape)\(given.isFlat ? ", flattened" : "")")
                }
            }
            shard.offsets = offsets
            if given.isPrivate {
                guard globalShape == given.shape else { throw invalid("is private to its rank, so it cannot be a part of \(globalShape)") }
                shard.globalShape = nil
                shard.offsets = nil
            }
        } else {
            guard given.offsets?.allSatisfy({ $0 == 0 }) ?? true else { throw invalid("offsets without a global shape") }
            shard.offsets = nil
        }

        switch (given.replica, given.replicas) {
        case (nil, nil): break
        case (let replica?, let replicas?):
            guard (1...StoreLimits.worldSize).contains(replicas), (0..<replicas).contains(replica) else {
                throw invalid("replica \(replica) of \(replicas)")
            }
            guard !given.isPrivate else { throw invalid("is private to its rank, so it cannot be one of \(replicas) replicas") }
        default: throw invalid("replica and replicas belong together")
        }
        self.shard = shard
        self.dtype = dtype
        self.bytes = bytes
    }

    /// Bytes of a shape, nil where a number is negative or a product overflows.
    static func bytes(_ shape: [Int], _ dtype: DType) -> Int? {
        var bytes = dtype.bytes
        for extent in shape {
            let (product, overflow) = bytes.multipliedReportingOverflow(by: extent)
            guard extent >= 0, !overflow else { return nil }
            bytes = product
        }
        return bytes
    }

    /// Names are keys of a JSON object and shown on terminals: no control characters. `/` is allowed, they are never paths.
    static func problem(ofName name: String) -> String? {
        var previous: UInt8 = 0
        var count = 0
        for byte in name.utf8 {
            count += 1
            // C0, DEL, and C1 (U+0080...U+009F, which UTF-8 writes as C2 80...9F).
            if byte < 0x20 || byte == 0x7F || (previous == 0xC2 && byte < 0xA0) { return "its name holds a control character" }
            previous = byte
        }
        if count == 0 { return "its name is empty" }
        if count > StoreLimits.nameBytes { return "its name has \(count) bytes, at most \(StoreLimits.nameBytes) are possible" }
        if name == "__metadata__" || name.hasPrefix(Names.objectPrefix) || Names.hasPrivatePrefix(name) {
            return "this name is reserved by the file's format"
        }
        return nil
    }
}
