// How far each rank of each save has come: what `cairn watch` shows. And where a save ends, for the times that are kept of it.
import CairnModel

/// One rank's part of a save that has not ended.
public struct RankReport: Sendable {
    public var rank: Int, level: Level, bytes: Int, stagedBytes: Int, localBytes: Int, globalBytes: Int
    /// Staging has waited so long for a slot of the pool.
    public var poolWaitNs: Int
    /// Why it failed, or why a tier's file of it is being written anew.
    public var reason: String?
}

extension Engine {
    /// By rank; empty for a save that is not known, or has ended.
    public func rankReports(run: RunKey, save id: SaveID) -> [RankReport] {
        guard let save = saves[SaveKey(run: run, save: id)] else { return [] }
        return ownParts(save).map { part in
            RankReport(rank: part.key.rank, level: part.level, bytes: part.fileBytes, stagedBytes: part.stagedBytes,
                       localBytes: part.bytesWritten[.local] ?? 0, globalBytes: part.bytesWritten[.global] ?? 0,
                       poolWaitNs: part.poolWait(at: now), reason: part.failure ?? waitsFor([part]))
        }
    }

    /// The level at which a save that asked for `upto` ends here.
    public func lastLevel(_ upto: Level) -> Level { finalLevel(upto) }

    public func committedSequence(run: RunKey, save: SaveID) -> CommitSequence? {
        if case .committed(let sequence)? = saves[SaveKey(run: run, save: save)]?.decision { return sequence }
        return runs[run]?.lastCommit.flatMap { $0.save == save ? $0.sequence : nil }
    }
}
