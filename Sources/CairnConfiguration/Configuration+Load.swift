// From the YAML text to the values: every key that there is, its type, its range, and what must hold between them.
import CairnModel
import FoundationEssentials
import Yams

extension Configuration {
    /// - parameter file: its name, for errors only.
    public static func load(text: String, file: String) throws(ConfigurationError) -> Configuration {
        guard let root = try compose(text, file) else {
            throw ConfigurationError(.missing, file: file, line: 1, column: 1,
                                     "the file is empty; expected at least 'tiers' with a local or a global one")
        }
        let top = try Section(root, path: "", file: file,
                              known: ["socket", "pool", "tiers", "retention", "operators", "files", "limits", "state", "history", "metrics", "onCommit"])
        var result = Configuration()
        if let socket = try top.value("socket", expected: socketSyntax, parse: socketPath) { result.socket = socket }
        try result.pool.read(top)
        try result.tiers.read(top)
        try result.retention.read(top)
        if result.retention.watermarks != nil, result.tiers.local == nil || result.tiers.global == nil {
            throw top.error(.contradiction, at: "retention", "expected a local and a global tier for retention.local.highWatermark: only what the global tier holds too is evicted")
        }
        try result.operators.read(top)
        try result.files.read(top)
        try result.limits.read(top)
        result.state = try top.value("state", expected: pathSyntax, nullable: true, parse: absolutePath)
        try result.history.read(top)
        try result.metrics.read(top)
        result.onCommit = try OnCommit.read(top)
        return result
    }

    /// Reads and loads a file, as `--config FILE` names it.
    public static func load(path: String) throws(ConfigurationError) -> Configuration {
        let data: Data
        do {
            data = try Data(contentsOf: URL(filePath: path))
        } catch {
            throw ConfigurationError(.unreadable, file: path, "cannot be read: \(error)")
        }
        guard let text = String(validating: data, as: UTF8.self) else {
            throw ConfigurationError(.notYAML, file: path, "is not UTF-8 text")
        }
        return try load(text: text, file: path)
    }

    private static func compose(_ text: String, _ file: String) throws(ConfigurationError) -> Node? {
        do {
            return try Yams.compose(yaml: text)
        } catch let error as YamlError {
            switch error {
            case .duplicatedKeysInMapping(let keys, let context):
                let names = keys.map { "'\($0)'" }.joined(separator: ", ")
                throw Section.failure(.duplicateKey, file, context.mark, """
                    found \(names) twice in one mapping, expected each key once; remove one (the first stands here)
                    """)
            case .scanner(_, let problem, let mark, _), .parser(_, let problem, let mark, _), .composer(_, let problem, let mark, _):
                throw Section.failure(.notYAML, file, mark, "not YAML: \(problem)")
            default:
                throw ConfigurationError(.notYAML, file: file, "not YAML: \(error)")
            }
        } catch {
            throw ConfigurationError(.notYAML, file: file, "not YAML: \(error)")
        }
    }

    /// A Unix socket's path has 108 bytes with its NUL, and `.memory` follows it for the stager's.
    static let socketSyntax = "an absolute path of at most 100 bytes"
    static func socketPath(_ text: String) -> String? {
        guard let path = absolutePath(text), path.utf8.count <= 100 else { return nil }
        return path
    }

    static let pathSyntax = "an absolute path without '.' or '..' in it"
    /// Without slashes at its end or doubled: paths are compared as texts.
    static func absolutePath(_ text: String) -> String? {
        guard text.hasPrefix("/"), !text.unicodeScalars.contains("\0") else { return nil }
        let parts = text.split(separator: "/")
        guard !parts.isEmpty, !parts.contains("."), !parts.contains("..") else { return nil }
        return "/" + parts.joined(separator: "/")
    }
}

extension Configuration.Pool {
    mutating func read(_ top: Section) throws(ConfigurationError) {
        guard let section = try top.section("pool", known: ["size", "chunk", "lock"]) else { return }
        if let bytes = try section.value("size", expected: Quantity.sizeSyntax, parse: Quantity.bytes) {
            guard (Self.leastBytes...Self.mostBytes).contains(bytes), bytes % chunkBytes == 0 else {
                throw section.error(.badValue, at: "size", """
                    expected a multiple of \(Quantity.sizeText(chunkBytes)) of at least \(Self.leastChunks) chunks \
                    (\(Quantity.sizeText(Self.leastBytes))), and at most \(Quantity.sizeText(Self.mostBytes)), for pool.size, found \(Quantity.sizeText(bytes))
                    """)
            }
            sizeBytes = bytes
        }
        if let bytes = try section.value("chunk", expected: Quantity.sizeSyntax, parse: Quantity.bytes), bytes != chunkBytes {
            throw section.error(.badValue, at: "chunk", """
                expected \(Quantity.sizeText(chunkBytes)) for pool.chunk, the only size that this version has, \
                found \(Quantity.sizeText(bytes)); remove the key
                """)
        }
        lock = try section.choice("lock") ?? lock
    }
}

extension Configuration.Tiers {
    mutating func read(_ top: Section) throws(ConfigurationError) {
        guard let section = try top.section("tiers", known: ["local", "global"], emptyAllowed: false) else {
            throw top.error(.missing, "expected 'tiers' with a local or a global one: nowhere to write checkpoints is named")
        }
        local = try Configuration.LocalTier.read(section)
        global = try Configuration.GlobalTier.read(section)
        if local == nil, global == nil {
            throw top.error(.missing, at: "tiers", "expected 'local' or 'global' in tiers, found neither")
        }
        // One tier's folder inside another's would be scanned, and cleaned, as that tier's own.
        let all = (local?.paths ?? []).map { ($0, "local") } + (global.map { [($0.path, "global")] } ?? [])
        for (index, one) in all.enumerated() {
            for other in all[(index + 1)...] where (one.0 + "/").hasPrefix(other.0 + "/") || (other.0 + "/").hasPrefix(one.0 + "/") {
                throw section.error(.contradiction, at: other.1, """
                    expected folders that are apart, found '\(one.0)' (\(one.1)) and '\(other.0)' (\(other.1))
                    """)
            }
        }
    }
}

extension Configuration.LocalTier {
    static func read(_ tiers: Section) throws(ConfigurationError) -> Self? {
        guard let section = try tiers.section("local", known: ["paths", "reserve", "shared", "io", "direct"],
                                              emptyAllowed: false) else { return nil }
        guard let paths = try section.list("paths", expected: Configuration.pathSyntax, parse: Configuration.absolutePath),
              !paths.isEmpty else {
            throw section.error(.missing, at: "paths", "expected at least one folder in tiers.local.paths, found none")
        }
        var tier = Self(paths: paths)
        if let bytes = try section.value("reserve", expected: Quantity.sizeSyntax, parse: Quantity.bytes) { tier.reserveBytes = bytes }
        if let shared = try section.value("shared", expected: "true or false", parse: Bool.init) { tier.shared = shared }
        tier.io = try section.choice("io") ?? tier.io
        tier.direct = try section.choice("direct") ?? tier.direct
        return tier
    }
}

extension Configuration.GlobalTier {
    static func read(_ tiers: Section) throws(ConfigurationError) -> Self? {
        guard let section = try tiers.section("global", known: ["path", "compression", "compressionThreads", "io", "direct"],
                                              emptyAllowed: false) else { return nil }
        guard let path = try section.value("path", expected: Configuration.pathSyntax, parse: Configuration.absolutePath) else {
            throw section.error(.missing, "expected 'path' in tiers.global, found none")
        }
        var tier = Self(path: path)
        tier.compression = try section.choice("compression") ?? tier.compression
        tier.compressionThreads = try section.count("compressionThreads", in: 1...32) ?? tier.compressionThreads
        tier.io = try section.choice("io") ?? tier.io
        tier.direct = try section.choice("direct") ?? tier.direct
        return tier
    }
}
