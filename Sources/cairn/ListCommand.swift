// `cairn ls [RUN]`: the runs, or one run's steps.
import ArgumentParser
import CairnClient
import CairnWire

struct ListCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "ls", abstract: "List runs, or the steps of one.",
        discussion: """
            Steps come newest first, by their sequence: the number of the job's launch, then the count of its saves. Where a launch \
            went back to an older step and committed again, the steps that it left are superseded: they stand below that step, indented.

            TIERS: M memory, L local, G global. --json has each step's parent: the sequence that its launch had restored.

            EXAMPLE
              cairn ls llama-7b
            """)
    @Argument(help: RunArgument.help) var target: RunArgument?
    @OptionGroup var options: CommonOptions

    func run() throws {
        let reply = try options.call(Operations.Runs.self, .init(uid: target?.uid, run: target?.run))
        if let target, reply.runs.isEmpty { throw ClientError.refused(.noSuchRun(run: target.name.text)) }
        try options.show(reply) {
            let view = RunsView(now: Terminal.utcSeconds, ownUID: Terminal.ownUID, colour: Terminal.colour)
            return target == nil ? view.runs(reply.runs) : reply.runs.map(view.steps).joined(separator: "\n")
        }
    }
}
