// What the measurements say: how much of each limit Cairn reaches, what the time of a save goes to, and what to change. All pure.
import CairnModel
import CairnWire

/// What Cairn reaches in one folder, as shares of the limits measured beside it, and where the time of a save goes.
public struct Reached: Codable, Sendable, Equatable {
    public enum Bottleneck: String, Codable, Sendable, CaseIterable { case memory, drive, records, rest }
    /// Staging and the restore from memory, of the memory's copy; the local level, of the best write; a restore from the drive, of the best read.
    public var staged: Double, local: Double, memoryRestore: Double, tierRestore: Double
    /// Until committed, and what of it memory and drive need by their limits (at the same time), and the small records after them.
    public var committedSeconds: Double, memorySeconds: Double, driveSeconds: Double, recordsSeconds: Double

    public init(_ folder: FolderSpeed, _ all: Measurements) {
        let bytes = Double(all.stateBytes), copy = all.memory.threadedCopyBytesPerSecond
        let write = folder.best(.write)?.bytesPerSecond ?? 0, read = folder.best(.read)?.bytesPerSecond ?? 0
        func share(_ seconds: [Double], of limit: Double) -> Double { seconds.isEmpty || limit == 0 ? 0 : bytes / max(median(seconds), 1e-9) / limit }
        staged = share(folder.saves.map(\.stagedSeconds), of: copy)
        local = share(folder.saves.map(\.localSeconds), of: write)
        memoryRestore = share(folder.seconds(restoredFrom: .memory), of: copy)
        tierRestore = share(folder.seconds(restoredFrom: .local), of: read)
        committedSeconds = median(folder.saves.map(\.committedSeconds))
        memorySeconds = bytes / max(copy, 1)
        driveSeconds = bytes / max(write, 1)
        recordsSeconds = Double(BenchLimits.recordsInTurn) * folder.publish.p50Seconds
    }

    public var restSeconds: Double { max(0, committedSeconds - max(memorySeconds, driveSeconds) - recordsSeconds) }

    public var bottleneck: Bottleneck {
        let needs = [(Bottleneck.drive, driveSeconds), (.memory, memorySeconds), (.records, recordsSeconds), (.rest, restSeconds)]
        return needs.max { $0.1 < $1.1 }?.0 ?? .rest
    }
}

public struct Advice: Codable, Sendable, Equatable {
    public enum Rule: String, Codable, Sendable, CaseIterable {
        case busy, smallState, fewCores, slowCopy, noHugePages, smallPages, smallPool, notLocked, ringRefused
        case memoryFilesystem, containerLayer, networkFilesystem, rootFilesystem, littleRoom, buffered, threadsFaster, shapeSlower, noDepth, slowSync, varies, belowLimit
    }
    public var rule: Rule
    /// Absent: of the node.
    public var path: String?
    public var text: String

    public init(rule: Rule, path: String? = nil, text: String) { self.rule = rule; self.path = path; self.text = text }
}

extension Advice {
    /// First what spoils the figures, then the node, then each folder.
    public static func all(_ all: Measurements) -> [Advice] {
        (node(all) + all.folders.flatMap { folder in Self.folder(folder, all).map { ($0.0, folder.path, $0.1) } }).map { Advice(rule: $0.0, path: $0.1, text: $0.2) }
    }

    private static func node(_ all: Measurements) -> [(Rule, String?, String)] {
        let node = all.node, copy = all.memory.threadedCopyBytesPerSecond
        var found: [(Rule, String?, String)] = []
        func say(_ rule: Rule, _ holds: Bool, _ text: @autoclosure () -> String) { if holds { found.append((rule, nil, text())) } }
        say(.busy, node.sessions > 0,
            "\(node.sessions) \(node.sessions == 1 ? "rank is" : "ranks are") connected to the daemon: training took part of what was measured. Measure an idle node")
        say(.smallState, all.stateBytes < all.wantedBytes,
            "only \(HumanSize.short(all.stateBytes)) were saved, for lack of memory or space: what each save costs however small it is weighs more than with \(HumanSize.short(all.wantedBytes))")
        say(.fewCores, node.cores < BenchLimits.fewCores,
            "\(node.cores) \(node.cores == 1 ? "core" : "cores"): copying, writing and training share them. Give the node at least \(BenchLimits.fewCores)")
        say(.slowCopy, copy < BenchLimits.slowCopyBytesPerSecond,
            "memory copies only \(Report.rate(copy)): look for other load, a CPU governor other than performance, or empty memory channels")
        say(.noHugePages, node.hugePages == "never",
            "transparent huge pages are off, so copying tensors takes more faults: echo madvise > /sys/kernel/mm/transparent_hugepage/enabled")
        say(.smallPages, all.pool.smallBytes > all.pool.bytes / BenchLimits.smallPagesShare,
            "\(HumanSize.short(all.pool.smallBytes)) of the pool have pages of 4 KiB, which drives take in many more requests: the kernel is older than 6.1, or memory was in pieces when "
                + "the daemon started. Start it before others take memory, or: echo 1 > /proc/sys/vm/compact_memory, and restart it")
        say(.smallPool, all.pool.bytes < all.stateBytes,
            "the pool of \(HumanSize.short(all.pool.bytes)) is smaller than the state: staging goes at the drive's speed. Raise pool.size to the state of all the node's ranks")
        if let note = all.pool.lockNote { say(.notLocked, true, note) }
        say(.ringRefused, all.folders.contains { $0.ringRefusal != nil },
            "the kernel refuses io_uring (\(all.folders.compactMap(\.ringRefusal).first ?? "")), so threads are used: "
                + ((node.ioUringDisabled ?? 0) > 0 ? "sysctl kernel.io_uring_disabled=0" : "in a container, allow io_uring_setup, _enter and _register in its seccomp profile"))
        return found
    }

    private static let networkFilesystems: Set = ["nfs", "lustre", "fuse", "ceph", "gpfs", "beegfs", "smb"]

    private static func folder(_ folder: FolderSpeed, _ all: Measurements) -> [(Rule, String)] {
        let reached = Reached(folder, all), type = folder.filesystem
        var found: [(Rule, String)] = []
        func say(_ rule: Rule, _ holds: Bool, _ text: @autoclosure () -> String) { if holds { found.append((rule, text())) } }
        say(.memoryFilesystem, ["tmpfs", "ramfs"].contains(type), "\(type) is memory: it loses all when the node goes down, and takes the memory that the pool could have. Use a drive")
        say(.containerLayer, type == "overlay", "this is the container's own layer, which ends with it. Mount a volume")
        say(.networkFilesystem, folder.tier != .global && networkFilesystems.contains(type),
            "\(type) is reached over a network: make it the global tier, and a local drive the local one. If it must be the only one, say shared: true")
        say(.rootFilesystem, folder.isOnRoot && type != "overlay", "on the root filesystem: a full tier fills the system's disk, and both slow each other. Use a drive of its own")
        let steps = folder.freeBytes / max(1, all.stateBytes)
        say(.littleRoom, steps < BenchLimits.stepsOfRoom, "free for \(steps) \(steps == 1 ? "step" : "steps") of this size: the newest stays until the next is whole, so have room for \(BenchLimits.stepsOfRoom)")
        say(.buffered, !folder.isDirect && !["tmpfs", "ramfs"].contains(type),
            "\(type) refuses O_DIRECT (\(folder.directRefusal ?? "")): writing goes through the page cache, which costs a copy and takes memory from training. ext4 and xfs take it")
        guard let usualWay = folder.find(.write), let best = folder.best(.write) else { return found }
        let usual = usualWay.bytesPerSecond, threads = folder.find(.write, engine: .threads)
        say(.threadsFaster, folder.usualEngine == .ring && threads?.isClearlyFaster(than: usualWay) == true,
            "threads write \(Report.rate(threads?.bytesPerSecond ?? 0)), io_uring \(Report.rate(usual)): set io: threads for this tier")
        say(.shapeSlower, best.direct == folder.isDirect && best.engine == folder.usualEngine && best.isClearlyFaster(than: usualWay),
            "\(Report.name(best)) writes \(Report.rate(best.bytesPerSecond)), what Cairn does \(Report.rate(usual)). There is nothing to set: please report it with these figures")
        let single = folder.find(.write, depth: 1)?.bytesPerSecond ?? 0
        say(.noDepth, single * BenchLimits.clearly > best.bytesPerSecond && reached.bottleneck == .drive,
            "one write at a time is as fast as many: a hard disk, or a volume with a limit. Only a faster drive, a higher limit or more paths make saves faster")
        say(.slowSync, folder.publish.p50Seconds > BenchLimits.slowSyncSeconds,
            "a small synced file takes \(Report.time(folder.publish.p50Seconds)): commits wait for some in turn. Use a drive with power-loss protection, or save less often")
        if let least = best.samplesBytesPerSecond.min(), let most = best.samplesBytesPerSecond.max() {
            say(.varies, most > least * BenchLimits.variation,
                "writing gave \(Report.rate(least)) to \(Report.rate(most)): other load, or a drive whose cache filled. Measure an idle node, with larger --size and --seconds")
        }
        say(.belowLimit, reached.bottleneck == .rest && reached.local < BenchLimits.wellReached,
            "saves reach \(Report.decimals(reached.local, 2)) of the drive's limit, and neither memory nor drive holds them up: look for busy cores, or save a larger --size")
        return found
    }
}

extension Transfer {
    /// In every round: samples that scatter over each other say nothing.
    func isClearlyFaster(than other: Transfer) -> Bool {
        bytesPerSecond > other.bytesPerSecond * BenchLimits.clearly && (samplesBytesPerSecond.min() ?? 0) > (other.samplesBytesPerSecond.max() ?? 0)
    }
}

extension FolderSpeed {
    func seconds(restoredFrom tier: Tier) -> [Double] { restores.filter { $0.tier == tier }.map(\.seconds) }
}
