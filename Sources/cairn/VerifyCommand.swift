// `cairn verify RUN [STEP]`: has every block of a step read and checked, and lists the bad ones.
import ArgumentParser
import CairnClient
import CairnModel
import CairnWire

struct VerifyCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "verify", abstract: "Check every block of a step; of the newest, if none is named.",
        discussion: """
            Reads the step's files on each tier that holds it, or on one, and compares each block of 256 KiB with the checksum computed when it was \
            staged. Exit code 1 and a list of the bad blocks if any is not the same.

            EXAMPLE
              cairn verify llama-7b 1200 --tier global
            """)
    @Argument(help: RunArgument.help) var target: RunArgument
    @Argument(help: "The step.") var step: Int?
    @Option(help: ArgumentHelp("local or global; each that holds the step, if none is named.", valueName: "tier")) var tier: Tier?
    @OptionGroup var options: CommonOptions

    func run() throws {
        var last: Operations.Verify.Reply?
        var bad: [Operations.BadBlock] = []
        // One a tier, in the order in which they are read: its last reply, with all that is bad there.
        var tiers: [Operations.Verify.Reply] = []
        let connection = try options.connect()
        let parameters = Operations.Verify.Parameters(uid: target.uid, run: target.run, step: step, tier: tier?.rawValue)
        defer { Terminal.redraw("") }
        try connection.stream(Operations.Verify.self, parameters, timeoutMilliseconds: options.timeout * 1000) { reply in
            bad += reply.bad
            last = reply
            var whole = reply
            if tiers.last?.tier == reply.tier, let before = tiers.popLast() { whole.bad = before.bad + reply.bad }
            tiers.append(whole)
            Terminal.redraw("step \(reply.step)  \(Table.printable(reply.tier))  rank \(reply.rank)  "
                + ProgressBar.render(done: reply.doneBytes, total: reply.totalBytes) + (bad.isEmpty ? "" : "  \(bad.count) bad"))
            return !reply.finished
        }
        Terminal.redraw("")
        guard var reply = last, reply.finished else { throw ClientError.closed(socket: connection.socketPath) }
        reply.bad = bad
        try options.show(reply) { tiers.map(text).joined() }
        if !bad.isEmpty { throw Found.bad }
    }

    /// One tier's result.
    private func text(_ reply: Operations.Verify.Reply) -> String {
        let what = "step \(reply.step) (sequence \(CommitSequence(wire: reply.sequence))) on the \(Table.printable(reply.tier)) tier"
        guard !reply.bad.isEmpty else {
            return "\(what): \(HumanSize.short(reply.totalBytes)), \(Table.Style.green.apply("every block is good", colour: Terminal.colour))\n"
        }
        var table = Table([("BLOCK", .right), ("FILE", .left), ("REASON", .left)])
        for block in reply.bad {
            table.add([Table.Cell(block.block < 0 ? "file" : String(block.block)), Table.Cell(block.path), Table.Cell(block.reason, .red)])
        }
        return "\(what): \(Table.Style.red.apply("\(reply.bad.count) bad", colour: Terminal.colour))\n" + table.render(colour: Terminal.colour)
    }
}

extension Tier: ExpressibleByArgument {
    public init?(argument: String) {
        // Memory is checked at each restore; there is no file to verify.
        guard let tier = Tier(rawValue: argument), tier != .memory else { return nil }
        self = tier
    }
    public static var allValueStrings: [String] { ["local", "global"] }
}
