import CLinux

/// How a file is opened; every open is CLOEXEC and never follows a symlink.
public struct OpenFlags: OptionSet, Sendable {
    public let rawValue: Int32
    public init(rawValue: Int32) { self.rawValue = rawValue }

    public static let read = OpenFlags(rawValue: 1), write = OpenFlags(rawValue: 2), create = OpenFlags(rawValue: 4)
    public static let exclusive = OpenFlags(rawValue: 8), direct = OpenFlags(rawValue: 16)
    public static let append = OpenFlags(rawValue: 32), truncate = OpenFlags(rawValue: 64)
    static let folder = OpenFlags(rawValue: 128)
}
