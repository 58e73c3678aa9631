// The daemon's log: one line an event, written by a thread of its own, so that a stuck standard error (a full pipe, a stopped
// terminal) never stops the loop. Lines that do not fit the queue are dropped and counted; the count is the next line.
// Under systemd the journal gets each event with fields of its own (`journalctl CAIRN_RUN=llama-7b CAIRN_STEP=1200`), by its native protocol:
// a datagram of NAME=value lines (https://systemd.io/JOURNAL_NATIVE_PROTOCOL). Where that socket is not there, a line with its priority.
import CairnEngine
import CairnIO
import CairnModel

/// What an event is about: the journal's fields.
struct LogFields: Sendable {
    var run: RunKey?, save: SaveID?, step: Int?, rank: Int?, tier: Tier?

    /// What repeated events have in common.
    var subject: String { run.map { "run \($0)" } ?? tier.map { "the \($0) tier" } ?? "the daemon" }

    var lines: [String] {
        let values: [(String, String?)] = [
            ("RUN", run?.name), ("UID", run.map { "\($0.uid)" }), ("SAVE", save.map { "\($0)" }), ("STEP", (step ?? save?.step).map { "\($0)" }),
            ("RANK", rank.map { "\($0)" }), ("TIER", tier?.rawValue)]
        return values.compactMap { name, value in value.map { "CAIRN_\(name)=\($0)" } }
    }
}

/// So many events of one subject and severity in a while; what is beyond is counted, and the count told with the next that passes.
struct LogRate: Sendable {
    private var windows: [String: (begin: Int, count: Int, left: Int)] = [:]

    /// Nil: this one is left out; else how many were since the last that passed.
    mutating func pass(_ key: String, at now: Int) -> Int? {
        if windows.count > DaemonLimits.logSubjects { windows.removeAll() }
        var window = windows[key] ?? (now, 0, 0)
        if now - window.begin >= DaemonLimits.logWindowMilliseconds * 1_000_000 { window = (now, 0, window.left) }
        window.count += 1
        guard window.count <= DaemonLimits.logLinesPerWindow else {
            windows[key] = (window.begin, window.count, window.left + 1)
            return nil
        }
        windows[key] = (window.begin, window.count, 0)
        return window.left
    }
}

final class Log: Sendable {
    private enum Form: Sendable { case journal(Descriptor?), terminal }
    private struct Event: Sendable { var severity: Severity, text: String, fields: LogFields }
    private let form: Form
    private let queue = WorkQueue<Event>(capacity: DaemonLimits.logQueue)
    private let dropped = Monitor(0)
    private let rate = Monitor(LogRate())

    init() throws {
        // Named by tests only: a service has the journal's own.
        let socket = ProcessFacts.environment("CAIRN_JOURNAL_SOCKET")
        let isJournal = socket != nil || StandardStreams.isJournal(2)
        form = isJournal ? .journal(SystemdNotify.connect(socket ?? "/run/systemd/journal/socket")) : .terminal
        let (queue, form) = (queue, form)
        _ = try Threads.spawn(name: "log") {
            while let event = queue.pop() { Self.write(event, form) }
        }
    }

    func write(_ severity: Severity, _ text: String, _ fields: LogFields = LogFields()) {
        guard let left = rate.withLock({ $0.pass("\(severity) \(fields.subject)", at: Clock.monotonicNanoseconds()) }) else { return }
        if left > 0 { push(Event(severity: .warning, text: "\(left) events about \(fields.subject) were left out: too many in a while", fields: fields)) }
        push(Event(severity: severity, text: text, fields: fields))
    }

    private func push(_ event: Event) {
        let missed = dropped.withLock { count in let all = count; count = 0; return all }
        var fits = true
        if missed > 0 {
            fits = queue.tryPush(Event(severity: .warning, text: "\(missed) lines of this log were dropped: they could not be written in time", fields: LogFields()))
        }
        if !fits || !queue.tryPush(event) { dropped.withLock { $0 += (fits ? 0 : missed) + 1 } }
    }

    private static func write(_ event: Event, _ form: Form) {
        // A text from a client or a disk must not be able to forge a line.
        let line = event.text.map { $0.isNewline || $0 == "\0" ? " " : String($0) }.joined()
        switch form {
        case .journal(let socket?):
            let text = String(decoding: Array(line.utf8.prefix(DaemonLimits.logLineBytes)), as: UTF8.self)
            let entry = (["MESSAGE=\(text)", "PRIORITY=\(priority(event.severity))", "SYSLOG_IDENTIFIER=cairnd"] + event.fields.lines).map { $0 + "\n" }.joined()
            if SystemdNotify.send(socket, entry) { return }
            fallthrough
        case .journal: _ = StandardStreams.write(to: 2, "<\(priority(event.severity))>\(line)\n")
        case .terminal:
            let severity = event.severity == .info || event.severity == .notice ? "" : "\(event.severity): "
            _ = StandardStreams.write(to: 2, "\(Clock.iso8601(Clock.utcSeconds())) \(severity)\(line)\n")
        }
    }

    /// syslog's.
    private static func priority(_ severity: Severity) -> Int {
        switch severity {
        case .error: 3
        case .warning: 4
        case .notice: 5
        case .info: 6
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
