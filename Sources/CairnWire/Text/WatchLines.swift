// Events of saves as lines for people: one line whenever a rank's save comes to another level, and between them how far each
// save is on its way. Bounded: a save is forgotten when it is committed or failed.
import CairnModel

public struct WatchLines: Sendable {
    private struct Place: Hashable { var uid: UInt32, run: String, save: String, rank: Int }
    private var levels: [Place: Level] = [:]
    private let ownUID: UInt32

    public init(ownUID: UInt32) {
        self.ownUID = ownUID
    }

    public enum Line: Hashable, Sendable {
        /// Stays: a level was reached.
        case reached(String)
        /// Is redrawn in place, or left out where that cannot be.
        case progress(String)
    }

    public mutating func line(for event: Operations.Event) -> Line {
        let place = Place(uid: event.uid, run: event.run, save: event.save, rank: event.rank)
        let who = "\(RunName(event.run, uid: event.uid, ownUID: ownUID).text)  step \(event.step)  rank \(event.rank)  "
        guard levels[place] != event.level else {
            return .progress(who + ProgressBar.render(done: event.bytes, total: event.totalBytes))
        }
        let ended = event.level == .committed || event.level == .failed
        levels[place] = ended ? nil : event.level
        let reason = event.reason.map { ": " + Table.printable($0) } ?? ""
        return .reached(who + event.level.rawValue + reason + (event.level == .failed ? "" : "  \(HumanSize.short(event.totalBytes))"))
    }
}
