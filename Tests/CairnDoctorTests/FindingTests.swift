// What each state of a node comes to: the sound one, and one thing wrong at a time.
import CairnDoctor
import CairnModel
import Testing
@testable import CairnDoctor

private func sound() -> NodeState {
    let setup = SetupFacts(socket: "/run/cairn/cairn.sock", poolBytes: 1 << 30, lock: "auto", tiers: [
        .init(tier: .local, paths: ["/nvme/cairn"], reserveBytes: 1 << 30, io: "auto", direct: "auto", retention: RetentionRules(keep: 2)),
        .init(tier: .global, paths: ["/pfs/cairn"], reserveBytes: 0, io: "auto", direct: "auto", retention: RetentionRules(keep: 5)),
    ])
    var node = NodeState(setup: setup, clientVersion: "1")
    node.daemon = DaemonState(version: "1", pid: 7, poolBytes: 1 << 30, filledBytes: 1 << 30, lockedBytes: 1 << 30, hugeBytes: 1 << 30)
    (node.hugePages, node.ptraceScope, node.clockIsSynchronized, node.memoryNodes, node.ioUringDisabled) = ("madvise", 1, true, 1, 0)
    node.socket.exists = true
    node.socket.isSocket = true
    node.socket.permissions = 0o666
    node.folders = setup.tiers.map { tier in
        var folder = FolderState(tier: tier.tier, path: tier.paths[0])
        (folder.filesystem, folder.totalBytes, folder.freeBytes, folder.clockAheadSeconds) = ("xfs", 100 << 30, 50 << 30, 0)
        return folder
    }
    node.stepBytes = 4 << 30
    return node
}

private struct Wrong: Sendable, CustomTestStringConvertible {
    let check: Finding.Check, grade: Finding.Grade, part: String, change: @Sendable (inout NodeState) -> Void
    var testDescription: String { "\(check): \(part)" }
    init(_ check: Finding.Check, _ grade: Finding.Grade, _ part: String, _ change: @escaping @Sendable (inout NodeState) -> Void) {
        self.check = check; self.grade = grade; self.part = part; self.change = change
    }
}

private let wrongs: [Wrong] = [
    Wrong(.version, .problem, "the daemon is 2") { $0.daemon?.version = "2" },
    Wrong(.version, .problem, "replaced") { $0.daemon?.isReplaced = true },
    Wrong(.version, .skipped, "no daemon") { $0.daemon = nil },
    Wrong(.socket, .problem, "may not be used") { $0.socket.refusal = "EACCES" },
    Wrong(.socket, .problem, "is no socket") { $0.socket.isSocket = false },
    Wrong(.socket, .warning, "mode 600") { $0.socket.permissions = 0o600 },
    Wrong(.memlock, .warning, "may be swapped out") { $0.daemon?.lockedBytes = 0 },
    Wrong(.memlock, .warning, "8.0 MiB is below") { $0.daemon = nil; $0.memlockBytes = 8 << 20 },
    Wrong(.memlock, .problem, "8.0 MiB is below") { $0.daemon = nil; $0.memlockBytes = 8 << 20; $0.setup.lock = "true" },
    Wrong(.hugePages, .warning, "are off") { $0.hugePages = "never" },
    Wrong(.poolPages, .warning, "many more requests") { $0.daemon?.hugeBytes = 1 << 20 },
    Wrong(.ioUring, .warning, "threads are used") { $0.ringRefusal = "EPERM"; $0.ioUringDisabled = 2 },
    Wrong(.ioUring, .problem, "a tier demands it") { $0.ringRefusal = "EPERM"; $0.setup.tiers[0].io = "io_uring" },
    Wrong(.ptrace, .warning, "is 3") { $0.ptraceScope = 3 },
    Wrong(.numa, .warning, "on one of 2") { $0.memoryNodes = 2; $0.poolByNode = [0: 900, 1: 100] },
    Wrong(.clock, .warning, "not synchronized") { $0.clockIsSynchronized = false },
    Wrong(.folder, .problem, "does not answer") { $0.folders[1].problem = "its filesystem does not answer within 20 s" },
    Wrong(.filesystem, .problem, "is memory") { $0.folders[0].filesystem = "tmpfs" },
    Wrong(.filesystem, .warning, "over a network") { $0.folders[0].filesystem = "nfs" },
    Wrong(.rootDisk, .warning, "root filesystem") { $0.folders[0].isOnRoot = true },
    Wrong(.writable, .problem, "EACCES") { $0.folders[0].writeRefusal = "EACCES" },
    Wrong(.direct, .warning, "EINVAL") { $0.folders[0].directRefusal = "EINVAL" },
    Wrong(.direct, .problem, "EINVAL") { $0.folders[0].directRefusal = "EINVAL"; $0.setup.tiers[0].direct = "on" },
    Wrong(.names, .problem, "succeeds") { $0.folders[1].namesProblem = "a second link to a name that is taken succeeds" },
    Wrong(.tierClock, .warning, "10 s behind") { $0.folders[1].clockAheadSeconds = -10 },
    Wrong(.tierClock, .problem, "1h 0m ahead of") { $0.folders[1].clockAheadSeconds = 3600 },
    Wrong(.space, .problem, "less than one more step") { $0.folders[0].freeBytes = 4 << 30 },
    Wrong(.space, .problem, "nothing can be saved") { $0.folders[0].freeBytes = 1 << 29 },
    Wrong(.space, .problem, "need 24.0 GiB, the filesystem has 20.0 GiB") { $0.folders[1].totalBytes = 20 << 30; $0.folders[1].freeBytes = 5 << 30 },
]

@Test func aSoundNodeHasNoFindings() {
    let report = DoctorReport(sound())
    #expect(report.problems == 0 && report.warnings == 0)
    #expect(report.findings.allSatisfy { $0.grade == .ok && $0.remedy == nil })
}

@Test(arguments: wrongs) private func eachWrongIsFoundAloneWithARemedy(wrong: Wrong) throws {
    var node = sound()
    wrong.change(&node)
    let bad = Finding.all(node).filter { $0.grade == .problem || $0.grade == .warning || $0.check == wrong.check }
    let found = try #require(bad.first { $0.check == wrong.check && $0.grade == wrong.grade })
    #expect(found.text.contains(wrong.part))
    #expect(found.remedy?.isEmpty == false && !(found.remedy?.contains("\n") ?? true))
    #expect(!bad.contains { $0.check != wrong.check && $0.grade == .problem })
}

@Test func whatTheKernelSaysIsRead() {
    #expect(NodeState.memlock("Limit  Soft  Hard\nMax locked memory         8388608              8388608              bytes\n") == 8_388_608)
    #expect(NodeState.memlock("Max locked memory         unlimited            unlimited            bytes\n") == nil)
    #expect(NodeState.count("0-1,3") == 3 && NodeState.count("0") == 1 && NodeState.count("") == nil)
    let maps = """
        7f0000 default file=/memfd:cairn-pool-0\\040(deleted) huge dirty=3 N0=2 N1=1 kernelpagesize_kB=2048
        7f1000 default anon=5 N0=5 kernelpagesize_kB=4
        """
    #expect(NodeState.poolByNode(maps) == [0: 4 << 20, 1: 2 << 20])
}
