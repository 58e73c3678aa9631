// `cairn branch RUN@STEP NEWRUN`: a run that goes on from a step of another one, which stays as it is.
import ArgumentParser
import CairnClient
import CairnModel
import CairnWire

struct BranchCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "branch", abstract: "Begin a new run at a committed step of another one.",
        discussion: """
            The new run's first step shares the other's bytes where the filesystem can; neither depends on the other afterwards. A job that is \
            started under the new name restores it. Without @STEP: the newest step. Where a job saved a step twice, @STEP.SEQUENCE tells which.

            EXAMPLE
              cairn branch llama-7b@1200 llama-7b-colder
            """)
    @Argument(help: ArgumentHelp("The run, and the step that the new one begins at.", valueName: "run@step")) var from: StepOfRunArgument
    @Argument(help: ArgumentHelp("The new run, of the same user.", valueName: "newrun")) var into: String
    @OptionGroup var options: CommonOptions

    func validate() throws {
        guard RunKey.isValidName(into) else { throw ValidationError("'\(into)' is no run's name: up to 100 letters, digits, '.', '_', '-'.") }
        guard into != from.run.name else { throw ValidationError("A run cannot be branched into itself.") }
    }

    func run() throws {
        let reply = try options.call(Operations.Branch.self, .init(uid: from.run.uid, run: from.run.name, step: from.step,
                                                                      sequence: from.sequence?.wire, into: into))
        let new = from.run.uid.map { "\($0)/\(into)" } ?? into
        try options.show(reply) { "run \(new) begins at step \(reply.step) of \(from.run.text), as sequence \(CommitSequence(wire: reply.sequence))\n" }
    }
}

/// RUN, RUN@STEP or RUN@STEP.SEQUENCE on the command line.
struct StepOfRunArgument: ExpressibleByArgument {
    let run: RunName
    let step: Int?
    let sequence: CommitSequence?
    init?(argument: String) {
        let parts = argument.split(separator: "@", omittingEmptySubsequences: false)
        guard parts.count <= 2, let name = RunName(String(parts[0])) else { return nil }
        run = name
        guard parts.count == 2 else { (step, sequence) = (nil, nil); return }
        let which = parts[1].split(separator: ".", omittingEmptySubsequences: false)
        guard which.count <= 2, which[0].utf8.allSatisfy({ (0x30...0x39).contains($0) }), let number = Int(which[0]) else { return nil }
        step = number
        sequence = which.count == 2 ? CommitSequence(String(which[1])) : nil
        if which.count == 2, sequence == nil { return nil }
    }
}
