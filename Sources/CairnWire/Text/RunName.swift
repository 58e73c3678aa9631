// A run as people write it: NAME of their own runs, UID/NAME of another user's.
import CairnModel

public struct RunName: Hashable, Sendable {
    public let uid: UInt32?
    public let name: String

    /// nil where the text is neither form.
    public init?(_ text: String) {
        let parts = text.split(separator: "/", omittingEmptySubsequences: false)
        guard let last = parts.last, parts.count <= 2, RunKey.isValidName(String(last)) else { return nil }
        name = String(last)
        if parts.count == 2 {
            guard parts[0].utf8.allSatisfy({ (0x30...0x39).contains($0) }), let uid = UInt32(parts[0]) else { return nil }
            self.uid = uid
        } else {
            uid = nil
        }
    }

    /// As it is shown to a user: without the uid where the run is that user's own.
    public init(_ name: String, uid: UInt32, ownUID: UInt32) {
        self.name = name
        self.uid = uid == ownUID ? nil : uid
    }

    public var text: String { uid.map { "\($0)/\(name)" } ?? name }
}
