// A node on which there is nothing to change: each test worsens one thing of it.
import CairnModel
@testable import CairnBench

enum Make {
    static let gigabyte = 1e9

    static func folder() -> FolderSpeed {
        var folder = FolderSpeed(path: "/nvme0/cairn", tier: .local, filesystem: "ext4", isOnRoot: false, freeBytes: 100 << 30)
        folder.transfers = [
            transfer(.write, rate: 3.0), transfer(.read, rate: 2.0), transfer(.write, depth: 1, rate: 1.2), transfer(.read, depth: 1, rate: 0.9),
            transfer(.write, engine: .threads, rate: 2.8), transfer(.write, engine: .threads, direct: false, chunk: 1 << 20, depth: 1, rate: 0.8),
        ]
        folder.publish = Latency(seconds: [0.001])
        folder.smallRead = Latency(seconds: [0.0001])
        folder.saves = [SaveTimes(acceptedSeconds: 0.0006, stagedSeconds: 0.12, localSeconds: 0.38, committedSeconds: 0.385)]
        folder.restores = [ReadTimes(tier: .memory, seconds: 0.13), ReadTimes(tier: .local, seconds: 0.55)]
        return folder
    }

    static func transfer(_ operation: Transfer.Operation, engine: Transfer.Engine = .ring, direct: Bool = true, chunk: Int = Sizes.chunkBytes, depth: Int = 16,
                         rate gigabytes: Double...) -> Transfer {
        var made = Transfer(engine: engine, direct: direct, chunkBytes: chunk, depth: depth)
        made.operation = operation
        made.samplesBytesPerSecond = gigabytes.map { $0 * gigabyte }
        return made
    }

    static func measurements(_ change: (inout Measurements) -> Void = { _ in }) -> Measurements {
        var all = Measurements(
            node: NodeFacts(cores: 16, availableMemoryBytes: 64 << 30, hugePages: "madvise"),
            memory: MemorySpeed(stagingThreads: 4, copyBytesPerSecond: 10 * gigabyte, threadedCopyBytesPerSecond: 12 * gigabyte, crc32cBytesPerSecond: 25 * gigabyte),
            pool: PoolFacts(bytes: 4 << 30), stateBytes: 1 << 30, wantedBytes: 1 << 30, folders: [folder()])
        change(&all)
        return all
    }
}
