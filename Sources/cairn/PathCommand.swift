// `cairn path RUN [STEP]`: the folder of a step, for scripts.
import ArgumentParser
import CairnClient
import CairnWire

struct PathCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "path", abstract: "The folder of a committed step; of the newest, if none is named.",
        discussion: """
            The folder's *.safetensors files are readable by any safetensors reader.

            EXAMPLE
              ls -l "$(cairn path llama-7b)"
            """)
    @Argument(help: RunArgument.help) var target: RunArgument
    @Argument(help: "The step.") var step: Int?
    @OptionGroup var options: CommonOptions

    func run() throws {
        let reply = try options.call(Operations.Path.self, .init(uid: target.uid, run: target.run, step: step))
        try options.show(reply) { reply.path + "\n" }
    }
}
