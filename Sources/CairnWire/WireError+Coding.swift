// Errors to and from their replies: a full name and named parameters.
import CairnModel

extension WireError {
    /// With its interface: `dev.cairn.Checkpoint.Busy`.
    public var name: String {
        switch self {
        case .notOpen: Checkpoint.interface + ".NotOpen"
        case .attemptEnded: Checkpoint.interface + ".AttemptEnded"
        case .rankTaken: Checkpoint.interface + ".RankTaken"
        case .unknownLayout: Checkpoint.interface + ".UnknownLayout"
        case .unknownSave: Checkpoint.interface + ".UnknownSave"
        case .busy: Checkpoint.interface + ".Busy"
        case .tooLarge: Checkpoint.interface + ".TooLarge"
        case .leaseLost: Checkpoint.interface + ".LeaseLost"
        case .noSuchRun: Checkpoint.interface + ".NoSuchRun"
        case .noSuchStep: Checkpoint.interface + ".NoSuchStep"
        case .notWhole: Checkpoint.interface + ".NotWhole"
        case .corrupt: Checkpoint.interface + ".Corrupt"
        case .noSpace: Checkpoint.interface + ".NoSpace"
        case .tierDown: Checkpoint.interface + ".TierDown"
        case .notPermitted: Checkpoint.interface + ".NotPermitted"
        case .invalidShard: Checkpoint.interface + ".InvalidShard"
        case .timedOut: Checkpoint.interface + ".TimedOut"
        case .draining: Checkpoint.interface + ".Draining"
        case .notSupported: Checkpoint.interface + ".NotSupported"
        case .failed: Checkpoint.interface + ".Failed"
        case .interfaceNotFound: Service.interface + ".InterfaceNotFound"
        case .methodNotFound: Service.interface + ".MethodNotFound"
        case .methodNotImplemented: Service.interface + ".MethodNotImplemented"
        case .invalidParameter: Service.interface + ".InvalidParameter"
        case .expectedMore: Service.interface + ".ExpectedMore"
        case .other(let name): name
        }
    }

    func encode(into fields: inout KeyedEncodingContainer<WireKey>) throws {
        func put(_ name: String, _ value: some Encodable) throws { try fields.encode(value, forKey: WireKey(name)) }
        switch self {
        case .attemptEnded(let by):
            try put("by", by)
        case .rankTaken(let pid):
            try put("pid", pid)
        case .unknownLayout(let layout):
            try put("layout", layout)
        case .unknownSave(let save):
            try put("save", save)
        case .busy(let step):
            try put("step", step)
        case .tooLarge(let bytes, let limit):
            try put("bytes", bytes)
            try put("limit", limit)
        case .leaseLost(let segment):
            try put("segment", segment)
        case .noSuchRun(let run):
            try put("run", run)
        case .noSuchStep(let step):
            if let step { try put("step", step) }
        case .notWhole(let step, let missing):
            try put("step", step)
            try put("missing", missing)
        case .corrupt(let path, let block):
            try put("path", path)
            try put("block", block)
        case .noSpace(let tier, let needed, let available):
            try put("tier", tier)
            try put("needed", needed)
            try put("available", available)
        case .tierDown(let tier, let reason):
            try put("tier", tier)
            try put("reason", reason)
        case .notPermitted(let reason):
            try put("reason", reason)
        case .invalidShard(let name, let reason):
            try put("name", name)
            try put("reason", reason)
        case .timedOut(let level):
            try put("level", level)
        case .notSupported(let feature):
            try put("feature", feature)
        case .failed(let reason):
            try put("reason", reason)
        case .interfaceNotFound(let interface):
            try put("interface", interface)
        case .methodNotFound(let method):
            try put("method", method)
        case .methodNotImplemented(let method):
            try put("method", method)
        case .invalidParameter(let parameter):
            try put("parameter", parameter)
        case .notOpen, .draining, .expectedMore, .other: break
        }
    }

    /// Throws where an error that is known lacks a parameter.
    init(name: String, fields: KeyedDecodingContainer<WireKey>?) throws {
        func get<Value: Decodable>(_ key: String) throws -> Value {
            guard let fields else { throw ProtocolViolation(reason: "the error \(name) lacks '\(key)'") }
            return try fields.decode(Value.self, forKey: WireKey(key))
        }
        func find<Value: Decodable>(_ key: String) throws -> Value? { try fields?.decodeIfPresent(Value.self, forKey: WireKey(key)) }
        self = switch name {
        case Checkpoint.interface + ".NotOpen": .notOpen
        case Checkpoint.interface + ".AttemptEnded": .attemptEnded(by: try get("by"))
        case Checkpoint.interface + ".RankTaken": .rankTaken(pid: try get("pid"))
        case Checkpoint.interface + ".UnknownLayout": .unknownLayout(layout: try get("layout"))
        case Checkpoint.interface + ".UnknownSave": .unknownSave(save: try get("save"))
        case Checkpoint.interface + ".Busy": .busy(step: try get("step"))
        case Checkpoint.interface + ".TooLarge": .tooLarge(bytes: try get("bytes"), limit: try get("limit"))
        case Checkpoint.interface + ".LeaseLost": .leaseLost(segment: try get("segment"))
        case Checkpoint.interface + ".NoSuchRun": .noSuchRun(run: try get("run"))
        case Checkpoint.interface + ".NoSuchStep": .noSuchStep(step: try find("step"))
        case Checkpoint.interface + ".NotWhole": .notWhole(step: try get("step"), missing: try get("missing"))
        case Checkpoint.interface + ".Corrupt": .corrupt(path: try get("path"), block: try get("block"))
        case Checkpoint.interface + ".NoSpace": .noSpace(tier: try get("tier"), needed: try get("needed"), available: try get("available"))
        case Checkpoint.interface + ".TierDown": .tierDown(tier: try get("tier"), reason: try get("reason"))
        case Checkpoint.interface + ".NotPermitted": .notPermitted(reason: try get("reason"))
        case Checkpoint.interface + ".InvalidShard": .invalidShard(name: try get("name"), reason: try get("reason"))
        case Checkpoint.interface + ".TimedOut": .timedOut(level: try get("level"))
        case Checkpoint.interface + ".Draining": .draining
        case Checkpoint.interface + ".NotSupported": .notSupported(feature: try get("feature"))
        case Checkpoint.interface + ".Failed": .failed(reason: try get("reason"))
        case Service.interface + ".InterfaceNotFound": .interfaceNotFound(interface: try get("interface"))
        case Service.interface + ".MethodNotFound": .methodNotFound(method: try get("method"))
        case Service.interface + ".MethodNotImplemented": .methodNotImplemented(method: try get("method"))
        case Service.interface + ".InvalidParameter": .invalidParameter(parameter: try get("parameter"))
        case Service.interface + ".ExpectedMore": .expectedMore
        default: .other(name: name)
        }
    }
}
