// What this node says of itself in /proc and /sys.
import CairnIO
import FoundationEssentials

extension NodeFacts {
    static func read(sessions: Int) -> NodeFacts {
        NodeFacts(cores: ProcessInfo.processInfo.activeProcessorCount, availableMemoryBytes: availableMemory(), sessions: sessions,
                  ioUringDisabled: Int(text("/proc", "sys/kernel/io_uring_disabled")),
                  hugePages: chosen(text("/sys", "kernel/mm/transparent_hugepage/enabled")))
    }

    /// `always [madvise] never`: the word in brackets.
    package static func chosen(_ text: String) -> String? {
        guard let begin = text.firstIndex(of: "["), let end = text[begin...].firstIndex(of: "]") else { return nil }
        return String(text[text.index(after: begin)..<end])
    }

    /// What may be taken without swapping, and without exceeding this process's control group.
    private static func availableMemory() -> Int {
        let machine = (value(of: "MemAvailable:", in: text("/proc", "meminfo")) ?? 0) << 10
        guard let limit = Int(text("/sys/fs/cgroup", "memory.max")), let used = Int(text("/sys/fs/cgroup", "memory.current")) else { return machine }
        let cache = value(of: "inactive_file", in: text("/sys/fs/cgroup", "memory.stat")) ?? 0
        return min(machine, max(0, limit - used + cache))
    }

    package static func value(of key: String, in text: String) -> Int? {
        for line in text.split(separator: "\n") {
            let fields = line.split(separator: " ")
            if fields.count > 1, fields[0] == key { return Int(fields[1]) }
        }
        return nil
    }

    /// Without the newline at its end; empty where it cannot be read.
    package static func text(_ root: String, _ path: String, limit: Int = BenchLimits.procBytes) -> String {
        guard let folder = try? Files.openRoot(root), let bytes = try? Files.readAll(folder, path, limit: limit) else { return "" }
        return String(decoding: bytes.last == 10 ? bytes.dropLast() : bytes[...], as: UTF8.self)
    }

    /// A filesystem's name by the kernel's magic number (statfs(2)).
    package static func filesystem(_ type: Int) -> String {
        let names = [0xEF53: "ext4", 0x5846_5342: "xfs", 0x9123_683E: "btrfs", 0x0102_1994: "tmpfs", 0x8584_58F6: "ramfs", 0x6969: "nfs", 0x0BD0_0BD0: "lustre", 0x6573_5546: "fuse",
                     0x794C_7630: "overlay", 0x2FC1_2FC1: "zfs", 0x00C3_6400: "ceph", 0x4750_4653: "gpfs", 0x1983_0326: "beegfs", 0xF2F5_2010: "f2fs", 0xFE53_4D42: "smb"]
        return names[type & 0xFFFF_FFFF] ?? "filesystem 0x" + String(type & 0xFFFF_FFFF, radix: 16)
    }
}
