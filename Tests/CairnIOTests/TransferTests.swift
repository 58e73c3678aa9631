import CairnIO
import Testing

@Suite struct TransferTests {
    let folder: TemporaryFolder
    init() throws { folder = try TemporaryFolder() }

    @Test func positionedTransfersAreWhole() throws {
        let map = try MemoryMap(anonymous: 1 << 20)
        let bytes = patternBytes(300_001)
        map.copy(from: bytes, at: 10)
        let file = try Files.open(folder.root, "file", flags: [.read, .write, .create, .exclusive])
        try PositionedIO.writeAll(file, map, mapOffset: 10, bytes: bytes.count, fileOffset: 5)
        let back = try MemoryMap(anonymous: 1 << 20)
        try PositionedIO.readAll(file, back, mapOffset: 0, bytes: bytes.count, fileOffset: 5)
        #expect(back.copyBytes(offset: 0, count: bytes.count) == bytes)
        #expect(throws: PositionedFailure.truncated(path: "", at: 300_006)) {
            try PositionedIO.readAll(file, back, mapOffset: 0, bytes: bytes.count + 1, fileOffset: 5)
        }
        #expect(try PositionedIO.readUpTo(file, back, mapOffset: 0, bytes: 100, fileOffset: 300_000) == 6)
    }

    @Test(.enabled(if: Ring.probe() == nil, "io_uring is refused here"))
    func ringWritesSyncsAndReadsManyChunks() throws {
        let ring = try Ring(depth: 8)
        let memory = try SharedMemory.create(name: "ring", bytes: 8 << 20)
        let map = try memory.map(writable: true)
        try map.prefault(offset: 0, bytes: map.bytes)
        for index in 0..<8 { map.copy(from: patternBytes(1 << 20, seed: UInt64(index + 1)), at: index << 20) }
        let file = try Files.open(folder.root, "ring", flags: [.read, .write, .create, .exclusive, .direct])
        for round in 0..<4 {
            for index in 0..<8 {
                ring.write(file, map, mapOffset: index << 20, bytes: 1 << 20, fileOffset: (round * 8 + index) << 20, tag: UInt64(index))
            }
            #expect(!ring.hasRoom)
            var results: [Ring.Completion] = []
            while results.count < 8 {
                try ring.submitAndWait(minimum: 1, timeoutMilliseconds: 10_000)
                results += ring.completions()
            }
            #expect(Set(results.map(\.tag)) == Set(0..<8) && results.allSatisfy { $0.result == 1 << 20 })
        }
        ring.sync(file, dataOnly: true, tag: 99)
        try ring.submitAndWait(minimum: 1)
        #expect(ring.completions() == [.init(tag: 99, result: 0)])
        let back = try MemoryMap(anonymous: 1 << 20)
        ring.read(file, back, mapOffset: 0, bytes: 1 << 20, fileOffset: 26 << 20, tag: 5)
        try ring.submitAndWait(minimum: 1)
        #expect(ring.completions() == [.init(tag: 5, result: 1 << 20)])
        #expect(back.crc32c(offset: 0, bytes: 1 << 20) == map.crc32c(offset: 2 << 20, bytes: 1 << 20))
        // Unaligned with O_DIRECT: the kernel's refusal becomes the same kind of failure.
        ring.write(file, map, mapOffset: 1, bytes: 100, fileOffset: 0, tag: 6)
        try ring.submitAndWait(minimum: 1)
        #expect(ring.completions().first?.failure("write", "x")?.isNotSupported == true)
    }

    @Test(.enabled(if: Ring.probe() == nil, "io_uring is refused here"))
    func ringWakesOnAnEventCounter() throws {
        let ring = try Ring(depth: 2)
        let counter = try EventCounter()
        ring.pollReadable(counter.descriptor, tag: 1)
        try ring.submitAndWait(minimum: 1, timeoutMilliseconds: 1)
        #expect(ring.completions().isEmpty && ring.inFlight == 1)
        try Threads.spawn(name: "signaller") { counter.signal(); counter.signal() }
        try ring.submitAndWait(minimum: 1, timeoutMilliseconds: 10_000)
        #expect(ring.completions().map(\.tag) == [1])
        #expect(counter.wait(timeoutMilliseconds: 10_000))
        #expect(counter.drain() >= 1)
        #expect(counter.drain() <= 1)
    }
}
