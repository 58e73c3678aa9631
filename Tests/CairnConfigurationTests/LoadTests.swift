import CairnConfiguration
import CairnModel
import Testing

@Suite struct LoadTests {
    @Test func shippedFileStatesTheDefaults() throws {
        var expected = Configuration()
        expected.tiers.local = .init(paths: ["/var/lib/cairn/local"])
        expected.tiers.global = .init(path: "/var/lib/cairn/global")
        #expect(try Configuration.load(path: shipped("cairnd.yaml")) == expected)
    }

    @Test func demoFileLoads() throws {
        let demo = try Configuration.load(path: shipped("demo.yaml"))
        #expect(demo.tiers.local?.paths.count == 2)
        #expect(demo.tiers.global != nil)
    }

    @Test func everyKeyIsTaken() throws {
        let result = try Configuration.load(text: """
            socket: /run/user/7/cairn.sock
            pool: {size: 256MiB, chunk: 8MiB, lock: false}
            tiers:
              local: {paths: [/a/x, /b/x/], reserve: 3GiB, shared: true, io: threads, direct: off}
              global: {path: //pfs//cairn, compression: auto, compressionThreads: 3, io: io_uring, direct: on}
            retention: {local: {keep: 1, keepPeriod: 7}, global: {keep: 9, keepPeriod: 1000}}
            operators: {users: [root, ops], groups: ["1000"]}
            files: {mode: "0660", group: ml}
            limits: {inFlightPerRank: 3, messageBytes: 1MiB, fence: 500ms, commitTimeout: 2h, loadBytes: 64MiB, attemptTimeout: 1d}
            state: /var/lib/cairn
            history: {size: 1MiB}
            metrics: {textfile: /run/node/cairn.prom, interval: 5s}
            onCommit: {command: [/bin/export, --all], timeout: 1min, queue: 2}
            """, file: "f")
        var expected = Configuration()
        expected.socket = "/run/user/7/cairn.sock"
        expected.pool.sizeBytes = 256 << 20
        expected.pool.lock = .never
        var local = Configuration.LocalTier(paths: ["/a/x", "/b/x"])
        local.reserveBytes = 3 << 30
        local.shared = true
        local.io = .threads
        local.direct = .off
        var global = Configuration.GlobalTier(path: "/pfs/cairn")
        global.compression = .auto
        global.compressionThreads = 3
        global.io = .ioUring
        global.direct = .on
        expected.tiers = .init(local: local, global: global)
        expected.retention.local = .init(keep: 1, keepPeriod: 7)
        expected.retention.global = .init(keep: 9, keepPeriod: 1000)
        expected.operators.users = ["root", "ops"]
        expected.operators.groups = ["1000"]
        expected.files.mode = 0o660
        expected.files.group = "ml"
        expected.limits.inFlightPerRank = 3
        expected.limits.messageBytes = 1 << 20
        expected.limits.fenceMs = 500
        expected.limits.commitTimeoutMs = 7_200_000
        expected.limits.loadBytes = 64 << 20
        expected.limits.attemptTimeoutMs = 86_400_000
        expected.state = "/var/lib/cairn"
        expected.history.sizeBytes = 1 << 20
        expected.metrics.textfile = "/run/node/cairn.prom"
        expected.metrics.intervalMs = 5000
        expected.onCommit = .init(command: ["/bin/export", "--all"])
        expected.onCommit?.timeoutMs = 60_000
        expected.onCommit?.queue = 2
        #expect(result == expected)
    }

    @Test func retentionsRulesAreTaken() throws {
        let result = try Configuration.load(text: """
            tiers: {local: {paths: [/a]}, global: {path: /b}}
            retention:
              local: {keep: 3, maxBytes: 2TiB, highWatermark: 90}
              global: {keepEvery: 1d, keepWithin: 6h, maxAge: 30d, best: {metric: accuracy, order: max, count: 3}}
            """, file: "f").retention
        #expect(result.local == RetentionRules(keep: 3, maxBytes: 2 << 40))
        #expect(result.global == RetentionRules(keep: 5, keepEverySeconds: 86_400, keepWithinSeconds: 21_600, best: .init(metric: "accuracy", order: .max, count: 3),
                                                maxAgeSeconds: 30 * 86_400))
        #expect(result.watermarks == .init(high: 90, low: 80))
    }

    @Test(arguments: [
        ("local: {lowWatermark: 5}", "expected highWatermark beside lowWatermark"), ("local: {highWatermark: 50, lowWatermark: 50}", "expected lowWatermark below highWatermark (50)"),
        ("global: {highWatermark: 50}", "unknown key 'highWatermark'"), ("global: {best: {order: min}}", "expected 'metric' in retention.global.best"),
        ("global: {best: {metric: x, order: least}}", "expected min or max"), ("local: {maxAge: 1500ms}", "a duration of whole seconds"),
    ]) func retentionsMistakesAreNamed(rules: String, says: String) {
        let text = "tiers: {local: {paths: [/a]}, global: {path: /b}}\nretention: {\(rules)}\n"
        let found = refusal(text)?.description
        #expect(found?.contains(says) == true, "\(found ?? "nothing")")
    }

    @Test func watermarksNeedAGlobalTier() {
        let found = refusal(minimal("retention: {local: {highWatermark: 90}}\n"))?.description
        #expect(found?.contains("only what the global tier holds too is evicted") == true)
    }

    @Test func eitherTierIsEnough() throws {
        let local = try Configuration.load(text: minimal(), file: "f")
        #expect(local.tiers.global == nil && local.tiers.local?.paths == ["/nvme0/cairn"])
        let global = try Configuration.load(text: "tiers: {global: {path: /pfs}}", file: "f")
        #expect(global.tiers.local == nil && global.tiers.global?.path == "/pfs")
    }

    @Test func sectionWithNothingBelowKeepsItsDefaults() throws {
        let result = try Configuration.load(text: minimal("limits:\n#  fence: 1s\npool: {}\n"), file: "f")
        #expect(result.limits == Configuration.Limits() && result.pool == Configuration.Pool())
    }

    @Test func memorySocketStandsBesideTheOther() {
        #expect(Configuration().memorySocket == "/run/cairn/cairn.sock.memory")
    }
}

@Suite struct EmbeddedDefaultTests {
    @Test func usesTheRuntimeFolderWhereItExists() throws {
        let result = try Configuration.embeddedDefault(
            environment: ["HOME": "/home/ada", "XDG_RUNTIME_DIR": "/run/user/7"], memoryBytes: 64 << 30) { $0 == "/run/user/7" }
        #expect(result.socket == "/run/user/7/cairn/cairn.sock")
        #expect(result.tiers.local?.paths == ["/home/ada/.local/state/cairn/checkpoints"])
        #expect(result.tiers.global == nil)
        #expect(result.pool.sizeBytes == 1 << 30)
    }

    @Test func fallsBackToTheStateFolder() throws {
        let result = try Configuration.embeddedDefault(
            environment: ["XDG_STATE_HOME": "/state", "XDG_RUNTIME_DIR": "/gone"], memoryBytes: 2 << 30) { _ in false }
        #expect(result.socket == "/state/cairn/cairn.sock")
        #expect(result.tiers.local?.paths == ["/state/cairn/checkpoints"])
        #expect(result.pool.sizeBytes == 512 << 20)
    }

    @Test func socketIsWhereClientsLookForIt() throws {
        let result = try Configuration.embeddedDefault(
            environment: ["HOME": "/home/ada", "XDG_STATE_HOME": "/state"], memoryBytes: 2 << 30) { _ in false }
        #expect(result.socket == "/home/ada/.local/state/cairn/cairn.sock")
        #expect(result.tiers.local?.paths == ["/state/cairn/checkpoints"])
    }

    @Test func takesNoLessThanThePoolsLeast() throws {
        let result = try Configuration.embeddedDefault(environment: ["HOME": "/h"], memoryBytes: 100 << 20) { _ in false }
        #expect(result.pool.sizeBytes == Configuration.Pool.leastBytes)
    }

    @Test func saysWhatToSetWithoutAHome() {
        let error = #expect(throws: ConfigurationError.self) {
            try Configuration.embeddedDefault(environment: [:], memoryBytes: 1 << 30) { _ in false }
        }
        #expect(error?.description.contains("set one of them, or give --config FILE") == true)
    }

    @Test func refusesASocketPathThatTheKernelCannotTake() {
        let long = "/" + String(repeating: "x", count: 120)
        let error = #expect(throws: ConfigurationError.self) {
            try Configuration.embeddedDefault(environment: ["HOME": long], memoryBytes: 1 << 30) { _ in false }
        }
        #expect(error?.kind == .badValue)
    }
}
