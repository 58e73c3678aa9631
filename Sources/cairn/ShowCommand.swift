// `cairn show RUN STEP`: what a step holds: its ranks' files, tensors and objects.
import ArgumentParser
import CairnClient
import CairnWire

struct ShowCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "show", abstract: "What a step holds: ranks, tensors, objects.",
        discussion: "EXAMPLE\n  cairn show llama-7b 1200 --all")
    @Argument(help: RunArgument.help) var target: RunArgument
    @Argument(help: "The step.") var step: Int
    @Flag(help: "All tensors and objects; else the first 20 of each.") var all = false
    @OptionGroup var options: CommonOptions

    func run() throws {
        let reply = try options.call(Operations.Describe.self, .init(uid: target.uid, run: target.run, step: step))
        try options.show(reply) {
            StepView(reply: reply, most: all ? Int.max : 20, now: Terminal.utcSeconds, ownUID: Terminal.ownUID, colour: Terminal.colour).text
        }
    }
}
