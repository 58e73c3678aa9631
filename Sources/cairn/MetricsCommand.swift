// `cairn metrics`: counters and gauges for a collector.
import ArgumentParser
import CairnClient
import CairnWire

struct MetricsCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "metrics", abstract: "Counters and gauges, in Prometheus' text format.",
        discussion: "EXAMPLE\n  cairn metrics > /var/lib/node_exporter/cairn.prom")
    @OptionGroup var options: CommonOptions

    func run() throws {
        let reply = try options.call(Operations.Metrics.self, Nothing())
        try options.show(reply) { reply.text }
    }
}
