// `cairn drain [RUN]`: waits until what was accepted is flushed, e.g. before a node is taken down.
import ArgumentParser
import CairnClient
import CairnWire

struct DrainCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "drain", abstract: "Finish flushing all saves, or those of one run.",
        discussion: "Exit code 1 if some were not finished within --limit.\n\nEXAMPLE\n  cairn drain --limit 600")
    @Argument(help: RunArgument.help) var target: RunArgument?
    @Option(help: ArgumentHelp("Give up after so long.", valueName: "seconds")) var limit: Int?
    @OptionGroup var options: CommonOptions

    func validate() throws {
        if let limit, !(1...86_400).contains(limit) { throw ValidationError("--limit must be between 1 and 86400 seconds.") }
    }

    func run() throws {
        var last: Operations.Drain.Reply?
        let connection = try options.connect()
        let parameters = Operations.Drain.Parameters(uid: target?.uid, run: target?.run, timeoutMs: limit.map { $0 * 1000 })
        // The daemon tells of each change; without one for long, --limit is what ends this.
        try connection.stream(Operations.Drain.self, parameters, timeoutMilliseconds: limit.map { ($0 + options.timeout) * 1000 }) { reply in
            last = reply
            Terminal.redraw("\(reply.saves) \(reply.saves == 1 ? "save" : "saves") left, \(HumanSize.short(reply.bytes))")
            return !reply.finished
        }
        Terminal.redraw("")
        guard let reply = last, reply.finished else { throw ClientError.closed(socket: connection.socketPath) }
        try options.show(reply) {
            reply.saves == 0 ? "all saves are flushed\n" : "\(reply.saves) saves, \(HumanSize.short(reply.bytes)), are not flushed yet\n"
        }
        if reply.saves > 0 { throw Found.bad }
    }
}
