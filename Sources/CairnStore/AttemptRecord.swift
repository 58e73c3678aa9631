// `attempts/000017.json`: which launch of the job has this number. Published by `link`, so one launch gets one number.
import CairnModel

public struct AttemptRecord: RecordValue, Hashable {
    public var format: String
    public var uid: UInt32
    public var run: String
    public var number: Int
    /// Hash of the launch's token: the token itself is a secret of the job.
    public var tokenHash: String
    public var worldSize: Int
    public var node: String
    public var startedAt: String

    public init(run: RunKey, number: Int, tokenHash: String, worldSize: Int, node: String, startedAt: String) {
        format = FileHeader.format
        uid = run.uid
        self.run = run.name
        self.number = number
        self.tokenHash = tokenHash
        self.worldSize = worldSize
        self.node = node
        self.startedAt = startedAt
    }

    public func problem() -> String? {
        if !RunKey.isValidName(run) { return "the run's name '\(run)' is not valid" }
        if number < 1 || number > Int(UInt32.max >> 1) { return "attempt \(number)" }
        if tokenHash.isEmpty || tokenHash.utf8.count > 128 { return "attempt \(number) has no token's hash" }
        if !(1...StoreLimits.worldSize).contains(worldSize) { return "world size \(worldSize)" }
        return nil
    }
}
