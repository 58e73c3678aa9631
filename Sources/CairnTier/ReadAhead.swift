// What was read of saves before all their ranks had published: when the last manifest comes, only the last parts are left to read.
// (1) Kept is what was read whole and found sound, under the manifest's name: no name is used twice, so what it says holds. What fails is read again.
// (2) Bounded in bytes and saves; what is not kept is read when it is needed. A save's parts go with its decision.
import CairnIO
import CairnMessages
import CairnModel
import CairnStore

/// The parts of one save.
final class KnownParts: Sendable {
    let kinds = ShardKinds()
    private struct State: Sendable {
        var parts: [Int: CommitCheck.Part] = [:]
        var bytes = 0
        /// Someone reads ahead, and since when the commit is being made and nobody shall.
        var isReading = false, isEnough = false
    }
    private let state = Monitor(State())

    /// The part of this manifest.
    func part(_ rank: Int, _ name: String) -> CommitCheck.Part? {
        state.withLock { $0.parts[rank] }.flatMap { $0.name == name ? $0 : nil }
    }

    func keep(_ part: CommitCheck.Part, bytesLimit: Int) {
        state.withLock { state in
            guard state.bytes + part.memoryBytes <= bytesLimit else { return }
            if let old = state.parts.updateValue(part, forKey: part.row.rank) { state.bytes -= old.memoryBytes }
            state.bytes += part.memoryBytes
        }
    }

    /// False while somebody else does, or the commit is being made.
    func beginReading() -> Bool {
        state.withLock { state in
            guard !state.isReading, !state.isEnough else { return false }
            state.isReading = true
            return true
        }
    }

    func endReading() { state.withLock { $0.isReading = false } }
    /// While a commit is tried its own reads go first.
    func setEnough(_ isEnough: Bool) { state.withLock { $0.isEnough = isEnough } }
    var isEnough: Bool { state.withLock(\.isEnough) }
    var count: Int { state.withLock(\.parts.count) }
}

final class ReadAhead: Sendable {
    /// What was found sound was so for who takes part as this says.
    private struct Key: Hashable { let run: RunKey, save: SaveID, worldSize: Int, participants: [Int]? }
    /// The one that was asked for last is the last.
    private let saves = Monitor<[(key: Key, parts: KnownParts)]>([])

    func parts(_ run: RunKey, _ save: SaveID, _ worldSize: Int, _ participants: [Int]?) -> KnownParts {
        let key = Key(run: run, save: save, worldSize: worldSize, participants: participants)
        return saves.withLock { saves in
            let at = saves.firstIndex { $0.key == key }
            let parts = at.map { saves.remove(at: $0).parts } ?? KnownParts()
            // Saves of an attempt that has ended, too, which nobody asks about any more.
            saves.removeAll { $0.key.run == run && $0.key.save.attempt < save.attempt }
            if saves.count >= TierLimits.aheadSaves { saves.removeFirst() }
            saves.append((key, parts))
            return parts
        }
    }

    func drop(_ run: RunKey, _ save: SaveID) { saves.withLock { $0.removeAll { $0.key.run == run && $0.key.save == save } } }

    /// How many parts are kept of a save.
    func count(_ run: RunKey, _ save: SaveID) -> Int {
        saves.withLock { saves in saves.filter { $0.key.run == run && $0.key.save == save }.reduce(0) { $0 + $1.parts.count } }
    }

    /// Reads the parts that are there, for as long as `TierLimits.aheadMilliseconds`: the save will be asked about again.
    static func read(_ check: CommitCheck) {
        let known = check.known, deadline = Clock.monotonicNanoseconds() + TierLimits.aheadMilliseconds * 1_000_000
        guard known.beginReading() else { return }
        defer { known.endReading() }
        do {
            let names = try check.manifestNames().names, unread = names.filter { known.part($0.key, $0.value) == nil }.sorted { $0.key < $1.key }
            guard !unread.isEmpty else { return }
            let root = try check.opened()
            _ = try concurrently(unread.count, threads: TierLimits.commitThreads, niceness: TierLimits.aheadNiceness) { index in
                guard !known.isEnough, Clock.monotonicNanoseconds() < deadline else { return }
                // What cannot be read, or is not sound, is found to be so by the commit.
                _ = try? check.part(unread[index].key, unread[index].value, root)
            }
        } catch { return }                                     // the folder is gone or its filesystem sick: the next look says so
    }
}
