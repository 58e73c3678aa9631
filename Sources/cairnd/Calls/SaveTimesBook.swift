// What the daemon measures of its runs' saves and restores, for `cairn advise` and `every="auto"`: the last ones of each run, in this life.
import CairnEngine
import CairnModel

struct SaveTimesBook {
    private struct Entry {
        let save: SaveID, began: Int
        var bytes: [Int: Int] = [:], blocked: [Int: Int] = [:], waitedSince: [Int: Int] = [:], reached: [Level: Int] = [:]
    }
    private struct Book { var entries: [Entry] = [], restores: [Int] = [], asked: [Int: Int] = [:], touched = 0 }
    private var books: [RunKey: Book] = [:]
    private var turn = 0

    private mutating func change(_ run: RunKey, _ body: (inout Book) -> Void) {
        turn += 1
        if books[run] == nil, books.count >= DaemonLimits.timedRuns, let oldest = books.min(by: { $0.value.touched < $1.value.touched })?.key { books[oldest] = nil }
        var book = books[run] ?? Book()
        book.touched = turn
        body(&book)
        books[run] = book
    }

    private mutating func change(_ run: RunKey, _ save: SaveID, _ body: (inout Entry) -> Void) {
        guard let place = books[run]?.entries.lastIndex(where: { $0.save == save }) else { return }
        change(run) { body(&$0.entries[place]) }
    }

    mutating func tell(_ notice: Notice) {
        guard notice.reached, notice.save.attemptTry > 0 else { return }
        if notice.level == .accepted, books[notice.run]?.entries.contains(where: { $0.save == notice.save }) != true {
            change(notice.run) { book in
                book.entries.append(Entry(save: notice.save, began: notice.at))
                if book.entries.count > DaemonLimits.timedSaves { book.entries.removeFirst() }
            }
        }
        change(notice.run, notice.save) { entry in
            if notice.level == .accepted { entry.bytes[notice.rank] = notice.totalBytes }
            // The last rank's.
            entry.reached[notice.level] = notice.at
            if notice.level >= .staged, let since = entry.waitedSince.removeValue(forKey: notice.rank) { entry.blocked[notice.rank, default: 0] += notice.at - since }
        }
    }

    /// A rank's save() came back after so long.
    mutating func returned(_ run: RunKey, _ save: SaveID, rank: Int, nanoseconds: Int) { change(run, save) { $0.blocked[rank, default: 0] += nanoseconds } }

    /// A rank waits at its fence from now on, if it is not staged.
    mutating func waits(_ run: RunKey, _ save: SaveID, rank: Int, now: Int) {
        change(run, save) { if $0.waitedSince[rank] == nil { $0.waitedSince[rank] = now } }
    }
    mutating func waitsNoMore(_ run: RunKey, _ save: SaveID, rank: Int) { change(run, save) { $0.waitedSince[rank] = nil } }

    mutating func asksForStep(_ run: RunKey, rank: Int, now: Int) { change(run) { $0.asked[rank] = now } }
    mutating func hasStep(_ run: RunKey, rank: Int, now: Int) {
        change(run) { book in
            guard let asked = book.asked.removeValue(forKey: rank) else { return }
            book.restores.append(now - asked)
            if book.restores.count > DaemonLimits.timedSaves { book.restores.removeFirst() }
        }
    }

    func times(_ run: RunKey) -> SaveTimes? {
        guard let book = books[run] else { return nil }
        func median(_ values: [Int]) -> Double? { values.isEmpty ? nil : Double(values.sorted()[values.count / 2]) / 1e9 }
        func seconds(_ level: Level) -> Double? { median(book.entries.compactMap { entry in entry.reached[level].map { $0 - entry.began } }) }
        let begins = book.entries.map(\.began)
        return SaveTimes(saves: book.entries.count, bytes: book.entries.last?.bytes.values.reduce(0, +) ?? 0,
                         intervalSeconds: median(zip(begins.dropFirst(), begins).map { $0 - $1 }),
                         // The rank that is held up longest holds up all.
                         blockedSeconds: median(book.entries.filter { $0.reached[.staged] != nil }.map { $0.blocked.values.max() ?? 0 }) ?? 0,
                         stagedSeconds: seconds(.staged), localSeconds: seconds(.local), committedSeconds: seconds(.committed), restoreSeconds: median(book.restores))
    }
}
