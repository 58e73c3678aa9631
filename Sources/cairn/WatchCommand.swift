// `cairn watch [RUN]`: saves as they go on, drawn anew each interval on a terminal, one frame after the other into a pipe; or each event as a line.
import ArgumentParser
import CairnClient
import CairnIO
import CairnWire

struct WatchCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "watch", abstract: "Follow saves as they go from level to level.",
        discussion: """
            Shows how fast each stage goes, the pool, the tiers, and each save in flight with the ranks that are furthest behind; of many ranks, \
            the others are summed up. Ends with Ctrl-C. Into a pipe it writes a frame each interval.

            With --events, one line for each level that a rank's save comes to, with --json one event a line; --count ends it after so many.

            EXAMPLE
              cairn watch llama-7b
              cairn watch --by slowest --interval 5
              cairn watch llama-7b --once
            """)
    @Argument(help: RunArgument.help) var target: RunArgument?
    @Option(help: ArgumentHelp("What comes first: slowest, age or rank.", valueName: "order")) var by = WatchView.Order.slowest
    @Option(help: ArgumentHelp("A frame each so many seconds.", valueName: "seconds")) var interval = 1.0
    @Flag(help: "One frame, then end.") var once = false
    @Flag(help: "Events as lines instead of frames.") var events = false
    @Option(help: ArgumentHelp("End after so many frames, or events.", valueName: "number")) var count: Int?
    @OptionGroup var options: CommonOptions

    func validate() throws {
        if let count, count < 1 { throw ValidationError("--count must be at least 1.") }
        guard (0.1...3600).contains(interval) else { throw ValidationError("--interval must be between 0.1 and 3600 seconds.") }
        guard !(once && (events || count != nil)) else { throw ValidationError("--once goes with neither --events nor --count.") }
    }

    func run() throws {
        if events { try followEvents() } else { try followFrames() }
    }

    // MARK: frames

    private func followFrames() throws {
        let connection = try options.connect()
        func ask() throws -> Operations.Progress.Reply {
            try connection.call(Operations.Progress.self, .init(uid: target?.uid, run: target?.run), timeoutMilliseconds: options.timeout * 1000)
        }
        let isTerminal = Terminal.outputIsTerminal, left = once ? 1 : count ?? Int.max
        var before: Operations.Progress.Reply?
        if once, !options.json {
            // Rates need two answers.
            before = try ask()
            Clock.sleep(milliseconds: Self.onceMilliseconds)
        }
        for number in 0..<left {
            if number > 0 { Clock.sleep(milliseconds: Int(interval * 1000)) }
            let reply = try ask()
            if options.json {
                guard Terminal.output(try CommonOptions.line(reply)) else { return }
            } else {
                let rows = isTerminal ? Terminal.rows : Self.pipeRows
                let view = WatchView(reply, before: before, order: by, most: max(8, rows - 6 - reply.tiers.count - reply.runs.count), ownUID: Terminal.ownUID, colour: Terminal.colour)
                // Drawn over the frame before, then what is left of that is erased: no flicker.
                let frame = isTerminal && !once
                    ? (number == 0 ? "\u{1B}[2J" : "") + "\u{1B}[H" + view.text.split(separator: "\n", omittingEmptySubsequences: false).joined(separator: "\u{1B}[K\n") + "\u{1B}[J"
                    : view.text + (once ? "" : "\n")
                guard Terminal.output(frame) else { return }
            }
            before = reply
        }
    }

    /// Between the two answers of --once.
    private static let onceMilliseconds = 500
    /// Lines of a frame that goes into a pipe.
    private static let pipeRows = 48

    // MARK: events

    private func followEvents() throws {
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

extension WatchView.Order: ExpressibleByArgument {}
