// A rank's session and what it may save: Open, Attach, Close, Register.

extension Checkpoint {
    /// Begins the session of one rank. The attempt is a token that is equal on all ranks of one launch of the job, and never
    /// equal between two launches; a world of one may leave it out. A session of the same process is replaced.
    /// number: the attempt's, as an earlier Open's limits told this process; with it a daemon that started anew goes on without the global tier.
    /// memory: the daemon may not read this process's memory, so pass a descriptor of it by Attach on SOCKET.memory.
    public enum Open: WireMethod {
        public static let name = Checkpoint.interface + ".Open"
        public struct Parameters: WireFields {
            public var run: String
            public var rank: Int
            public var worldSize: Int
            public var localRank: Int?
            public var localWorldSize: Int?
            public var attempt: String?
            public var number: Int?
            public var readOnly: Bool?

            public init(run: String, rank: Int, worldSize: Int, localRank: Int? = nil, localWorldSize: Int? = nil,
                        attempt: String? = nil, number: Int? = nil, readOnly: Bool? = nil) {
                self.run = run; self.rank = rank; self.worldSize = worldSize; self.localRank = localRank
                self.localWorldSize = localWorldSize; self.attempt = attempt; self.number = number; self.readOnly = readOnly
            }
            public enum CodingKeys: String, CodingKey, CaseIterable { case run, rank, worldSize, localRank,
                localWorldSize, attempt, number, readOnly }
        }
        public struct Reply: WireFields {
            public var session: String
            public var node: String
            public var memory: Bool
            public var limits: [String: Int]

            public init(session: String, node: String, memory: Bool, limits: [String: Int]) {
                self.session = session; self.node = node; self.memory = memory; self.limits = limits
            }
            public enum CodingKeys: String, CodingKey, CaseIterable { case session, node, memory, limits }
        }
    }

    /// Makes a further connection part of a session. On the stager's socket, SOCKET.memory, with a descriptor, whose index among
    /// those of this message is memory or source. memory: of /proc/self/mem, read-only. source: a memfd with the seals
    /// F_SEAL_WRITE and F_SEAL_SHRINK, which shards and objects then name by number (0 to 63); it replaces the one of that
    /// number for saves that begin later.
    public enum Attach: WireMethod {
        public static let name = Checkpoint.interface + ".Attach"
        public struct Parameters: WireFields {
            public var session: String
            public var memory: Int?
            public var source: Int?
            public var number: Int?

            public init(session: String, memory: Int? = nil, source: Int? = nil, number: Int? = nil) {
                self.session = session; self.memory = memory; self.source = source; self.number = number
            }
            public enum CodingKeys: String, CodingKey, CaseIterable { case session, memory, source, number }
        }
        public typealias Reply = Nothing
    }

    /// Waits until this rank's saves are staged, then ends the session.
    public enum Close: WireMethod {
        public static let name = Checkpoint.interface + ".Close"
        public typealias Parameters = Nothing
        public typealias Reply = Nothing
    }

    /// Tells what the next saves consist of. Register anew whenever a name, shape or address differs.
    public enum Register: WireMethod {
        public static let name = Checkpoint.interface + ".Register"
        public struct Parameters: WireFields {
            public var shards: [Shard]

            public init(shards: [Shard]) {
                self.shards = shards
            }
            public enum CodingKeys: String, CodingKey, CaseIterable { case shards }
        }
        public struct Reply: WireFields {
            public var layout: String
            public var bytes: Int

            public init(layout: String, bytes: Int) {
                self.layout = layout; self.bytes = bytes
            }
            public enum CodingKeys: String, CodingKey, CaseIterable { case layout, bytes }
        }
    }
}
