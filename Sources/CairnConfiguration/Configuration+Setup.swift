// What `cairnd --check --json` prints of a configuration: what another program needs to look at the node with.
import CairnModel
import FoundationEssentials

extension Configuration {
    public var setup: SetupFacts {
        var setups: [SetupFacts.TierSetup] = []
        if let local = tiers.local {
            setups.append(.init(tier: .local, paths: local.paths, reserveBytes: local.reserveBytes, io: local.io.rawValue, direct: local.direct.rawValue, retention: retention.local))
        }
        if let global = tiers.global {
            setups.append(.init(tier: .global, paths: [global.path], reserveBytes: 0, io: global.io.rawValue, direct: global.direct.rawValue, retention: retention.global))
        }
        return SetupFacts(socket: socket, poolBytes: pool.sizeBytes, lock: pool.lock.rawValue, tiers: setups)
    }
}

extension SetupFacts {
    public func json() throws -> String {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        return String(decoding: try encoder.encode(self), as: UTF8.self) + "\n"
    }
}
