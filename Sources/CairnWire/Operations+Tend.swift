// The methods of dev.cairn.Operations that act or follow: Branch, Verify, Pin, Unpin, Delete, Drain, Watch, Metrics.

extension Operations {
    /// Makes a committed step of a run the first step of a new run of the same user, `into`, sharing the files' bytes where the filesystem
    /// can. Without step: the newest. NotPermitted if the new run has committed steps of its own already.
    public enum Branch: WireMethod {
        public static let name = Operations.interface + ".Branch"
        public struct Parameters: WireFields {
            public var uid: UInt32?
            public var run: String
            public var step: Int?
            public var sequence: Int?
            public var into: String

            public init(uid: UInt32? = nil, run: String, step: Int? = nil, sequence: Int? = nil, into: String) {
                self.uid = uid; self.run = run; self.step = step; self.sequence = sequence; self.into = into
            }
            public enum CodingKeys: String, CodingKey, CaseIterable { case uid, run, step, sequence, into }
        }
        public typealias Reply = Checkpoint.Branch.Reply
    }

    /// Requires more. Reads a step's files and checks every block; replies tell the progress, the last one has finished set.
    /// Without step: the newest; without tier: each that holds it, one after the other. bad holds what was found since the reply before.
    public enum Verify: WireMethod {
        public static let name = Operations.interface + ".Verify"
        public static let streams = true
        public struct Parameters: WireFields {
            public var uid: UInt32?
            public var run: String
            public var step: Int?
            public var tier: String?

            public init(uid: UInt32? = nil, run: String, step: Int? = nil, tier: String? = nil) {
                self.uid = uid; self.run = run; self.step = step; self.tier = tier
            }
            public enum CodingKeys: String, CodingKey, CaseIterable { case uid, run, step, tier }
        }
        public struct Reply: WireFields {
            public var step: Int
            public var sequence: Int
            public var rank: Int
            public var tier: String
            public var doneBytes: Int
            public var totalBytes: Int
            public var bad: [BadBlock]
            public var finished: Bool

            public init(step: Int, sequence: Int, rank: Int, tier: String, doneBytes: Int, totalBytes: Int,
                        bad: [BadBlock], finished: Bool) {
                self.step = step; self.sequence = sequence; self.rank = rank; self.tier = tier; self.doneBytes = doneBytes
                self.totalBytes = totalBytes; self.bad = bad; self.finished = finished
            }
            public enum CodingKeys: String, CodingKey, CaseIterable { case step, sequence, rank, tier, doneBytes,
                totalBytes, bad, finished }
        }
    }

    /// Which step Pin, Unpin and Delete mean.
    public struct StepOfRun: WireFields {
        public var uid: UInt32?
        public var run: String
        public var step: Int

        public init(uid: UInt32? = nil, run: String, step: Int) {
            self.uid = uid; self.run = run; self.step = step
        }
        public enum CodingKeys: String, CodingKey, CaseIterable { case uid, run, step }
    }

    /// Keeps a step from retention.
    public enum Pin: WireMethod {
        public static let name = Operations.interface + ".Pin"
        public typealias Parameters = StepOfRun
        public typealias Reply = Nothing
    }

    /// Gives a step back to retention.
    public enum Unpin: WireMethod {
        public static let name = Operations.interface + ".Unpin"
        public typealias Parameters = StepOfRun
        public typealias Reply = Nothing
    }

    /// Deletes a step on all tiers; the newest committed one is refused.
    public enum Delete: WireMethod {
        public static let name = Operations.interface + ".Delete"
        public typealias Parameters = StepOfRun
        public typealias Reply = Nothing
    }

    /// Requires more. Finishes flushing what is accepted; replies tell what remains, the last one has finished set.
    public enum Drain: WireMethod {
        public static let name = Operations.interface + ".Drain"
        public static let streams = true
        public struct Parameters: WireFields {
            public var uid: UInt32?
            public var run: String?
            public var timeoutMs: Int?

            public init(uid: UInt32? = nil, run: String? = nil, timeoutMs: Int? = nil) {
                self.uid = uid; self.run = run; self.timeoutMs = timeoutMs
            }
            public enum CodingKeys: String, CodingKey, CaseIterable { case uid, run, timeoutMs }
        }
        public struct Reply: WireFields {
            public var saves: Int
            public var bytes: Int
            public var finished: Bool

            public init(saves: Int, bytes: Int, finished: Bool) {
                self.saves = saves; self.bytes = bytes; self.finished = finished
            }
            public enum CodingKeys: String, CodingKey, CaseIterable { case saves, bytes, finished }
        }
    }

    /// Requires more. First the latest level of each unfinished save, then every change.
    public enum Watch: WireMethod {
        public static let name = Operations.interface + ".Watch"
        public static let streams = true
        public struct Parameters: WireFields {
            public var uid: UInt32?
            public var run: String?

            public init(uid: UInt32? = nil, run: String? = nil) {
                self.uid = uid; self.run = run
            }
            public enum CodingKeys: String, CodingKey, CaseIterable { case uid, run }
        }
        public struct Reply: WireFields {
            public var event: Event

            public init(event: Event) {
                self.event = event
            }
            public enum CodingKeys: String, CodingKey, CaseIterable { case event }
        }
    }

    /// Counters, gauges and histograms in Prometheus' text format. The runs in it are those that the caller may see.
    public enum Metrics: WireMethod {
        public static let name = Operations.interface + ".Metrics"
        public typealias Parameters = Nothing
        public struct Reply: WireFields {
            public var text: String

            public init(text: String) {
                self.text = text
            }
            public enum CodingKeys: String, CodingKey, CaseIterable { case text }
        }
    }
}
