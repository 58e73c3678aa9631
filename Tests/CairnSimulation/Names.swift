// Names on a disk of the simulation, published by `link`: each is given once and keeps its value. On a shared disk another daemon may see
// a name late; a link that meets it shows it at once. Until its folder is synced, a crash of the node may take it back.

final class Names<Key: Hashable, Value> {
    struct Entry {
        let value: Value, by: Int, at: Int
        /// When each daemon sees it.
        var seenAt: [Int]
        var isSynced = false
    }
    private(set) var entries: [Key: Entry] = [:]

    /// What is there, whoever sees it.
    subscript(key: Key) -> Value? { entries[key]?.value }
    func isSynced(_ key: Key) -> Bool { entries[key]?.isSynced == true }

    /// False: the name is taken; what stands there is seen from now on.
    func link(_ key: Key, _ value: Value, by daemon: Int, at now: Int, seenAt: [Int]) -> Bool {
        guard entries[key] == nil else {
            entries[key]?.seenAt[daemon] = 0
            return false
        }
        entries[key] = Entry(value: value, by: daemon, at: now, seenAt: seenAt)
        return true
    }
    func see(_ key: Key, from daemon: Int, at now: Int) -> Value? {
        guard let entry = entries[key], entry.seenAt[daemon] <= now else { return nil }
        return entry.value
    }
    func all(from daemon: Int, at now: Int) -> [Key: Value] { entries.filter { $0.value.seenAt[daemon] <= now }.mapValues(\.value) }
    func sync(_ key: Key) { entries[key]?.isSynced = true }
    func remove(_ key: Key) { entries[key] = nil }

    /// A node's crash: what was not synced is there afterwards or not.
    func loseUnsynced(sorted before: (Key, Key) -> Bool, _ isLost: () -> Bool) -> Int {
        var lost = 0
        for key in entries.filter({ !$0.value.isSynced }).keys.sorted(by: before) {
            if isLost() { entries[key] = nil; lost += 1 } else { entries[key]?.isSynced = true }
        }
        return lost
    }
}
