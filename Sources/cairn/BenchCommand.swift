// `cairn bench`: what the node's memory and a tier's folder give, what Cairn reaches there, and what to change.
import ArgumentParser
import CairnBench
import CairnClient
import CairnIO
import CairnModel
import CairnWire

struct BenchCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "bench", abstract: "Measure a tier's limit and what Cairn reaches on it; say what to change.",
        discussion: """
            Measures the folders named with --path, else the tiers of the running daemon. Needs no root, \
            and with --path no daemon: a cairnd of its own saves and restores there, in a temporary folder that is removed at the end, \
            also after ^C. Nothing else is touched. A folder needs room for some states; the node should be idle.

            EXAMPLE
              cairn bench --path /nvme0/cairn --size 4GiB
            """)
    @Option(name: .customLong("path"), help: ArgumentHelp("A folder to measure; may be repeated.", valueName: "dir")) var paths: [String] = []
    @Option(help: ArgumentHelp("The state to save, best that of all ranks of the node; 1GiB, or less where that does not fit.", valueName: "size")) var size: Size?
    @Option(help: ArgumentHelp("About how long to measure each folder.", valueName: "seconds")) var seconds = BenchLimits.usualSeconds
    @OptionGroup var options: CommonOptions

    func validate() throws {
        guard (1...BenchLimits.mostSeconds).contains(seconds) else { throw ValidationError("--seconds must be between 1 and \(BenchLimits.mostSeconds).") }
        guard !paths.contains("") else { throw ValidationError("--path must name a folder.") }
    }

    func run() throws {
        // Before any other thread is: all of them leave these signals to the one that waits for them.
        EndSignals.hold()
        let cleanup = Cleanup()
        try Threads.spawn(name: "signals") {
            let number = EndSignals.wait()
            cleanup.end()
            Self.say(left: cleanup.removeAll())
            ProcessFacts.exitProcess(128 + number)
        }
        let report: Report
        do {
            report = Report(try Bench(try target(), seconds: seconds, stateBytes: size?.bytes, cleanup: cleanup, progress: Terminal.redraw).run())
        } catch {
            let left = cleanup.removeAll()
            cleanup.waitIfEnding()
            Terminal.redraw("")
            Self.say(left: left)
            if let error = error as? ClientError { throw error }
            Terminal.error("cairn: \(error)\n")
            throw Found.bad
        }
        let left = cleanup.removeAll()
        cleanup.waitIfEnding()
        try options.show(report) { report.text(colour: Terminal.colour) }
        if Self.say(left: left) { throw Found.bad }
    }

    private func target() throws -> BenchTarget {
        if !paths.isEmpty { return BenchTarget(paths: paths) }
        return try BenchTarget(try options.call(Operations.Status.self, Nothing()))
    }

    @discardableResult
    private static func say(left: [String]) -> Bool {
        if !left.isEmpty { Terminal.error("cairn: \(BenchError.left(left))\n") }
        return !left.isEmpty
    }
}

/// `--size 4GiB`.
struct Size: ExpressibleByArgument {
    let bytes: Int
    init?(argument: String) {
        guard let bytes = Quantity.bytes(argument), (BenchLimits.leastStateBytes...BenchLimits.mostStateBytes).contains(bytes) else { return nil }
        self.bytes = bytes
    }
}
