// What the node's memory gives: a copy between touched buffers by one thread and by as many as stage, and CRC32C.
import CairnIO
import CairnMessages

enum MemoryBench {
    static func measure(threads: Int, bytes: Int = BenchLimits.copyBytes, passes: Int = BenchLimits.copyPasses) throws -> MemorySpeed {
        let from = try MemoryMap(anonymous: bytes), to = try MemoryMap(anonymous: bytes)
        for map in [from, to] {
            map.adviseHugePages()
            try map.prefault(offset: 0, bytes: bytes)
        }
        func speed(_ body: () throws -> Void) rethrows -> Double {
            median(try (0..<passes).map { _ in
                let begin = Clock.monotonicNanoseconds()
                try body()
                return Double(bytes) / max(Clock.seconds(since: begin), 1e-9)
            })
        }
        let copy = speed { to.copy(from: from, at: 0, to: 0, bytes: bytes) }
        let threaded = threads == 1 ? copy : try speed {
            let share = bytes / threads
            let running = try (0..<threads).map { index in
                try Threads.spawn(name: "copy-\(index)") { to.copy(from: from, at: index * share, to: index * share, bytes: share) }
            }
            for thread in running { thread.join() }
        }
        let crc = speed { _ = from.crc32c(offset: 0, bytes: bytes) }
        return MemorySpeed(stagingThreads: threads, copyBytesPerSecond: copy, threadedCopyBytesPerSecond: threaded, crc32cBytesPerSecond: crc)
    }
}

extension Clock {
    static func seconds(since begin: Int) -> Double { Double(monotonicNanoseconds() - begin) / 1e9 }
}
