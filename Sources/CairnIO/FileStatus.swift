/// What fstatat says of a name, never of a symlink's target.
public struct FileStatus: Sendable, Equatable {
    public var bytes: Int
    public var isFolder: Bool, isRegular: Bool, isSocket: Bool
    public var permissions: UInt32, uid: UInt32, links: Int
    public var modifiedSeconds: Int
    public var device: UInt64, inode: UInt64
}

public struct DirectoryEntry: Sendable, Equatable {
    public var name: String
    public var isFolder: Bool
    public init(name: String, isFolder: Bool) { self.name = name; self.isFolder = isFolder }
}

/// A filesystem's room; `freeBytes` is what an unprivileged user may still take.
public struct Space: Sendable, Equatable {
    public var totalBytes: Int, freeBytes: Int
    /// The kernel's magic number, e.g. 0xEF53 for ext4.
    public var filesystemType: Int
}
