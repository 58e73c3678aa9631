// What a plain `cairnd` without a file runs on: one local tier in the user's own state folder, no root needed.
import FoundationEssentials

extension Configuration {
    /// - parameters:
    ///   - environment: of the process; `HOME` or `XDG_STATE_HOME` must be there.
    ///   - memoryBytes: the machine's; the pool takes at most a quarter of it.
    ///   - isFolder: asked for `XDG_RUNTIME_DIR` only, which some shells name without making it.
    public static func embeddedDefault(
        environment: [String: String] = ProcessInfo.processInfo.environment,
        memoryBytes: Int = Int(clamping: ProcessInfo.processInfo.physicalMemory),
        isFolder: (String) -> Bool = Self.isFolder
    ) throws(ConfigurationError) -> Configuration {
        func folder(_ name: String) -> String? { environment[name].flatMap(absolutePath) }
        guard let state = folder("XDG_STATE_HOME") ?? folder("HOME").map({ $0 + "/.local/state" }) else {
            throw ConfigurationError(.missing, file: "embedded default", """
                neither XDG_STATE_HOME nor HOME is an absolute path, so there is no folder for checkpoints; \
                set one of them, or give --config FILE
                """)
        }
        var result = Configuration()
        if let runtime = folder("XDG_RUNTIME_DIR"), isFolder(runtime) {
            result.socket = runtime + "/cairn/cairn.sock"
        } else {
            // Where every client looks last, whatever XDG_STATE_HOME says.
            result.socket = (folder("HOME").map { $0 + "/.local/state" } ?? state) + "/cairn/cairn.sock"
        }
        guard socketPath(result.socket) != nil else {
            throw ConfigurationError(.badValue, file: "embedded default", """
                expected \(socketSyntax) for the socket, found '\(result.socket)'; set XDG_RUNTIME_DIR, or give --config FILE
                """)
        }
        let chunks = max(Pool.leastChunks, min(1 << 30, memoryBytes / 4) / Pool.onlyChunkBytes)
        result.pool.sizeBytes = chunks * Pool.onlyChunkBytes
        result.tiers.local = LocalTier(paths: [state + "/cairn/checkpoints"])
        result.state = state + "/cairn"
        // The only tier is also the one that commits, so it keeps what a global tier would.
        result.retention.local = result.retention.global
        return result
    }

    public static func isFolder(_ path: String) -> Bool {
        var isDirectory = false
        return FileManager.default.fileExists(atPath: path, isDirectory: &isDirectory) && isDirectory
    }
}
