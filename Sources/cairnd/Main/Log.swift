// The daemon's log: one line an event, written by a thread of its own, so that a stuck standard error (a full pipe, a stopped
// terminal) never stops the loop. Lines that do not fit the queue are dropped and counted; the count is the next line.
import CairnEngine
import CairnIO

final class Log: Sendable {
    enum Form: Sendable { case journal, terminal }
    private let form: Form
    private let queue = WorkQueue<String>(capacity: 1024)
    private let dropped = Monitor(0)
    private let idle = Monitor(false)

    init() throws {
        form = StandardStreams.isJournal(2) ? .journal : .terminal
        let queue = queue
        _ = try Threads.spawn(name: "log") {
            while let line = queue.pop() { _ = StandardStreams.write(to: 2, line) }
        }
    }

    func write(_ severity: Severity, _ text: String) {
        // A text from a client or a disk must not be able to forge a line.
        let line = prefix(severity) + text.map { $0.isNewline || $0 == "\0" ? " " : String($0) }.joined() + "\n"
        let missed = dropped.withLock { count in let all = count; count = 0; return all }
        let whole = missed == 0 ? line : prefix(.warning) + "\(missed) lines of this log were dropped: they could not be written in time\n" + line
        if !queue.tryPush(whole) { dropped.withLock { $0 += missed + 1 } }
    }

    private func prefix(_ severity: Severity) -> String {
        switch form {
        case .journal:
            switch severity {
            case .error: "<3>"
            case .warning: "<4>"
            case .notice: "<5>"
            case .info: "<6>"
            }
        case .terminal:
            Clock.iso8601(Clock.utcSeconds()) + " " + (severity == .info || severity == .notice ? "" : "\(severity): ")
        }
    }

    /// Waits, bounded, until what was written is out: before the process ends.
    func drain(milliseconds: Int) {
        let end = Clock.monotonicNanoseconds() + milliseconds * 1_000_000
        queue.close()
        while queue.count > 0, Clock.monotonicNanoseconds() < end { _ = PidWatch.waitUntilGone(Self.never, timeoutMilliseconds: 5) }
    }
    // A descriptor that never becomes readable within this process's life: its own pidfd.
    private static let never: Descriptor = {
        do { return try PidWatch.open(pid: ProcessFacts.pid) } catch { fatalError("pidfd_open of this process: \(error)") }
    }()
}
