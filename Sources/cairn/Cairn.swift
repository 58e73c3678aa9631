// The ops tool: asks the daemon and shows what it answers. `cairn --help` is its documentation.
import ArgumentParser
import CairnClient
import CairnWire

@main
struct Cairn: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "cairn",
        abstract: "See and tend the checkpoints that Cairn's daemon keeps.",
        discussion: """
            A run is one training job's history of checkpoints; a step is one checkpoint of it. Each user sees their own \
            runs. An operator sees all, and names another user's run as UID/RUN.

            The daemon is found at --socket, else CAIRN_SOCKET, else /run/cairn/cairn.sock, else \
            $XDG_RUNTIME_DIR/cairn/cairn.sock, else ~/.local/state/cairn/cairn.sock.

            EXIT CODES
              0  it went well
              1  something bad was found, or not all could be done
              2  wrong usage
              3  no daemon answers
              4  the daemon refused; the message says why
              5  the daemon did not answer in time, or the connection broke

            EXAMPLES
              cairn status
              cairn ls llama-7b
              cairn verify llama-7b 1200 --tier global
              cairn path llama-7b --json
              cairn branch llama-7b@1200 llama-7b-colder
              cairn gc llama-7b --dry-run
              cairn advise llama-7b --mtbf 6h
              cairn doctor
              cairn timeline llama-7b -o llama.html
              cairn bench --path /nvme0/cairn
            """,
        version: CairnVersion.text,
        subcommands: [StatusCommand.self, ListCommand.self, ShowCommand.self, PathCommand.self, VerifyCommand.self, WatchCommand.self, TimelineCommand.self,
                      BranchCommand.self, PinCommand.self, UnpinCommand.self, DeleteCommand.self, RetainCommand.self, DrainCommand.self, MetricsCommand.self, AdviseCommand.self, DoctorCommand.self, BenchCommand.self])

    static func main() {
        Terminal.prepare()
        do {
            var command = try parseAsRoot()
            try command.run()
        } catch let error as ClientError {
            Terminal.error("cairn: \(error)\n")
            exit(withError: error.exitCode)
        } catch {
            // An error prints itself and a hint, not the whole help.
            guard exitCode(for: error) == .validationFailure else { exit(withError: error) }
            Terminal.error(fullMessage(for: error) + "\n")
            exit(withError: ExitCode(2))
        }
    }
}

extension ClientError {
    var exitCode: ExitCode {
        switch self {
        case .noDaemon: ExitCode(3)
        case .refused, .notPermitted: ExitCode(4)
        case .timedOut, .closed, .violation, .failed: ExitCode(5)
        }
    }
}

/// Something bad was found; what it is has been said.
enum Found { static let bad = ExitCode(1) }
