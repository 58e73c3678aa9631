import CairnModel
@testable import CairnWire

/// One maker per thing.
enum Samples {
    static let errors: [WireError] = [
        .notOpen, .attemptEnded(by: 18), .rankTaken(pid: 7), .unknownLayout(layout: "l"), .unknownSave(save: "17-1200-1"), .busy(step: 3),
        .tooLarge(bytes: 9, limit: 8), .leaseLost(segment: 4), .noSuchRun(run: "r"), .noSuchStep(step: 5), .notWhole(step: 5, missing: [1, 2]),
        .corrupt(path: "/a \"b\"\n", block: -1), .noSpace(tier: "local", needed: 3, available: 2), .tierDown(tier: "global", reason: "hung"),
        .notPermitted(reason: "no"), .invalidShard(name: "a/b", reason: "why"), .timedOut(level: .staged), .draining,
        .notSupported(feature: "hold"), .failed(reason: "words"), .interfaceNotFound(interface: "a.b"), .methodNotFound(method: "a.b.C"),
        .methodNotImplemented(method: "a.b.C"), .invalidParameter(parameter: "shards[3].dtype"), .expectedMore,
    ]

    static func shards(_ count: Int) -> [Checkpoint.Shard] {
        (0..<count).map {
            Checkpoint.Shard(name: "model.layers.\($0).self_attn.q_proj.weight", dtype: "BF16", shape: [4096, 4096], eager: false,
                             source: Checkpoint.Source(memory: [Extent(address: 0x7F00_0000_0000 + UInt64($0) << 25, bytes: 1 << 25)]))
        }
    }

    static func message(_ json: String) -> [UInt8] { Array(json.utf8) }
}

extension [UInt8] {
    /// A message as it went out, without its NUL.
    var withoutNUL: [UInt8] {
        precondition(last == 0 && !dropLast().contains(0), "a message ends in its only NUL")
        return Array(dropLast())
    }
}
