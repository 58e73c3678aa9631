// Main process <-> keeper: the worker that keeps the history's file, writes metrics for node_exporter, and runs the command after a commit.
// All of it may block on a filesystem (a program to be started, too), so none of it is the main process's own; and none of it is in a save's way.
import CairnModel

public struct KeeperStart: Codable, Sendable {
    /// Names the history's file, so that daemons may share a folder.
    public var node: String
    /// Nil: no history on disk.
    public var stateFolder: String?
    /// Of both of the history's files.
    public var historyBytes: Int
    /// Nil: none is written.
    public var textfile: String?
    public init(node: String, stateFolder: String?, historyBytes: Int, textfile: String?) {
        self.node = node; self.stateFolder = stateFolder; self.historyBytes = historyBytes; self.textfile = textfile
    }
}

/// `onCommit`, for one commit.
public struct CommandOrder: Codable, Hashable, Sendable {
    public var run: RunKey, step: Int
    public var arguments: [String]
    /// NAME=value, beside the daemon's own.
    public var environment: [String]
    public var timeoutMilliseconds: Int
    public init(run: RunKey, step: Int, arguments: [String], environment: [String], timeoutMilliseconds: Int) {
        self.run = run; self.step = step; self.arguments = arguments; self.environment = environment; self.timeoutMilliseconds = timeoutMilliseconds
    }
}

public struct CommandResult: Codable, Hashable, Sendable {
    public enum Outcome: String, Codable, Sendable, CaseIterable { case ok, failed, timeout }
    public var outcome: Outcome
    /// How it ended: `exit code 1`, `no such file`.
    public var text: String
    public var milliseconds: Int
    /// The last of what it printed.
    public var output: String
    public init(outcome: Outcome, text: String, milliseconds: Int, output: String) {
        self.outcome = outcome; self.text = text; self.milliseconds = milliseconds; self.output = output
    }
}

public enum KeeperRequest: Codable, Sendable {
    /// First message.
    case start(KeeperStart)
    /// Payload: whole lines of the history.
    case append
    /// Payload: the text.
    case textfile
    /// -> ran. One at a time.
    case run(CommandOrder)
    case stop
}

public enum KeeperReply: Codable, Sendable {
    /// Payload: the history's sound lines, oldest first. `damaged`: lines that were not.
    case ready(damaged: Int)
    case ran(CommandResult)
    /// Something cannot be written; told when that begins, and not again until it went well.
    case failed(String)
}
