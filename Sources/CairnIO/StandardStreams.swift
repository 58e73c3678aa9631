import Glibc

/// Standard output and error as plain bytes.
public enum StandardStreams {
    /// All of it, or what fits before an error: a reader that left (`| head`) is no failure worth a trace.
    @discardableResult
    public static func write(to number: Int32, _ bytes: [UInt8]) -> Bool {
        var done = 0
        while done < bytes.count {
            let result = unsafe bytes.withUnsafeBytes { unsafe Glibc.write(number, $0.baseAddress! + done, $0.count - done) }
            if result < 0 && errno == EAGAIN {
                var entry = pollfd(fd: number, events: Int16(POLLOUT), revents: 0)
                unsafe poll(&entry, 1, 1000)
                continue
            }
            if result < 0 && errno == EINTR { continue }
            if result <= 0 { return false }
            done += result
        }
        return true
    }

    @discardableResult
    public static func write(to number: Int32, _ text: String) -> Bool { write(to: number, Array(text.utf8)) }

    /// Whether this stream goes to systemd's journal: JOURNAL_STREAM names its file then. A child of a service inherits the
    /// variable even where its stream was redirected.
    public static func isJournal(_ number: Int32) -> Bool {
        var status = stat()
        guard let named = ProcessFacts.environment("JOURNAL_STREAM"), unsafe fstat(number, &status) == 0 else { return false }
        return named == "\(status.st_dev):\(status.st_ino)"
    }
}
