// What clients' messages keep in the main process (I6): bytes that arrived and are no whole message yet, registered layouts, saves that are
// not forgotten, replies that are not read. Each is charged to its user with about what it takes; beyond the user's share, or all users'
// together, nothing more is taken in from him, and others go on.

final class ClientMemory {
    private let userLimit: Int, limit: Int
    private var users: [UInt32: Int] = [:]
    private(set) var bytes = 0

    init(userLimit: Int, limit: Int) { self.userLimit = userLimit; self.limit = limit }

    /// What this user may still add.
    func left(_ uid: UInt32) -> Int { max(0, min(userLimit - users[uid, default: 0], limit - bytes)) }

    fileprivate func add(_ change: Int, _ uid: UInt32) {
        bytes += change
        users[uid, default: 0] += change
        precondition(bytes >= 0 && users[uid, default: 0] >= 0, "more was given back than taken")
        if users[uid] == 0 { users[uid] = nil }
    }
}

/// Taken until it is dropped.
final class MemoryCharge {
    private let memory: ClientMemory
    private let uid: UInt32
    private(set) var bytes = 0

    init(_ memory: ClientMemory, uid: UInt32) { self.memory = memory; self.uid = uid }

    deinit { memory.add(-bytes, uid) }

    /// False, and unchanged, where it would be more than there is; less is always taken.
    func set(_ wanted: Int) -> Bool {
        guard wanted <= bytes || wanted - bytes <= memory.left(uid) else { return false }
        memory.add(wanted - bytes, uid)
        bytes = wanted
        return true
    }
}
