// `cairn gc [RUN]`: applies retention now, or with --dry-run says what it would do, step by step.
import ArgumentParser
import CairnClient
import CairnWire

struct RetainCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "gc", abstract: "Apply retention now; --dry-run: say what would go, and by which rule.",
        discussion: """
            The daemon applies retention after each commit. This does it at once, with the same decisions, for runs that no longer \
            save too. The newest committed step, pinned ones, and those that are being restored or read never go.

            EXAMPLE
              cairn gc llama-7b --dry-run
            """)
    @Argument(help: RunArgument.help) var target: RunArgument?
    @Flag(help: "Remove nothing.") var dryRun = false
    @OptionGroup var options: CommonOptions

    func run() throws {
        let reply = try options.call(Operations.Retain.self, .init(uid: target?.uid, run: target?.run, dryRun: dryRun))
        if let target, reply.runs.isEmpty { throw ClientError.refused(.noSuchRun(run: target.name.text)) }
        try options.show(reply) { RetentionView(reply: reply, isDry: dryRun, ownUID: Terminal.ownUID, colour: Terminal.colour).text }
        if reply.runs.contains(where: { $0.tiers.contains { $0.problem != nil } }) { throw Found.bad }
    }
}
