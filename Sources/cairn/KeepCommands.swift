// `cairn pin`, `unpin`, `delete`: what retention may do with a step.
import ArgumentParser
import CairnClient
import CairnWire

struct PinCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "pin", abstract: "Keep a step: retention does not delete it.", discussion: "EXAMPLE\n  cairn pin llama-7b 1200")
    @OptionGroup var target: StepArguments

    func run() throws {
        let reply = try target.options.call(Operations.Pin.self, .init(uid: target.run.uid, run: target.run.run, step: target.step))
        try target.options.show(reply) { "step \(target.step) of \(target.run.name.text) is pinned\n" }
    }
}

struct UnpinCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "unpin", abstract: "Give a pinned step back to retention.", discussion: "EXAMPLE\n  cairn unpin llama-7b 1200")
    @OptionGroup var target: StepArguments

    func run() throws {
        let reply = try target.options.call(Operations.Unpin.self, .init(uid: target.run.uid, run: target.run.run, step: target.step))
        try target.options.show(reply) { "step \(target.step) of \(target.run.name.text) is no longer pinned\n" }
    }
}

struct DeleteCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "delete", abstract: "Delete a step on all tiers. There is no way back.",
        discussion: "The newest committed step of a run is refused.\n\nEXAMPLE\n  cairn delete llama-7b 1200")
    @OptionGroup var target: StepArguments

    func run() throws {
        let reply = try target.options.call(Operations.Delete.self, .init(uid: target.run.uid, run: target.run.run, step: target.step))
        try target.options.show(reply) { "step \(target.step) of \(target.run.name.text) is deleted\n" }
    }
}

/// RUN STEP, and the common options.
struct StepArguments: ParsableArguments {
    @Argument(help: RunArgument.help) var run: RunArgument
    @Argument(help: "The step.") var step: Int
    @OptionGroup var options: CommonOptions
}
