// `cairn status`: the daemon, its workers, pool and tiers, and the saves in flight.
import ArgumentParser
import CairnClient
import CairnWire

struct StatusCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "status", abstract: "How the daemon does: workers, pool, tiers, saves in flight.",
        discussion: "EXAMPLE\n  cairn status --json")
    @OptionGroup var options: CommonOptions

    func run() throws {
        let reply = try options.call(Operations.Status.self, Nothing())
        try options.show(reply) { StatusView(reply: reply, ownUID: Terminal.ownUID, colour: Terminal.colour).text }
    }
}
