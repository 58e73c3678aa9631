// Saves that have ended, in memory: what `cairn timeline` asks for. Bounded by rank saves; beyond, the oldest of the run that has the most goes, so
// that no user's runs push out another's.
import CairnModel
import CairnWire

public struct History: Sendable {
    private struct Key: Hashable { var save: String, rank: Int }
    /// Oldest first; a record that was promoted stands where it ended last.
    private var runs: [RunKey: [Operations.PastSave]] = [:]
    private let limit: Int
    public private(set) var count = 0

    public init(limit: Int = KeeperLimits.records) { self.limit = limit }

    /// One that is known already takes the former's place: it went on, after a promotion.
    public mutating func add(_ save: Operations.PastSave) {
        let run = RunKey(uid: save.uid, name: save.run)
        // A promotion comes soon; looking further back would cost a save of many ranks its square.
        let known = runs[run]?.suffix(1024).lastIndex { $0.save == save.save && $0.rank == save.rank }
        if let known {
            runs[run]?.remove(at: known)
            count -= 1
        }
        runs[run, default: []].append(save)
        count += 1
        while count > limit, let most = runs.max(by: { $0.value.count < $1.value.count })?.key {
            // Some at once: each removal at the front moves the rest.
            let gone = max(1, min(limit / 64, runs[most]?.count ?? 1))
            runs[most]?.removeFirst(gone)
            count -= gone
            if runs[most]?.isEmpty == true { runs[most] = nil }
        }
    }

    /// What a former life has written comes before what this one has added.
    public mutating func addBefore(_ older: [Operations.PastSave]) {
        let own = runs.sorted { $0.key < $1.key }.flatMap(\.value)
        self = History(limit: limit)
        for save in older + own { add(save) }
    }

    /// The newest `last` saves of a run, oldest first, each with all of its ranks together.
    public func saves(of run: RunKey, last: Int) -> [Operations.PastSave] {
        guard let records = runs[run] else { return [] }
        var order: [String] = [], byID: [String: [Operations.PastSave]] = [:]
        for record in records.reversed() {
            if byID[record.save] == nil {
                guard order.count < last else { continue }
                order.append(record.save)
            }
            byID[record.save, default: []].append(record)
        }
        return order.reversed().flatMap { (byID[$0] ?? []).sorted { $0.rank < $1.rank } }
    }

    /// The newest commit of each run, by the clock of this node, and its time in milliseconds since 1970.
    public func lastCommit(of run: RunKey) -> (save: Operations.PastSave, ms: Int)? {
        guard let record = runs[run]?.last(where: { $0.level == .committed }), let took = record.committedUs else { return nil }
        return (record, record.acceptedMs + took / 1000)
    }

    public var knownRuns: [RunKey] { runs.keys.sorted() }
}
