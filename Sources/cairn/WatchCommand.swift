// `cairn watch [RUN]`: what happens to saves, as it happens.
import ArgumentParser
import CairnClient
import CairnWire

struct WatchCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "watch", abstract: "Follow saves as they go from level to level.",
        discussion: """
            One line for each level that a rank's save comes to; on a terminal, the progress in between. Ends with Ctrl-C, \
            or after --count levels. With --json, one event a line.

            EXAMPLE
              cairn watch llama-7b
            """)
    @Argument(help: RunArgument.help) var target: RunArgument?
    @Option(help: ArgumentHelp("End after so many lines.", valueName: "lines")) var count: Int?
    @OptionGroup var options: CommonOptions

    func validate() throws {
        if let count, count < 1 { throw ValidationError("--count must be at least 1.") }
    }

    func run() throws {
        var lines = WatchLines(ownUID: Terminal.ownUID)
        var left = count ?? Int.max
        let json = options.json
        let connection = try options.connect()
        try connection.stream(Operations.Watch.self, .init(uid: target?.uid, run: target?.run), timeoutMilliseconds: nil) { reply in
            var written = true
            switch lines.line(for: reply.event) {
            case .reached(let text):
                Terminal.redraw("")
                // Integers, strings and levels: there is no event that JSON cannot hold.
                written = Terminal.output(json ? (try? CommonOptions.line(reply.event)) ?? "" : text + "\n")
                left -= 1
            case .progress(let text):
                if json { written = Terminal.output((try? CommonOptions.line(reply.event)) ?? "") } else { Terminal.redraw(text) }
            }
            return written && left > 0
        }
        Terminal.redraw("")
    }
}
