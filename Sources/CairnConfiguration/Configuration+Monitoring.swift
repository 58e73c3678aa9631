// What others learn of saves: the history's size, metrics for a collector, the command after a commit.
import CairnModel

extension Configuration.History {
    mutating func read(_ top: Section) throws(ConfigurationError) {
        guard let section = try top.section("history", known: ["size"]) else { return }
        sizeBytes = try section.size("size", in: (64 << 10)...(1 << 30)) ?? sizeBytes
    }
}

extension Configuration.Metrics {
    /// node_exporter reads files of this name only.
    static let textfileSyntax = "an absolute path that ends in .prom"

    mutating func read(_ top: Section) throws(ConfigurationError) {
        guard let section = try top.section("metrics", known: ["textfile", "interval"]) else { return }
        textfile = try section.value("textfile", expected: Self.textfileSyntax, nullable: true) { text in
            Configuration.absolutePath(text).flatMap { $0.hasSuffix(".prom") ? $0 : nil }
        }
        intervalMs = try section.duration("interval", in: 1_000...3_600_000) ?? intervalMs
    }
}

extension Configuration.OnCommit {
    static func read(_ top: Section) throws(ConfigurationError) -> Self? {
        guard let section = try top.section("onCommit", known: ["command", "timeout", "queue"]) else { return nil }
        guard let command = try section.list("command", expected: "a text", parse: { $0.unicodeScalars.contains("\0") ? nil : $0 }), let program = command.first else {
            throw section.error(.missing, at: "command", "expected a program and its arguments in onCommit.command, such as [/usr/local/bin/export, --all], found none")
        }
        guard Configuration.absolutePath(program) != nil else {
            throw section.error(.badValue, at: "command", "expected \(Configuration.pathSyntax) for the program in onCommit.command, found '\(program)': no shell and no PATH is asked")
        }
        var result = Self(command: command)
        result.timeoutMs = try section.duration("timeout", in: 1_000...86_400_000) ?? result.timeoutMs
        result.queue = try section.count("queue", in: 1...1_000) ?? result.queue
        return result
    }
}
