// One message between the main process and a worker, over a stream socket.
//   0  u32 LE  bytes that follow this field and the next two (json + payload)
//   4  u32 LE  json bytes
//   8  u32 LE  descriptors; they arrive with the frame's first byte or before its last
//  12  json, then payload

public struct Frame: Sendable {
    public var json: [UInt8]
    public var payload: [UInt8]
    public var descriptors: [Descriptor]
    public init(json: [UInt8], payload: [UInt8] = [], descriptors: [Descriptor] = []) {
        self.json = json; self.payload = payload; self.descriptors = descriptors
    }

    static let headBytes = 12

    func encoded() throws(FrameFailure) -> [UInt8] {
        guard json.count + payload.count <= IOLimits.frameBytes else {
            throw .tooLarge(bytes: json.count + payload.count, limit: IOLimits.frameBytes)
        }
        precondition(descriptors.count <= IOLimits.messageDescriptors, "\(descriptors.count) descriptors in a frame")
        var bytes: [UInt8] = []
        bytes.reserveCapacity(Frame.headBytes + json.count + payload.count)
        for value in [json.count + payload.count, json.count, descriptors.count] {
            for shift in [0, 8, 16, 24] { bytes.append(UInt8(truncatingIfNeeded: value >> shift)) }
        }
        bytes.append(contentsOf: json)
        bytes.append(contentsOf: payload)
        return bytes
    }
}

/// The checked head of a frame.
struct FrameHead {
    let bytes: Int, jsonBytes: Int, descriptors: Int

    init(_ source: ArraySlice<UInt8>) throws(FrameFailure) {
        precondition(source.count == Frame.headBytes, "a head of \(source.count) bytes")
        func field(_ index: Int) -> Int {
            let start = source.startIndex + index * 4
            return (0..<4).reduce(0) { $0 | Int(source[start + $1]) << (8 * $1) }
        }
        bytes = field(0); jsonBytes = field(1); descriptors = field(2)
        guard bytes <= IOLimits.frameBytes else { throw .tooLarge(bytes: bytes, limit: IOLimits.frameBytes) }
        guard jsonBytes <= bytes, descriptors <= IOLimits.messageDescriptors else { throw .malformed }
    }
}

public enum FrameFailure: Error, Sendable, Equatable, CustomStringConvertible {
    case tooLarge(bytes: Int, limit: Int)
    /// Lengths that contradict each other, or descriptors that did not come.
    case malformed
    /// The stream ended inside a frame.
    case cutOff
    /// The other side does not read: the queue is at its limit.
    case queueFull(bytes: Int)
    case failed(IOFailure)

    public var description: String {
        switch self {
        case .tooLarge(let bytes, let limit): "a frame of \(bytes) bytes, the limit is \(limit)"
        case .malformed: "a malformed frame"
        case .cutOff: "the stream ended inside a frame"
        case .queueFull(let bytes): "\(bytes) bytes wait to be read by the other side"
        case .failed(let failure): failure.description
        }
    }
}
