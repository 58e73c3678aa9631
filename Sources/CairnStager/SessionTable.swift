import CairnIO

/// Sessions by their token: the main thread opens and closes them, the memory socket finds them.
final class SessionTable: Sendable {
    private let sessions = Monitor<[String: Session]>([:])

    subscript(token: String) -> Session? { sessions.withLock { $0[token] } }
    /// Memfds that a user's sessions have attached.
    func sources(ofUser uid: UInt32) -> Int {
        sessions.withLock { $0.values.reduce(0) { $0 + ($1.uid == uid ? $1.sources.count : 0) } }
    }
    func add(_ session: Session) { sessions.withLock { $0[session.token] = session } }
    func remove(_ token: String) -> Session? { sessions.withLock { $0.removeValue(forKey: token) } }
}
