// `cairn advise RUN`: how often the run had best save, and what would help.
import ArgumentParser
import CairnClient
import CairnModel
import CairnWire

struct AdviseCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "advise", abstract: "How often a run had best save, and what would help most.",
        discussion: """
            From what this node's daemon measured of the run's last saves and restores since its start. Docs/operations.md has the model.

            EXAMPLE
              cairn advise llama-7b --mtbf 6h
            """)
    @Argument(help: RunArgument.help) var target: RunArgument
    @Option(help: ArgumentHelp("The job's mean time between failures, as 90min, 6h, 7d.", valueName: "duration")) var mtbf = Duration(seconds: 86_400)
    @OptionGroup var options: CommonOptions

    func run() throws {
        let reply = try options.call(Operations.Advise.self, .init(uid: target.uid, run: target.run, mtbfSeconds: mtbf.seconds))
        try options.show(reply) { AdviceView(reply: reply, mtbfSeconds: mtbf.seconds).text }
    }

    /// `--mtbf 6h`.
    struct Duration: ExpressibleByArgument, CustomStringConvertible {
        let seconds: Int
        init(seconds: Int) { self.seconds = seconds }
        init?(argument: String) {
            guard let ms = Quantity.milliseconds(argument), Operations.mtbfSeconds.contains(ms / 1000) else { return nil }
            seconds = ms / 1000
        }
        var description: String { Quantity.durationText(seconds * 1000) }
    }
}
