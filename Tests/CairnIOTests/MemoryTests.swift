@testable import CairnIO
import Testing

@Suite struct MemoryTests {
    @Test func twoMapsOfOneMemoryShareBytes() throws {
        let memory = try SharedMemory.create(name: "test", bytes: 1 << 20)
        let writer = try memory.map(writable: true), reader = try memory.map(writable: false)
        try writer.prefault(offset: 0, bytes: 1 << 20)
        let bytes = patternBytes(5000)
        writer.copy(from: bytes, at: 4095)
        #expect(reader.copyBytes(offset: 4095, count: 5000) == bytes)
        let other = try MemoryMap(anonymous: 8192)
        other.copy(from: reader, at: 4095, to: 1, bytes: 5000)
        #expect(other.copyBytes(offset: 1, count: 5000) == bytes)
        writer.zero(offset: 4095, bytes: 5000)
        #expect(reader.copyBytes(offset: 4095, count: 5000).allSatisfy { $0 == 0 })
    }

    /// Huge pages are made of what is there already, and seen by every map.
    @Test func prefaultingKeepsWhatIsThere() throws {
        let memory = try SharedMemory.create(name: "test", bytes: 8 << 20)
        let writer = try memory.map(writable: true), reader = try memory.map(writable: false)
        #expect(writer.address(of: 0).isMultiple(of: UInt64(IOLimits.hugePageBytes)))
        let bytes = patternBytes(3 << 20)
        writer.copy(from: bytes, at: 1 << 20)
        try writer.prefault(offset: 0, bytes: 8 << 20)
        #expect(reader.copyBytes(offset: 1 << 20, count: bytes.count) == bytes)
        #expect(reader.copyBytes(offset: 4 << 20, count: 4 << 20).allSatisfy { $0 == 0 })
        // Less than a huge page, and not at its begin.
        try writer.prefault(offset: 4096, bytes: 8192)
        #expect(reader.copyBytes(offset: 1 << 20, count: bytes.count) == bytes)
    }

    @Test func sealedMemoryKeepsItsSize() throws {
        let memory = try SharedMemory.create(name: "test", bytes: 8192)
        #expect(try SharedMemory.seals(of: memory.descriptor) == .fixed)
        #expect(throws: IOFailure.self) { try Files.truncate(memory.descriptor, bytes: 4096) }
        #expect(throws: IOFailure.self) { try Files.truncate(memory.descriptor, bytes: 1 << 20) }
        let folder = try TemporaryFolder()
        #expect(throws: IOFailure.self) { try SharedMemory.seals(of: folder.root) }
    }

    @Test func rangeOutsideTheMapTraps() async {
        await #expect(processExitsWith: .failure) {
            _ = try MemoryMap(anonymous: 4096).copyBytes(offset: 4000, count: 97)
        }
        await #expect(processExitsWith: .failure) {
            try MemoryMap(SharedMemory.create(name: "t", bytes: 4096).descriptor, bytes: 4096, writable: false).copy(from: [1], at: 0)
        }
    }

    private enum Way: CaseIterable { case process, descriptor }
    private func memory(_ way: Way) throws -> RankMemory {
        switch way {
        case .process: RankMemory(pid: ProcessFacts.pid)
        case .descriptor: RankMemory(memoryDescriptor: try RankMemory.openOwn())
        }
    }

    @Test(arguments: Way.allCases) private func manyPiecesAreGatheredInOrder(way: Way) throws {
        let source = try MemoryMap(anonymous: 4 << 20), target = try MemoryMap(anonymous: 4 << 20)
        let bytes = patternBytes(4 << 20)
        source.copy(from: bytes, at: 0)
        var pieces: [(address: UInt64, bytes: Int)] = [], expected: [UInt8] = [], at = 0
        for index in 0..<3000 {                      // more than one call takes, some of them empty
            let count = index % 7 == 0 ? 0 : 1 + index % 1300
            pieces.append((source.address(of: at), count))
            expected += bytes[at..<at + count]
            at += count + 3
        }
        #expect(RankMemory.canRead(pid: ProcessFacts.pid))
        try memory(way).read(pieces, into: target, at: 5)
        #expect(target.copyBytes(offset: 5, count: expected.count) == expected)
    }

    @Test(arguments: Way.allCases) private func addressThatIsNotMappedIsNamed(way: Way) throws {
        let source = try MemoryMap(anonymous: 8192), target = try MemoryMap(anonymous: 8192)
        let good = source.address(of: 0)
        #expect(throws: RankMemoryFailure.notMapped(address: 4096)) {
            try memory(way).read([(good, 100), (4096, 10)], into: target, at: 0)
        }
        #expect(throws: RankMemoryFailure.notMapped(address: UInt64.max - 99)) {
            try memory(way).read([(UInt64.max - 99, 10)], into: target, at: 0)
        }
    }

    @Test func endedProcessIsGone() throws {
        let child = try ChildProcess.spawn(executable: "/bin/sleep", arguments: ["sleep", "60"])
        #expect(!PidWatch.isGone(child.pidfd))
        #expect(child.reap() == nil)
        #expect(RankMemory.canRead(pid: child.pid))
        child.kill(Signals.kill)
        #expect(child.wait(timeoutMilliseconds: 10_000) == .signal(Signals.kill))
        #expect(PidWatch.isGone(child.pidfd))
        let target = try MemoryMap(anonymous: 4096)
        #expect(throws: RankMemoryFailure.gone) { try RankMemory(pid: child.pid).read([(4096, 10)], into: target, at: 0) }
        #expect(!RankMemory.canRead(pid: child.pid))
    }

    @Test func onlyProcMemIsAMemoryDescriptor() throws {
        #expect(RankMemory.isMemoryDescriptor(try RankMemory.openOwn()))
        let folder = try TemporaryFolder()
        try Files.makeFolders(folder.root, "1")
        try Files.writeNew(folder.root, "1/mem", [1])
        #expect(!RankMemory.isMemoryDescriptor(try Files.open(folder.root, "1/mem", flags: .read)))
        #expect(!RankMemory.isMemoryDescriptor(folder.root))
        #expect(!RankMemory.isMemoryDescriptor(try EventCounter().descriptor))
        let proc = try Files.openRoot("/proc/\(ProcessFacts.pid)")
        #expect(!RankMemory.isMemoryDescriptor(try Files.open(proc, "mem", flags: [.read, .write])))
    }
}
