// What every command takes, and what it does with it: where the daemon is, and how its answer is shown.
import ArgumentParser
import CairnClient
import CairnWire
import FoundationEssentials

struct CommonOptions: ParsableArguments {
    @Option(help: ArgumentHelp("The daemon's socket.", valueName: "path")) var socket: String?
    @Flag(help: "Exact numbers under the wire's names, as JSON.") var json = false
    @Option(help: ArgumentHelp("How long to wait for an answer.", valueName: "seconds")) var timeout = 30

    func validate() throws {
        guard (1...86_400).contains(timeout) else { throw ValidationError("--timeout must be between 1 and 86400 seconds.") }
        if let socket, !(1...107).contains(socket.utf8.count) { throw ValidationError("--socket must be a path of 1 to 107 bytes.") }
    }

    func connect() throws(ClientError) -> Connection {
        try Connection.open(socket: socket)
    }

    func call<Method: WireMethod>(_ method: Method.Type, _ parameters: Method.Parameters) throws(ClientError) -> Method.Reply {
        try connect().call(method, parameters, timeoutMilliseconds: timeout * 1000)
    }

    /// The answer as JSON, or what `text` makes of it.
    func show(_ reply: some Encodable, text: () -> String) throws {
        Terminal.output(json ? try Self.pretty(reply) : text())
    }

    static func pretty(_ value: some Encodable) throws -> String {
        try encode(value, [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes])
    }

    /// One value in one line, for streams.
    static func line(_ value: some Encodable) throws -> String {
        try encode(value, [.sortedKeys, .withoutEscapingSlashes])
    }

    private static func encode(_ value: some Encodable, _ formatting: JSONEncoder.OutputFormatting) throws -> String {
        let encoder = JSONEncoder()
        encoder.outputFormatting = formatting
        return String(decoding: try encoder.encode(value), as: UTF8.self) + "\n"
    }
}

/// RUN on the command line.
struct RunArgument: ExpressibleByArgument {
    let name: RunName
    init?(argument: String) {
        guard let name = RunName(argument) else { return nil }
        self.name = name
    }
    var uid: UInt32? { name.uid }
    var run: String { name.name }
    static let help = ArgumentHelp("A run's name: up to 100 letters, digits, '.', '_', '-'; UID/RUN for another user's.", valueName: "run")
}
