import CairnConfiguration
import Testing

/// One mistake: the file, the line's and column's place of it, and what the error must say.
struct Mistake: Sendable, CustomTestStringConvertible {
    let kind: ConfigurationError.Kind
    let line: Int, column: Int
    let says: [String]
    let text: String
    var testDescription: String { says.first ?? text }

    init(_ kind: ConfigurationError.Kind, _ line: Int, _ column: Int, _ says: String..., text: String) {
        self.kind = kind
        self.line = line
        self.column = column
        self.says = says
        self.text = text
    }
}

@Suite struct RefusalTests {
    static let keys: [Mistake] = [
        Mistake(.unknownKey, 2, 1, "unknown key 'pol' at the top level", "did you mean 'pool'?", text: minimal("pol: {}")),
        Mistake(.unknownKey, 2, 8, "unknown key 'sise' in pool", "'size'", "size, chunk, lock", text: minimal("pool: {sise: 1GiB}")),
        Mistake(.unknownKey, 2, 10, "in limits", "did you mean 'fence'", text: minimal("limits: {fecne: 1s}")),
        Mistake(.unknownKey, 1, 17, "in tiers.local", "'paths'", text: "tiers: {local: {path: [/a]}}"),
        Mistake(.unknownKey, 2, 21, "in retention.local", "'keepPeriod'", text: minimal("retention: {local: {keep_period: 3}}")),
        Mistake(.unknownKey, 2, 1, "unknown key 'zebra' at the top level. Known keys here: socket", text: minimal("zebra: 1")),
        Mistake(.duplicateKey, 2, 1, "'pool' twice", text: minimal("pool: {}\npool: {}")),
        Mistake(.duplicateKey, 2, 8, "'size' twice", text: minimal("pool: {size: 1GiB, size: 2GiB}")),
        Mistake(.missing, 1, 1, "file is empty", text: ""),
        Mistake(.missing, 1, 1, "file is empty", text: "# nothing\n"),
        Mistake(.missing, 1, 1, "expected 'tiers'", text: "socket: /run/c.sock"),
        Mistake(.missing, 1, 8, "'local' or 'global'", "neither", text: "tiers: {}"),
        Mistake(.missing, 1, 16, "at least one folder", text: "tiers: {local: {}}"),
        Mistake(.missing, 1, 24, "at least one folder", text: "tiers: {local: {paths: []}}"),
        Mistake(.missing, 1, 17, "'path' in tiers.global", text: "tiers: {global: {io: auto}}"),
    ]

    static let types: [Mistake] = [
        Mistake(.wrongType, 1, 1, "expected the file to be a mapping", "found a list", text: "[a, b]"),
        Mistake(.wrongType, 1, 1, "found 'hello'", text: "hello"),
        Mistake(.wrongType, 2, 7, "expected pool to be a mapping of size, chunk, lock", text: minimal("pool: 4GiB")),
        Mistake(.wrongType, 1, 16, "tiers.local to be a mapping", "found nothing", text: "tiers: {local: }"),
        Mistake(.wrongType, 1, 24, "expected a list for tiers.local.paths", text: "tiers: {local: {paths: /nvme0}}"),
        Mistake(.wrongType, 1, 25, "tiers.local.paths[0]", "found a mapping", text: "tiers: {local: {paths: [{a: b}]}}"),
        Mistake(.wrongType, 2, 14, "pool.size", "found a list", text: minimal("pool: {size: [1GiB]}")),
        Mistake(.wrongType, 2, 9, "for socket, found nothing", text: minimal("socket: null")),
    ]

    static let values: [Mistake] = [
        Mistake(.badValue, 2, 9, "absolute path", "found 'cairn.sock'", text: minimal("socket: cairn.sock")),
        Mistake(.badValue, 2, 9, "100 bytes", text: minimal("socket: /" + String(repeating: "s", count: 100))),
        Mistake(.badValue, 2, 14, "expected a size such as", "'4GB'", text: minimal("pool: {size: 4GB}")),
        Mistake(.badValue, 2, 14, "expected a size", "'4294967296'", text: minimal("pool: {size: 4294967296}")),
        Mistake(.badValue, 2, 14, "expected a size", "'99999999TiB'", text: minimal("pool: {size: 99999999TiB}")),
        Mistake(.badValue, 2, 14, "at least 16 chunks (128MiB)", "found 120MiB", text: minimal("pool: {size: 120MiB}")),
        Mistake(.badValue, 2, 14, "at most 240GiB", "found 300GiB", text: minimal("pool: {size: 300GiB}")),
        Mistake(.badValue, 2, 14, "multiple of 8MiB", "found 129MiB", text: minimal("pool: {size: 129MiB}")),
        Mistake(.badValue, 2, 15, "expected 8MiB", "found 4MiB", text: minimal("pool: {chunk: 4MiB}")),
        Mistake(.badValue, 2, 14, "expected true, false or auto", "'yes'", text: minimal("pool: {lock: yes}")),
        Mistake(.badValue, 1, 25, "absolute path", "tiers.local.paths[0]", "'nvme'", text: "tiers: {local: {paths: [nvme]}}"),
        Mistake(.badValue, 1, 29, "tiers.local.paths[1]", text: "tiers: {local: {paths: [/a, /b/../c]}}"),
        Mistake(.badValue, 1, 24, "tiers.global.path", "'pfs'", text: "tiers: {global: {path: pfs}}"),
        Mistake(.badValue, 1, 43, "none, zstd or auto", "'lz4'", text: "tiers: {global: {path: /pfs, compression: lz4}}"),
        Mistake(.badValue, 1, 50, "compressionThreads", "'0'", text: "tiers: {global: {path: /pfs, compressionThreads: 0}}"),
        Mistake(.badValue, 1, 34, "auto, io_uring or threads", text: "tiers: {global: {path: /pfs, io: uring}}"),
        Mistake(.badValue, 1, 38, "auto, on or off", text: "tiers: {global: {path: /pfs, direct: true}}"),
        Mistake(.badValue, 2, 27, "a whole number from 1", "'0'", text: minimal("retention: {local: {keep: 0}}")),
        Mistake(.badValue, 2, 15, "octal mode", "'0840'", text: minimal("files: {mode: \"0840\"}")),
        Mistake(.badValue, 2, 15, "no execute bits", text: minimal("files: {mode: \"0750\"}")),
        Mistake(.badValue, 2, 15, "write for the owner", text: minimal("files: {mode: \"0440\"}")),
        Mistake(.badValue, 2, 16, "account", "'a:b'", text: minimal("files: {group: 'a:b'}")),
        Mistake(.badValue, 2, 27, "from 1 to 16", "'17'", text: minimal("limits: {inFlightPerRank: 17}")),
        Mistake(.badValue, 2, 17, "a duration such as", "'30'", text: minimal("limits: {fence: 30}")),
        Mistake(.badValue, 2, 17, "expected 100ms to 1h", "found 99ms", text: minimal("limits: {fence: 99ms}")),
        Mistake(.badValue, 2, 24, "1MiB to 1GiB", "found 1KiB", text: minimal("limits: {messageBytes: 1KiB}")),
        Mistake(.badValue, 2, 21, "ends in .prom", "'/x/cairn.txt'", text: minimal("metrics: {textfile: /x/cairn.txt}")),
        Mistake(.missing, 2, 21, "a program and its arguments", text: minimal("onCommit: {command: []}")),
        Mistake(.badValue, 2, 21, "absolute path", "'export'", "no PATH", text: minimal("onCommit: {command: [export]}")),
        Mistake(.badValue, 2, 17, "64KiB to 1GiB", text: minimal("history: {size: 1KiB}")),
        Mistake(.contradiction, 1, 16, "apart", "'/a'", "'/a/b'", text: "tiers: {local: {paths: [/a, /a/b]}}"),
        Mistake(.contradiction, 1, 41, "'/x/y' (local)", "'/x' (global)", text: "tiers: {local: {paths: [/x/y]}, global: {path: /x}}"),
    ]

    @Test(arguments: keys + types + values) func namesThePlaceAndTheRemedy(_ mistake: Mistake) throws {
        let error = try #require(refusal(mistake.text), "was accepted")
        #expect(error.kind == mistake.kind, "\(error)")
        #expect(error.description.hasPrefix("cairnd.yaml:\(mistake.line):\(mistake.column): "), "\(error)")
        for words in mistake.says { #expect(error.message.contains(words), "\(error)") }
    }

    @Test(arguments: ["tiers: {local", "tiers:\n\t- a", "a: b: c", "tiers: *none", "---\na: 1\n---\nb: 2\n"])
    func saysWhereItIsNotYAML(_ text: String) throws {
        let error = try #require(refusal(text), "was accepted")
        #expect(error.kind == .notYAML && error.line != nil, "\(error)")
    }

    @Test func foldersThatShareABeginningAreApart() {
        #expect(refusal("tiers: {local: {paths: [/a/b]}, global: {path: /a/bc}}") == nil)
    }

    @Test func fileThatCannotBeReadIsNamed() {
        let error = #expect(throws: ConfigurationError.self) { try Configuration.load(path: "/nonexistent/cairnd.yaml") }
        #expect(error?.kind == .unreadable && error?.description.hasPrefix("/nonexistent/cairnd.yaml: ") == true)
    }
}
