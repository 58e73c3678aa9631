import CairnModel
import Testing
@testable import CairnBench

struct Case: Sendable, CustomTestStringConvertible {
    let rule: Advice.Rule
    /// What the text must say.
    let word: String
    let change: @Sendable (inout Measurements) -> Void
    var testDescription: String { "\(rule): \(word)" }

    init(_ rule: Advice.Rule, _ word: String, _ change: @escaping @Sendable (inout Measurements) -> Void) {
        self.rule = rule; self.word = word; self.change = change
    }
}

private func ways(_ all: inout Measurements, _ operation: Transfer.Operation, _ transfers: Transfer...) {
    all.folders[0].transfers.removeAll { one in one.operation == operation && transfers.contains { $0.isSameWay(as: one) } }
    all.folders[0].transfers += transfers
}

private let cases = [
    Case(.busy, "2 ranks are connected") { $0.node.sessions = 2 },
    Case(.busy, "1 rank is connected") { $0.node.sessions = 1 },
    Case(.smallState, "1.0 GiB were saved") { $0.wantedBytes = 2 << 30 },
    Case(.fewCores, "2 cores") { $0.node.cores = 2 },
    // So slow that the save's time is memory's own.
    Case(.slowCopy, "governor") {
        $0.memory.threadedCopyBytesPerSecond = 2e9
        $0.folders[0].saves = [SaveTimes(acceptedSeconds: 0.001, stagedSeconds: 0.54, localSeconds: 0.6, committedSeconds: 0.61)]
    },
    Case(.noHugePages, "transparent_hugepage/enabled") { $0.node.hugePages = "never" },
    Case(.smallPages, "1.5 GiB of the pool have pages of 4 KiB") { $0.pool.smallBytes = 3 << 29 },
    Case(.smallPool, "pool.size") { $0.pool.bytes = 512 << 20 },
    Case(.notLocked, "LimitMEMLOCK=infinity") { $0.pool.lockNote = "the pool is not locked: set LimitMEMLOCK=infinity" },
    Case(.ringRefused, "seccomp") { $0.folders[0].ringRefusal = "EPERM" },
    Case(.ringRefused, "sysctl kernel.io_uring_disabled=0") { $0.folders[0].ringRefusal = "EPERM"; $0.node.ioUringDisabled = 2 },
    Case(.memoryFilesystem, "tmpfs is memory") { $0.folders[0].filesystem = "tmpfs"; $0.folders[0].directRefusal = "EINVAL" },
    Case(.containerLayer, "Mount a volume") { $0.folders[0].filesystem = "overlay"; $0.folders[0].isOnRoot = true },
    Case(.networkFilesystem, "shared: true") { $0.folders[0].filesystem = "nfs" },
    Case(.networkFilesystem, "lustre is reached over a network") { $0.folders[0].filesystem = "lustre"; $0.folders[0].tier = nil },
    Case(.rootFilesystem, "a drive of its own") { $0.folders[0].isOnRoot = true },
    Case(.littleRoom, "free for 2 steps") { $0.folders[0].freeBytes = 2 << 30 },
    Case(.littleRoom, "free for 1 step of") { $0.folders[0].freeBytes = 1 << 30 },
    Case(.buffered, "fuse.x refuses O_DIRECT (EINVAL)") { $0.folders[0].filesystem = "fuse.x"; $0.folders[0].directRefusal = "EINVAL" },
    Case(.threadsFaster, "io: threads") { ways(&$0, .write, Make.transfer(.write, engine: .threads, rate: 4)) },
    Case(.shapeSlower, "1 MiB x 32 writes 3.7 GiB/s") { ways(&$0, .write, Make.transfer(.write, chunk: 1 << 20, depth: 32, rate: 4)) },
    Case(.noDepth, "a hard disk") { ways(&$0, .write, Make.transfer(.write, depth: 1, rate: 2.9)) },
    Case(.slowSync, "takes 25 ms") { $0.folders[0].publish = Latency(seconds: [0.025]) },
    Case(.varies, "1.4 GiB/s to 3.7 GiB/s") { ways(&$0, .write, Make.transfer(.write, rate: 1.5, 3, 4)) },
    Case(.belowLimit, "0.36 of the drive's limit") {
        $0.folders[0].saves = [SaveTimes(acceptedSeconds: 0.001, stagedSeconds: 0.5, localSeconds: 1, committedSeconds: 1.01)]
    },
]

struct AdviceTests {
    @Test func aGoodNodeGetsNone() {
        #expect(Advice.all(Make.measurements()) == [])
    }

    @Test(arguments: cases) func oneThingWrongGivesOneAdvice(_ wrong: Case) {
        let found = Advice.all(Make.measurements(wrong.change))
        #expect(found.map(\.rule) == [wrong.rule], "\(found)")
        #expect(found.first?.text.contains(wrong.word) == true, "\(found)")
    }

    @Test func everyRuleHasACase() {
        #expect(Set(cases.map(\.rule)) == Set(Advice.Rule.allCases))
    }

    @Test func samplesThatScatterGiveNoAdvice() {
        let all = Make.measurements { ways(&$0, .write, Make.transfer(.write, rate: 3, 4), Make.transfer(.write, engine: .threads, rate: 5, 3.9, 5)) }
        #expect(Advice.all(all) == [])
        let clear = Make.measurements { ways(&$0, .write, Make.transfer(.write, rate: 3, 3.8), Make.transfer(.write, engine: .threads, rate: 5, 3.9, 5)) }
        #expect(Advice.all(clear).map(\.rule) == [.threadsFaster])
    }

    @Test func aGlobalTierMayBeANetworkFilesystem() {
        #expect(Advice.all(Make.measurements { $0.folders[0].filesystem = "lustre"; $0.folders[0].tier = .global }) == [])
    }

    @Test func adviceNamesItsFolder() {
        let found = Advice.all(Make.measurements {
            var second = Make.folder()
            second.path = "/nvme1/cairn"
            second.isOnRoot = true
            $0.folders.append(second)
            $0.node.cores = 1
        })
        #expect(found.map(\.path) == [nil, "/nvme1/cairn"])
    }
}

struct ReachedTests {
    @Test func sharesAreOfTheLimitsMeasuredBeside() {
        let all = Make.measurements(), reached = Reached(all.folders[0], all)
        #expect(abs(reached.local - 1.073741824 / 0.38 / 3) < 1e-9)
        #expect(abs(reached.staged - 1.073741824 / 0.12 / 12) < 1e-9)
        #expect(abs(reached.memoryRestore - 1.073741824 / 0.13 / 12) < 1e-9)
        #expect(abs(reached.tierRestore - 1.073741824 / 0.55 / 2) < 1e-9)
    }

    @Test(arguments: [
        (Reached.Bottleneck.drive, 3.0, 12.0, 0.001, 0.385),
        (.memory, 30, 2, 0.001, 0.56),
        (.records, 3, 12, 0.2, 1.4),
        (.rest, 3, 12, 0.001, 2),
    ])
    func theBottleneckIsWhatNeedsMost(_ expected: Reached.Bottleneck, write: Double, copy: Double, publish: Double, committed: Double) {
        let all = Make.measurements {
            $0.folders[0].transfers = [Make.transfer(.write, rate: write), Make.transfer(.read, rate: 2)]
            $0.memory.threadedCopyBytesPerSecond = copy * 1e9
            $0.folders[0].publish = Latency(seconds: [publish])
            $0.folders[0].saves = [SaveTimes(acceptedSeconds: 0.001, stagedSeconds: 0.1, localSeconds: committed, committedSeconds: committed)]
        }
        #expect(Reached(all.folders[0], all).bottleneck == expected)
    }

    @Test func aFolderWithoutFiguresHasNoNumbersThatJSONLacks() throws {
        let all = Make.measurements { $0.folders = [FolderSpeed(path: "/x", tier: nil, filesystem: "ext4", isOnRoot: false, freeBytes: 1 << 40)] }
        let reached = Reached(all.folders[0], all)
        #expect([reached.staged, reached.local, reached.memoryRestore, reached.tierRestore] == [0, 0, 0, 0])
    }
}
