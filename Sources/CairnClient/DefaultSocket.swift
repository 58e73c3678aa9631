// Where a daemon is looked for: the same rule for the daemon, the command line tool and the Python package.
// CAIRN_SOCKET; else the first of these that exists, else the last:
//   /run/cairn/cairn.sock             the system service
//   $XDG_RUNTIME_DIR/cairn/cairn.sock the user's service
//   ~/.local/state/cairn/cairn.sock   a daemon without configuration
import CairnIO

public enum DefaultSocket {
    /// In the order in which they are tried; a path that was asked for stands alone.
    static func candidates(environment: (String) -> String?) -> [String] {
        if let asked = environment("CAIRN_SOCKET"), !asked.isEmpty { return [asked] }
        var paths = ["/run/cairn/cairn.sock"]
        if let runtime = environment("XDG_RUNTIME_DIR"), !runtime.isEmpty { paths.append(runtime + "/cairn/cairn.sock") }
        paths.append((environment("HOME") ?? "") + "/.local/state/cairn/cairn.sock")
        return paths
    }

    static var candidates: [String] { candidates(environment: ProcessFacts.environment) }
}
