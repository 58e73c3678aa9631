// cairnd: the daemon's program. `cairnd [--config FILE] [--socket PATH] [--check]` is the main process; it starts itself again
// as `cairnd worker stager`, `cairnd worker tier` and, where something is to be kept or run beside saves, `cairnd worker keeper`, with the socket to the main process as descriptor 3.
import CairnConfiguration
import CairnEngine
import CairnIO
import CairnKeeper
import CairnMessages
import CairnStager
import CairnTier
import CairnWire

let usage = """
    usage: cairnd [--config FILE] [--socket PATH] [--check [--json]]

    The per-node checkpointing daemon. Without --config it starts on an embedded default: one local tier in your
    own state folder, a socket beside it, no root needed.

      --config FILE   configuration (YAML); Config/cairnd.yaml shows every key with its default
      --socket PATH   listen here instead of where the configuration or CAIRN_SOCKET says
      --check         read the configuration, say whether it is sound, and exit; --json: what it comes to, for programs
      --version       print the version and exit
      --help          print this text and exit

    Exit codes: 0 ended as asked, 1 could not start or go on, 2 wrong usage or configuration.
    Example: cairnd --config /etc/cairn/cairnd.yaml

    """

func complain(_ text: String, _ code: Int32) -> Never {
    StandardStreams.write(to: 2, "cairnd: \(text)\n")
    ProcessFacts.exitProcess(code)
}

ProcessFacts.ignoreSignals()
let arguments = Array(CommandLine.arguments.dropFirst())
if arguments.first == "worker", arguments.count >= 2 {
    // In a group of signals with the main process on a terminal: its ^C must not end a worker before what is staged is flushed.
    ProcessFacts.ignoreInterrupt()
    let channel = Descriptor(owning: 3)
    switch arguments[1] {
    case "stager":
        ProcessFacts.setProcessName("cairnd-stager")
        ProcessFacts.exitProcess(runStager(channel: channel))
    case "tier":
        ProcessFacts.setProcessName("cairnd-" + (arguments.count > 2 ? arguments[2] : "tier"))
        ProcessFacts.exitProcess(runTierWorker(channel: channel))
    case "keeper":
        ProcessFacts.setProcessName("cairnd-keeper")
        ProcessFacts.exitProcess(runKeeper(channel: channel))
    default: complain("no worker '\(arguments[1])'", 2)
    }
}

var file: String?
var socket = ProcessFacts.environment("CAIRN_SOCKET")
var check = false, asJSON = false
var rest = arguments[...]
while let argument = rest.popFirst() {
    switch argument {
    case "--help", "-h":
        StandardStreams.write(to: 1, usage)
        ProcessFacts.exitProcess(0)
    case "--version":
        StandardStreams.write(to: 1, "cairnd \(CairnVersion.text)\n")
        ProcessFacts.exitProcess(0)
    case "--check": check = true
    case "--json": asJSON = true
    case "--config", "--socket":
        guard let value = rest.popFirst() else { complain("\(argument) needs a value\n\n\(usage)", 2) }
        if argument == "--config" { file = value } else { socket = value }
    default: complain("unknown argument '\(argument)'\n\n\(usage)", 2)
    }
}

do {
    var configuration: Configuration
    if let file {
        configuration = try Configuration.load(path: file)
    } else {
        configuration = try Configuration.embeddedDefault()
        // A configured tier's parent must exist (a mount that is missing must not be written beside); the default's is ours.
        for path in configuration.tiers.local?.paths ?? [] {
            try Daemon.makeFolders("/" + path.split(separator: "/").dropLast().joined(separator: "/"))
        }
    }
    if let socket { configuration.socket = socket }
    if check {
        StandardStreams.write(to: 1, asJSON ? try configuration.setup.json() : "cairnd: the configuration is sound\n")
        ProcessFacts.exitProcess(0)
    }
    EngineLimits().verify()
    try? ProcessFacts.raiseOpenFilesLimit()
    try? ProcessFacts.raiseMemoryLockLimit()
    let log = try Log()
    let daemon = try Daemon(configuration: configuration, file: file, isSocketGiven: socket != nil, log: log)
    try daemon.watchSignals()
    try daemon.start()
    daemon.loop.run()
    daemon.removeSockets()
    if let fatal = daemon.fatal {
        log.drain(milliseconds: 500)
        complain(fatal, 1)
    }
    log.write(.notice, "stopped")
    log.drain(milliseconds: 500)
    ProcessFacts.exitProcess(0)
} catch let error as ConfigurationError {
    complain("\(error)", 2)
} catch {
    complain("\(error)", 1)
}
