// `cairn metrics`: counters and gauges for a collector.
import ArgumentParser
import CairnClient
import CairnWire

struct MetricsCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "metrics", abstract: "Counters, gauges and histograms, in Prometheus' text format.",
        discussion: "An operator gets all runs, others their own. `metrics: textfile:` in the configuration has the daemon write the same into a file.\n\nEXAMPLE\n  cairn metrics")
    @OptionGroup var options: CommonOptions

    func run() throws {
        let reply = try options.call(Operations.Metrics.self, Nothing())
        try options.show(reply) { reply.text }
    }
}
