// `attempts/000018/have-NODE.json`: what one daemon still holds of older attempts when a new one begins. Published once by `link`.
import CairnMessages
import CairnModel
import CairnStore

package struct HaveRecord: RecordValue, Hashable {
    package var format: String
    package var uid: UInt32
    package var run: String
    package var attempt: Int
    package var node: String
    package var list: HaveList

    package init(run: RunKey, attempt: Int, node: String, list: HaveList) {
        format = FileHeader.format
        uid = run.uid
        self.run = run.name
        self.attempt = attempt
        self.node = node
        self.list = list
    }

    package var runKey: RunKey { RunKey(uid: uid, name: run) }

    package func problem() -> String? {
        if !RunKey.isValidName(run) { return "the run's name '\(run)' is not valid" }
        if attempt < 1 { return "attempt \(attempt)" }
        for ranks in [list.serves] + list.saves.map(\.ranks) + list.saves.compactMap(\.participants) + list.served.map(\.ranks) {
            if zip(ranks, ranks.dropFirst()).contains(where: { $0 >= $1 }) { return "ranks \(ranks.prefix(20)) are not ascending" }
            if (ranks.first ?? 0) < 0 || (ranks.last ?? 0) >= StoreLimits.worldSize { return "ranks \(ranks.prefix(20))" }
        }
        for held in list.saves {
            if held.save.attempt < 1 || held.save.attempt >= attempt { return "save \(held.save) is not of an older attempt than \(attempt)" }
            if !(1...StoreLimits.worldSize).contains(held.worldSize) { return "save \(held.save) of a world of \(held.worldSize)" }
            if (held.ranks.last ?? 0) >= held.worldSize || (held.participants?.last ?? 0) >= held.worldSize { return "save \(held.save) has ranks outside its world" }
            if let count = held.count, count < 1 { return "a count of \(count) saves" }
        }
        return nil
    }
}
