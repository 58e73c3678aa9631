// `cairn timeline RUN`: where each save's time went, as a picture or a table.
import ArgumentParser
import CairnClient
import CairnIO
import CairnWire

struct TimelineCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "timeline", abstract: "Where the time of a run's last saves went, by rank and tier.",
        discussion: """
            Says what stands out: a rank that is slower than the others, the tier that takes most of the time, how long training stood still. With -o, \
            a picture (.svg) or a page (.html) with each save's stages and a heat map by rank; without, a table. A daemon knows the ranks of its node: \
            --add puts other nodes' (`--json`, saved to a file) beside them.

            EXAMPLE
              cairn timeline llama-7b --last 50 -o llama.html
            """)
    @Argument(help: RunArgument.help) var target: RunArgument
    @Option(help: ArgumentHelp("So many of the newest saves.", valueName: "saves")) var last = 20
    @Option(name: .shortAndLong, help: ArgumentHelp("Write a picture here: .svg or .html.", valueName: "file")) var output: String?
    @Option(help: ArgumentHelp("Another node's answer to the same command with --json; may be repeated.", valueName: "file")) var add: [String] = []
    @OptionGroup var options: CommonOptions

    func validate() throws {
        guard (1...10_000).contains(last) else { throw ValidationError("--last must be between 1 and 10000.") }
        if let output, !output.hasSuffix(".svg"), !output.hasSuffix(".html") { throw ValidationError("-o must end in .svg or .html.") }
    }

    func run() throws {
        var reply = try options.call(Operations.History.self, .init(uid: target.uid, run: target.run, last: last))
        var nodes = [reply.node]
        for file in add {
            let other = try Self.read(file)
            reply.saves += other.saves
            nodes.append(other.node)
        }
        let timeline = Timeline(run: target.name.text, reply.saves)
        guard let output else { return try options.show(reply) { TimelineTable(timeline).text(colour: Terminal.colour) } }
        let subtitle = "\(timeline.saves.count) saves of \(timeline.ranks.count) \(timeline.ranks.count == 1 ? "rank" : "ranks") of node \(nodes.joined(separator: ", ")), "
            + "until \(Clock.iso8601((reply.saves.map(\.acceptedMs).max() ?? 0) / 1000))"
        let picture = TimelinePicture(timeline, subtitle: subtitle)
        try Self.write(output, output.hasSuffix(".html") ? picture.html : picture.svg)
        if options.json { try options.show(reply) { "" } } else { Terminal.error(timeline.findings.map { "\($0)\n" }.joined() + "written to \(output)\n") }
    }

    private static func read(_ file: String) throws -> Operations.History.Reply {
        do {
            let (folder, name) = try place(file)
            let reply = try IncomingReply<Operations.History.Reply>(message: Array("{\"parameters\":".utf8) + Files.readAll(folder, name, limit: WireLimits.messageBytes) + Array("}".utf8)).result.get()
            guard reply.saves.allSatisfy(\.isSound) else { throw ValidationError("it has times or names that cannot be") }
            return reply
        } catch {
            throw ValidationError("'\(file)' is not what `cairn timeline RUN --json` prints: \(error)")
        }
    }

    private static func write(_ file: String, _ text: String) throws {
        do {
            let (folder, name) = try place(file)
            let opened = try Files.open(folder, name, flags: [.write, .create, .truncate], mode: 0o644)
            try PositionedIO.write(opened, Array(text.utf8), fileOffset: 0, path: file)
        } catch {
            Terminal.error("cairn: \(error)\n")
            throw Found.bad
        }
    }

    private static func place(_ file: String) throws -> (Descriptor, String) {
        let parts = file.split(separator: "/", omittingEmptySubsequences: true)
        let folder = (file.hasPrefix("/") ? "/" : "") + parts.dropLast().joined(separator: "/")
        return (try Files.openRoot(folder.isEmpty ? "." : folder), parts.last.map(String.init) ?? "")
    }
}
