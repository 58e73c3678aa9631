// One funnel for system calls; an error is operation, errno and path.
import CLinux
import Glibc

/// What the kernel refused: `open '/x': No space left on device (ENOSPC)`.
public struct IOFailure: Error, Sendable, Equatable, CustomStringConvertible {
    public let operation: String
    public let errno: CInt
    public let path: String

    public init(operation: String, errno: CInt, path: String = "") {
        self.operation = operation; self.errno = errno; self.path = path
    }

    public var description: String {
        let subject = path.isEmpty ? operation : "\(operation) '\(path)'"
        return "\(subject): \(errnoText(errno)) (\(errnoName(errno)))"
    }

    /// The disk or a quota is full.
    public var isNoSpace: Bool { [ENOSPC, EDQUOT, EFBIG].contains(errno) }
    public var isMissing: Bool { errno == ENOENT }
    public var exists: Bool { errno == EEXIST }
    public var isStale: Bool { errno == ESTALE }
    /// What calls into a filesystem say whose server, client or device is gone; one file's trouble (EIO) may be meant too.
    public var mayMeanGone: Bool {
        [EIO, ENOTCONN, ESHUTDOWN, ECONNABORTED, ECONNRESET, ECONNREFUSED, ETIMEDOUT, EHOSTDOWN, EHOSTUNREACH, ENETDOWN, ENETUNREACH,
         ENODEV, ENXIO, EREMOTEIO, ESTALE, EROFS].contains(errno)
    }
    public var isNotSupported: Bool { [EOPNOTSUPP, ENOSYS, EINVAL, ENODEV].contains(errno) }
    /// No second name for this file there: another filesystem, one without hard links, or as many as it takes.
    public var refusesLink: Bool { [EXDEV, EPERM, EMLINK, EOPNOTSUPP, ENOSYS].contains(errno) }
    public var isNotPermitted: Bool { [EPERM, EACCES].contains(errno) }
    public var isNotEmpty: Bool { errno == ENOTEMPTY || errno == EEXIST }
    /// A folder, a symlink, a FIFO or a socket where a file should be, or one that this process may not read: damage to that file, not to
    /// its filesystem.
    public var isOfThisFile: Bool { [EISDIR, ELOOP, ESPIPE, ENXIO, EACCES, EPERM].contains(errno) }
    /// A file larger than the caller's limit.
    public var isTooLarge: Bool { errno == EOVERFLOW }
    public var isInUse: Bool { errno == EADDRINUSE }
    /// Nobody listens: no socket there, or its owner is gone.
    public var isNobodyThere: Bool { errno == ENOENT || errno == ECONNREFUSED }
    public var isTimedOut: Bool { errno == ETIMEDOUT }
    /// The other side closed the connection.
    public var isHungUp: Bool { [EPIPE, ECONNRESET, ENOTCONN].contains(errno) }

    /// Errors that modules without C calls make or compare.
    public static let noSpace = ENOSPC, missing = ENOENT, alreadyExists = EEXIST, inputOutput = EIO, timedOut = ETIMEDOUT
    public static let invalid = EINVAL, tooLarge = EOVERFLOW, notSupported = EOPNOTSUPP, cancelled = ECANCELED
    public static let notPermitted = EACCES, noMemory = ENOMEM, brokenPipe = EPIPE, noSuchProcess = ESRCH
}

/// `ENOSPC` for 28.
public func errnoName(_ code: CInt) -> String {
    guard let name = unsafe cairn_errno_name(code) else { return "errno \(code)" }
    return unsafe String(cString: name)
}

/// `No space left on device` for 28.
public func errnoText(_ code: CInt) -> String {
    guard let text = unsafe cairn_errno_text(code) else { return "unknown error" }
    return unsafe String(cString: text)
}

/// Runs a call until it is not interrupted; a caller's own bug (a closed descriptor, a bad pointer) traps.
@discardableResult
func syscall<Result: FixedWidthInteger & SignedInteger>(_ operation: String, _ path: String = "",
                                                        _ body: () -> Result) throws(IOFailure) -> Result {
    while true {
        let result = body()
        if result >= 0 { return result }
        let code = errno                            // before anything that may call libc
        if code == EINTR { continue }
        precondition(code != EBADF && code != EFAULT, "\(operation) '\(path)': \(errnoName(code))")
        throw IOFailure(operation: operation, errno: code, path: path)
    }
}
