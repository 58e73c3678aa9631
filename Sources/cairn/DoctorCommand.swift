// `cairn doctor`: what is wrong with this node for Cairn, each with its remedy.
import ArgumentParser
import CairnClient
import CairnDoctor

struct DoctorCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "doctor", abstract: "Check this node, the daemon and its tiers; say what to change.",
        discussion: """
            With a daemon: its limits, pool and tiers. Without one: what --config, else cairnd's embedded default, says. Run it as the \
            daemon's user: each tier's folder is tried with a few small files, which are removed again. A tier that does not answer is \
            not touched.

            Exit code 1 if there is a problem; warnings alone are 0.

            EXAMPLE
              cairn doctor --config /etc/cairn/cairnd.yaml
            """)
    @Option(help: ArgumentHelp("A configuration to check, whether or not it runs.", valueName: "file")) var config: String?
    @OptionGroup var options: CommonOptions

    func run() throws {
        let report: DoctorReport
        do { report = DoctorReport(try NodeState.read(socket: options.socket, configuration: config, timeoutMilliseconds: options.timeout * 1000)) } catch {
            Terminal.error("cairn: \(error)\n")
            throw Found.bad
        }
        try options.show(report) { report.text(colour: Terminal.colour) }
        if report.problems > 0 { throw Found.bad }
    }
}
