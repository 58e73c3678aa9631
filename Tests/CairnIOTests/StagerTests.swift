import CairnIO
import CairnMessages
import CairnModel
import Testing

@Suite(.serialized) struct StagerTests {
    /// Stages all chunks, slot = chunk + `firstSlot`; gives the handle's replies in order, as words.
    private func stageAll(_ stager: StagerHarness, _ rank: FakeRank, handle: Int, firstSlot: Int = 0) throws -> [String] {
        try stager.send(.stage((0..<rank.chunks).map { ChunkAssignment(handle: handle, chunk: $0, slot: $0 + firstSlot) }))
        var order: [String] = [], staged = 0, eager = false
        while staged < rank.chunks || !eager {
            let (reply, payload) = try stager.next()
            switch reply {
            case .staged(let chunks):
                var words = Words.unpack32(payload[...])[...]
                for chunk in chunks where chunk.handle == handle {
                    order.append("staged \(chunk.chunk)")
                    #expect(chunk.slot == chunk.chunk + firstSlot)
                    #expect(Array(words.prefix(chunk.blocks)) == rank.blockChecksums(chunk.chunk))
                    words = words.dropFirst(chunk.blocks)
                    staged += 1
                }
            case .eagerStaged(handle): order.append("eager"); eager = true
            case .stageFailed(handle, _, let text): Issue.record("\(text)"); return order
            default: break
            }
        }
        return order
    }

    private func check(_ stager: StagerHarness, _ rank: FakeRank, firstSlot: Int = 0) {
        for chunk in 0..<rank.chunks {
            let begin = chunk * Sizes.chunkBytes, count = min(Sizes.chunkBytes, rank.expected.count - begin)
            #expect(stager.slotBytes(chunk + firstSlot, count: count) == Array(rank.expected[begin..<begin + count]))
            if count % Sizes.alignment != 0 {
                let tail = Sizes.alignment - count % Sizes.alignment
                #expect(stager.slotBytes(chunk + firstSlot, offset: count, count: tail).allSatisfy { $0 == 0 })
            }
        }
    }

    private let mixed: [(bytes: Int, eager: Bool)] =
        [(5 << 20, true), (0, false), (100_003, false), (9 << 20, false)] + (0..<3000).map { (1 + $0 % 1700, $0 % 5 == 0) }

    @Test(arguments: [false, true]) func fileIsStagedWithItsChecksums(forceDescriptor: Bool) throws {
        let stager = try StagerHarness(slots: 6, forceDescriptor: forceDescriptor)
        let direct = try stager.openSession()
        #expect(direct == !forceDescriptor)
        if forceDescriptor {
            #expect(try stager.attach("S", [RankMemory.openOwn()]) == "{\"parameters\":{}}\0")
        }
        let rank = try FakeRank(parts: mixed)
        try rank.begin(stager, handle: 1)
        let order = try stageAll(stager, rank, handle: 1, firstSlot: 2)
        check(stager, rank, firstSlot: 2)
        #expect(order.filter { $0 == "eager" }.count == 1)
        try stager.send(.finish(handle: 1))
        // The same layout again, with the bytes as they are now.
        try rank.begin(stager, handle: 2)
        _ = try stageAll(stager, rank, handle: 2)
        check(stager, rank)
    }

    @Test func eagerBytesComeFirstAndLazyOnesAfterTheyAreTold() throws {
        let stager = try StagerHarness(slots: 8)
        _ = try stager.openSession()
        // Chunk 0: header and eager; 1 and 2: lazy only; 3: the object at the end.
        let rank = try FakeRank(parts: [(8 << 20, true), (16 << 20, false)], objects: [1 << 20])
        try rank.begin(stager, handle: 5)
        // Without the last chunk the eager bytes are not complete: nothing lazy is copied.
        try stager.send(.stage([.init(handle: 5, chunk: 2, slot: 2), .init(handle: 5, chunk: 0, slot: 0), .init(handle: 5, chunk: 1, slot: 1)]))
        guard case .staged(let first) = try stager.next().reply else { throw Unexpected() }
        #expect(first.map(\.chunk) == [0])
        try stager.send(.stage([.init(handle: 5, chunk: 3, slot: 3)]))
        guard case .eagerStaged(handle: 5) = try stager.next().reply else { throw Unexpected() }
        var later: Set<Int> = []
        while later.count < 3 {
            guard case .staged(let chunks) = try stager.next().reply else { throw Unexpected() }
            later.formUnion(chunks.map(\.chunk))
        }
        #expect(later == [1, 2, 3])
        check(stager, rank)
    }

    /// Replies to one put, and what was staged by then.
    private func stagedUntilPut(_ stager: StagerHarness, _ rank: FakeRank, handle: Int, id: Int, _ staged: inout Set<Int>) throws {
        while true {
            let (reply, payload) = try stager.next()
            switch reply {
            case .putDone(id): return
            case .putFailed(_, let text), .stageFailed(_, _, let text): Issue.record("\(text)"); return
            case .staged(let chunks):
                var words = Words.unpack32(payload[...])[...]
                for chunk in chunks {
                    #expect(Array(words.prefix(chunk.blocks)) == rank.blockChecksums(chunk.chunk))
                    words = words.dropFirst(chunk.blocks)
                    #expect(staged.insert(chunk.chunk).inserted, "chunk \(chunk.chunk) staged twice")
                }
            default: break
            }
        }
    }

    private func lease(_ stager: StagerHarness, _ segment: Int, bytes: Int) throws -> MemoryMap {
        let memory = try SharedMemory.create(name: "lease", bytes: bytes)
        try stager.send(.lease(segment: segment, bytes: bytes), descriptors: [memory.descriptor])
        while true { if case .leased(segment) = try stager.next().reply { return try memory.map(writable: true) } }
    }

    private func put(_ stager: StagerHarness, id: Int, handle: Int, _ pieces: [(fileOffset: Int, offset: Int, bytes: Int)], segment: Int = 9) throws {
        let words = pieces.flatMap { [UInt64($0.fileOffset), UInt64(segment), UInt64($0.offset), UInt64($0.bytes)] }
        try stager.send(.put(id: id, handle: handle), payload: Words.pack(words))
    }

    /// Eager, lazy and streamed bytes in one file, pieces of every size; `ahead`: a put comes before its chunks have slots.
    @Test(arguments: [3_000_000, 77_777, 9 << 20], [false, true]) func streamedBytesAreStagedAsTheyArePut(piece: Int, ahead: Bool) throws {
        let stager = try StagerHarness(slots: 8)
        _ = try stager.openSession()
        let lease = try lease(stager, 9, bytes: 10 << 20)
        var rank = try FakeRank(parts: [(1 << 20, true), (3_000_003, false), (11 << 20, false), (70_001, false), (9_000_001, false), (300, false)], objects: [5000])
        for index in [2, 4, 5] { rank.extents[index] = StageExtent(fileOffset: rank.extents[index].fileOffset, address: 0, bytes: rank.extents[index].bytes, eager: false, source: StageExtent.streamed) }
        try rank.begin(stager, handle: 1)
        let assignments = (0..<rank.chunks).map { ChunkAssignment(handle: 1, chunk: $0, slot: $0) }
        // The last chunk has the eager object, without which nothing else is copied.
        let order = [assignments[rank.chunks - 1]] + assignments.dropLast()
        if !ahead { try stager.send(.stage(order)) }
        var staged: Set<Int> = [], id = 0, at = 0
        for index in [2, 4, 5] {
            let begin = rank.header.count + rank.extents[index].fileOffset, end = begin + rank.extents[index].bytes
            at = begin
            while at < end {
                // Two pieces a put, in the lease the other way round.
                let first = min(piece / 2, end - at), second = min(piece - piece / 2, end - at - first)
                lease.copy(from: rank.expected[at..<at + first], at: second)
                lease.copy(from: rank.expected[at + first..<at + first + second], at: 0)
                id += 1
                let pieces = [(fileOffset: at, offset: second, bytes: first), (fileOffset: at + first, offset: 0, bytes: second)]
                try put(stager, id: id, handle: 1, pieces.filter { $0.bytes > 0 })
                if ahead, id == 1 {
                    #expect(try stager.isSilent(milliseconds: 50), "a put was answered before its bytes had a slot")
                    try stager.send(.stage(order))
                }
                try stagedUntilPut(stager, rank, handle: 1, id: id, &staged)
                // The lease is free.
                lease.zero(offset: 0, bytes: lease.bytes)
                at += first + second
            }
        }
        let deadline = Clock.monotonicNanoseconds() + 10_000_000_000
        while staged.count < rank.chunks, Clock.monotonicNanoseconds() < deadline {
            if case .staged(let chunks) = try stager.next().reply { staged.formUnion(chunks.map(\.chunk)) }
        }
        check(stager, rank)
    }

    @Test func aPutOfASaveThatIsGivenUpIsAnsweredOnce() throws {
        let stager = try StagerHarness(slots: 8)
        _ = try stager.openSession()
        _ = try lease(stager, 9, bytes: 1 << 20)
        var rank = try FakeRank(parts: [(9 << 20, false)])
        rank.extents[0] = StageExtent(fileOffset: 0, address: 0, bytes: 9 << 20, eager: false, source: StageExtent.streamed)
        try rank.begin(stager, handle: 1)
        try put(stager, id: 1, handle: 1, [(fileOffset: rank.header.count, offset: 0, bytes: 1000), (fileOffset: rank.header.count + 1000, offset: 0, bytes: 2000)])
        #expect(try stager.isSilent(milliseconds: 50))
        try stager.send(.cancel(handle: 1))
        guard case .putFailed(id: 1, _) = try stager.next().reply else { throw Unexpected() }
        guard case .cancelled(handle: 1, busySlots: []) = try stager.next().reply else { throw Unexpected() }
        try put(stager, id: 2, handle: 1, [(fileOffset: rank.header.count + 3000, offset: 0, bytes: 1000)])
        guard case .putFailed(id: 2, _) = try stager.next().reply else { throw Unexpected() }
        #expect(try stager.isSilent(milliseconds: 50))
    }

    @Test func objectsThatTheirRankKeepsAreCopiedWithTheLazyBytes() throws {
        let stager = try StagerHarness(slots: 8)
        _ = try stager.openSession()
        // Chunk 0: header and lazy; 1: lazy and the object.
        let rank = try FakeRank(parts: [(8 << 20, false)], objects: [1 << 20], eagerObjects: false)
        try rank.begin(stager, handle: 5)
        try stager.send(.stage([.init(handle: 5, chunk: 0, slot: 0)]))
        guard case .eagerStaged(handle: 5) = try stager.next().reply else { throw Unexpected() }
        try stager.send(.stage([.init(handle: 5, chunk: 1, slot: 1)]))
        var staged: Set<Int> = []
        while staged.count < 2 {
            guard case .staged(let chunks) = try stager.next().reply else { throw Unexpected() }
            staged.formUnion(chunks.map(\.chunk))
        }
        check(stager, rank)
    }

    @Test func withoutLazyBytesTheLastChunkIsToldBeforeEagerStaged() throws {
        let stager = try StagerHarness(slots: 4)
        _ = try stager.openSession()
        let rank = try FakeRank(parts: [(17 << 20, true)])
        try rank.begin(stager, handle: 1)
        let order = try stageAll(stager, rank, handle: 1)
        #expect(order.last == "eager" && order.count == rank.chunks + 1)
        check(stager, rank)
    }

    @Test func ranksTakeTurns() throws {
        let stager = try StagerHarness(slots: 16, threads: 1)
        _ = try stager.openSession("A")
        _ = try stager.openSession("B")
        let rank = try FakeRank(parts: [(63 << 20, true)], objects: [])
        for (handle, token) in [(1, "A"), (2, "B")] { try rank.begin(stager, handle: handle, session: token) }
        try stager.send(.stage((0..<8).map { .init(handle: 1, chunk: $0, slot: $0) } + (0..<8).map { .init(handle: 2, chunk: $0, slot: 8 + $0) }))
        var order: [Int] = []
        while order.count < 16 {
            if case .staged(let chunks) = try stager.next().reply { order += chunks.map(\.handle) }
        }
        #expect(order.prefix(8).filter { $0 == 1 }.count == 4)
    }

    @Test func addressThatIsNotMappedFailsThatSaveOnly() throws {
        let stager = try StagerHarness(slots: 8)
        _ = try stager.openSession()
        var bad = try FakeRank(parts: [(1 << 20, true), (1 << 20, true)])
        bad.extents[1].address = 4096
        try bad.begin(stager, handle: 1)
        try stager.send(.stage([.init(handle: 1, chunk: 0, slot: 0)]))
        guard case .stageFailed(handle: 1, kind: .notMapped, _) = try stager.next().reply else { throw Unexpected() }
        try stager.send(.cancel(handle: 1))
        guard case .cancelled(handle: 1, busySlots: []) = try stager.next().reply else { throw Unexpected() }
        let good = try FakeRank(parts: [(1 << 20, true)])
        try good.begin(stager, handle: 2, layout: 2)
        _ = try stageAll(stager, good, handle: 2)
        check(stager, good)
    }

    @Test func badAnnouncementsAreRefusedByName() throws {
        let stager = try StagerHarness(slots: 2)
        _ = try stager.openSession()
        let rank = try FakeRank(parts: [(1000, true)])
        func kind(_ handle: Int) throws -> StageFailureKind {
            guard case .stageFailed(handle, let kind, _) = try stager.next().reply else { throw Unexpected() }
            return kind
        }
        try stager.send(.begin(.init(handle: 1, session: "X", layout: 1, dataStart: 0, fileBytes: 0, objects: [])))
        #expect(try kind(1) == .gone)
        try stager.send(.begin(.init(handle: 2, session: "S", layout: 9, dataStart: 0, fileBytes: 0, objects: [])))
        #expect(try kind(2) == .other)
        try stager.send(.layout(session: "S", layout: 1), payload: StageExtent.pack(rank.extents))
        try stager.send(.begin(.init(handle: 3, session: "S", layout: 1, dataStart: 4096, fileBytes: 5000, objects: [])), payload: rank.header)
        #expect(try kind(3) == .other)
        try stager.send(.begin(.init(handle: 4, session: "S", layout: 1, dataStart: 4096, fileBytes: 5096, objects: [])), payload: rank.header)
        try stager.send(.stage([.init(handle: 4, chunk: 0, slot: 2)]))
        #expect(try kind(4) == .other)
    }

    @Test func whatIsVerifiedAndUnchangedIsStaged() throws {
        let stager = try StagerHarness(slots: 6)
        _ = try stager.openSession()
        let rank = try FakeRank(parts: mixed)
        try rank.begin(stager, handle: 1, verify: true)
        let order = try stageAll(stager, rank, handle: 1)
        #expect(order.filter { $0 == "eager" }.count == 1)
        check(stager, rank)
    }

    /// In every kind of lazy piece: whole blocks, one cut by a block's end, a few bytes beside others.
    @Test(arguments: [(1, 7 << 20 - 1), (2, 0), (50, 3), (302, 0)])
    func aByteChangedBetweenTheSumAndTheCopyFailsTheSave(part: Int, byte: Int) throws {
        let stager = try StagerHarness(slots: 6)
        _ = try stager.openSession()
        let parts = [(4 << 20, true), (7 << 20, false), (9 << 20 + 100_003, false)] + (0..<299).map { (1000 + $0, false) } + [(6 << 20, false)]
        let rank = try FakeRank(parts: parts, objects: [7])
        let held = [1, 2], changed = rank.extents[part]
        #expect(held.contains((4096 + changed.fileOffset + byte) / Sizes.chunkBytes), "the byte is in a chunk that waits")
        try rank.begin(stager, handle: 1, verify: true)
        try stager.send(.stage((0..<rank.chunks).filter { !held.contains($0) }.map { ChunkAssignment(handle: 1, chunk: $0, slot: $0) }))
        while true { if case .eagerStaged(handle: 1) = try stager.next().reply { break } }
        let at = Int(changed.address - rank.memory.address(of: 0)) + byte
        rank.memory.copy(from: [rank.memory.copyBytes(offset: at, count: 1)[0] ^ 1], at: at)
        try stager.send(.stage(held.map { ChunkAssignment(handle: 1, chunk: $0, slot: $0) }))
        while true {
            switch try stager.next().reply {
            case .staged: continue
            case .changed(handle: 1, let fileOffset):
                #expect((changed.fileOffset..<changed.fileOffset + changed.bytes).contains(fileOffset - 4096))
                return
            default: throw Unexpected()
            }
        }
    }

    @Test func rankThatEndedIsGone() throws {
        let stager = try StagerHarness(slots: 2)
        let child = try ChildProcess.spawn(executable: "/bin/sleep", arguments: ["sleep", "60"])
        #expect(try stager.openSession(pid: child.pid))
        child.kill(Signals.kill)
        #expect(child.wait(timeoutMilliseconds: 10_000) != nil)
        let rank = try FakeRank(parts: [(1000, true)])
        try rank.begin(stager, handle: 1)
        try stager.send(.stage([.init(handle: 1, chunk: 0, slot: 0)]))
        guard case .stageFailed(handle: 1, kind: .gone, _) = try stager.next().reply else { throw Unexpected() }
    }

    @Test func withoutPermissionAndDescriptorNothingIsRead() throws {
        let stager = try StagerHarness(slots: 2, forceDescriptor: true)
        #expect(try !stager.openSession())
        let rank = try FakeRank(parts: [(1000, true)])
        try rank.begin(stager, handle: 1)
        try stager.send(.stage([.init(handle: 1, chunk: 0, slot: 0)]))
        guard case .stageFailed(handle: 1, kind: .notPermitted, _) = try stager.next().reply else { throw Unexpected() }
    }

    @Test func memorySocketTakesNothingElse() throws {
        let stager = try StagerHarness(slots: 1, forceDescriptor: true)
        _ = try stager.openSession()
        let folder = try TemporaryFolder()
        #expect(try stager.attach("S", [folder.root]).contains("NotPermitted"))
        #expect(try stager.attach("S", []).contains("InvalidParameter"))
        #expect(try stager.attach("S", [RankMemory.openOwn()], index: 1).contains("InvalidParameter"))
        #expect(try stager.attach("unknown", [RankMemory.openOwn()]).contains("NotOpen"))
        let socket = try UnixSocket.connect(path: stager.folder.path + "/s.memory", timeoutMilliseconds: 5000)
        try UnixSocket.sendAll(socket, [UInt8](repeating: 0x20, count: 70_000), timeoutMilliseconds: 5000)
        try #require(UnixSocket.waitReadable(socket, timeoutMilliseconds: 10_000))
        guard case .bytes(let reply) = try UnixSocket.receive(socket, max: 1000) else { throw Unexpected() }
        #expect(String(decoding: reply, as: UTF8.self).contains("TooLarge"))
        #expect(try stager.attach("S", [RankMemory.openOwn()]) == "{\"parameters\":{}}\0")
        guard case .memoryAttached(token: "S") = try stager.next().reply else { throw Unexpected() }
    }

    @Test func cancelIsAnsweredAndSlotsComeBack() throws {
        let stager = try StagerHarness(slots: 8)
        _ = try stager.openSession()
        let rank = try FakeRank(parts: [(60 << 20, true)])
        try rank.begin(stager, handle: 1)
        try stager.send(.stage((0..<8).map { .init(handle: 1, chunk: $0, slot: $0) }))
        try stager.send(.cancel(handle: 1))
        var busy: Set<Int>?
        while busy == nil {
            if case .cancelled(handle: 1, let slots) = try stager.next().reply { busy = Set(slots) }
        }
        while busy?.isEmpty == false {
            guard case .slotFree(let slot) = try stager.next().reply else { throw Unexpected() }
            #expect(busy?.remove(slot) != nil)
        }
        try stager.send(.cancel(handle: 99))
        guard case .cancelled(handle: 99, busySlots: []) = try stager.next().reply else { throw Unexpected() }
        let next = try FakeRank(parts: [(1 << 20, true)])
        try next.begin(stager, handle: 2)
        _ = try stageAll(stager, next, handle: 2)
        check(stager, next)
    }

    /// Memory whose faults nobody answers: what a mapping of a hung filesystem is to a reader.
    private static let hangingMemory = """
        import ctypes, fcntl, mmap, os, struct, sys
        libc = ctypes.CDLL(None)
        fd = libc.syscall(323, os.O_CLOEXEC)
        if fd < 0: sys.exit(1)
        fcntl.ioctl(fd, 0xC018AA3F, bytearray(struct.pack("QQQ", 0xAA, 0, 0)))
        memory = mmap.mmap(-1, 1 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        fcntl.ioctl(fd, 0xC020AA00, bytearray(struct.pack("QQQQ", address, 1 << 20, 1, 0)))
        os.write(7, str(address).encode())
        sys.stdin.read()
        """

    /// A process with such memory, and its address; nil where it cannot be made. It ends when `input` is closed.
    private func hangingProcess() throws -> (child: ChildProcess, address: UInt64, input: Descriptor)? {
        let (mine, its) = try UnixSocket.pair(), (input, childInput) = try UnixSocket.pair()
        let child = try ChildProcess.spawn(executable: "/usr/bin/env", arguments: ["env", "python3", "-c", Self.hangingMemory],
                                           inherit: [(its, as: 7), (childInput, as: 0)])
        _ = UnixSocket.waitReadable(mine, timeoutMilliseconds: 20_000)
        guard case .bytes(let text) = try UnixSocket.receive(mine, max: 100), let address = UInt64(String(decoding: text, as: UTF8.self)) else {
            child.kill(Signals.kill)
            print("skipped: python3 or userfaultfd is not there")
            return nil
        }
        return (child, address, input)
    }

    @Test func copyThatSticksIsWrittenOffAndItsSlotComesBackLater() throws {
        guard let (child, address, input) = try hangingProcess() else { return }
        let stager = try StagerHarness(slots: 4, threads: 1, stuckMilliseconds: 100)
        _ = try stager.openSession("H", pid: child.pid)
        _ = try stager.openSession("S")
        var rank = try FakeRank(parts: [(1 << 20, true)], objects: [])
        rank.extents[0].address = address
        try rank.begin(stager, handle: 1, session: "H")
        try stager.send(.stage([.init(handle: 1, chunk: 0, slot: 3)]))
        guard case .stageFailed(handle: 1, kind: .stuck, _) = try stager.next().reply else { throw Unexpected() }
        try stager.send(.cancel(handle: 1))
        guard case .cancelled(handle: 1, busySlots: [3]) = try stager.next().reply else { throw Unexpected() }
        let good = try FakeRank(parts: [(9 << 20, true)])
        try good.begin(stager, handle: 2)
        _ = try stageAll(stager, good, handle: 2)
        check(stager, good)
        child.kill(Signals.kill)
        guard case .slotFree(slot: 3) = try stager.next().reply else { throw Unexpected() }
        _ = child.wait(timeoutMilliseconds: 10_000)
        _ = input
    }

    /// The only thread for lazy chunks sticks; the one for eager chunks takes those of a save that its rank waits for.
    @Test func whatItsRankWaitsForIsCopiedByTheThreadsOfEagerChunksToo() throws {
        guard let (child, address, input) = try hangingProcess() else { return }
        let stager = try StagerHarness(slots: 4, threads: 1, stuckMilliseconds: 60_000)
        _ = try stager.openSession("H", pid: child.pid)
        _ = try stager.openSession("S")
        var stuck = try FakeRank(parts: [(1 << 20, false)], objects: [])
        stuck.extents[0].address = address
        try stuck.begin(stager, handle: 1, session: "H")
        try stager.send(.stage([.init(handle: 1, chunk: 0, slot: 3)]))
        guard case .eagerStaged(handle: 1) = try stager.next().reply else { throw Unexpected() }
        let rank = try FakeRank(parts: [(9 << 20, false)], objects: [])
        try rank.begin(stager, handle: 2)
        try stager.send(.stage([.init(handle: 2, chunk: 0, slot: 0), .init(handle: 2, chunk: 1, slot: 1)]))
        guard case .eagerStaged(handle: 2) = try stager.next().reply else { throw Unexpected() }
        #expect(try stager.isSilent(milliseconds: 300), "a lazy chunk was copied by an eager thread")
        try stager.send(.hurry(handle: 2))
        var staged: Set<Int> = []
        while staged.count < 2 {
            guard case .staged(let chunks) = try stager.next().reply else { throw Unexpected() }
            staged.formUnion(chunks.filter { $0.handle == 2 }.map(\.chunk))
        }
        check(stager, rank)
        child.kill(Signals.kill)
        _ = child.wait(timeoutMilliseconds: 10_000)
        _ = input
    }

    @Test func copyOutVerifiesThenCopies() throws {
        let stager = try StagerHarness(slots: 3)
        _ = try stager.openSession()
        let rank = try FakeRank(parts: [(9 << 20, true)])
        try rank.begin(stager, handle: 1)
        _ = try stageAll(stager, rank, handle: 1, firstSlot: 1)
        let lease = try SharedMemory.create(name: "lease", bytes: 1 << 20)
        let view = try lease.map(writable: false)
        try stager.send(.lease(segment: 7, bytes: lease.bytes), descriptors: [lease.descriptor])
        guard case .leased(segment: 7) = try stager.next().reply else { throw Unexpected() }

        let block = Sizes.chunkBytes + 3 * Sizes.blockBytes, checksum = UInt64(rank.blockChecksums(0)[3])
        func copyOut(_ id: Int, checks: [UInt64], copies: [UInt64], source: CopySource = .pool) throws -> StagerReply {
            try stager.send(.copyOut(id: id, source: source, verify: checks.count / 4, copies: copies.count / 4), payload: Words.pack(checks + copies))
            return try stager.next().reply
        }
        let copies: [UInt64] = [UInt64(block + 10), 7, 5, 1000, UInt64(block + 5000), 7, 9000, 17]
        guard case .copiedOut(id: 1) = try copyOut(1, checks: [UInt64(block), UInt64(Sizes.blockBytes), checksum, 0], copies: copies)
        else { throw Unexpected() }
        let start = 3 * Sizes.blockBytes
        #expect(view.copyBytes(offset: 5, count: 1000) == Array(rank.expected[(start + 10)..<(start + 1010)]))
        #expect(view.copyBytes(offset: 9000, count: 17) == Array(rank.expected[(start + 5000)..<(start + 5017)]))
        // A wrong checksum: named, and nothing of that block is copied.
        guard case .copyFailed(id: 2, offset: block, _) = try copyOut(
            2, checks: [UInt64(block), UInt64(Sizes.blockBytes), checksum ^ 1, 0], copies: [UInt64(block), 7, 0, 5]) else { throw Unexpected() }
        #expect(view.copyBytes(offset: 0, count: 5) == [0, 0, 0, 0, 0])
        // A check that no copy touches fails it too; one that is of no block is refused.
        let other = 2 * Sizes.blockBytes
        guard case .copyFailed(id: 7, offset: other, _) = try copyOut(7, checks: [UInt64(other), UInt64(Sizes.blockBytes), 1, 0], copies: [UInt64(block), 7, 0, 5]),
              case .copyFailed(id: 8, offset: nil, _) = try copyOut(8, checks: [1, 5, 0, 0], copies: []) else { throw Unexpected() }
        // Out of range, in every word.
        for bad: [UInt64] in [[UInt64.max, 7, 0, 1], [UInt64(3 * Sizes.chunkBytes), 7, 0, 1], [0, 8, 0, 1], [0, 7, 1 << 20, 1], [0, 7, 0, (1 << 20) + 1],
                              [0, 7, 0, UInt64.max], [0, 7, UInt64.max, 1]] {
            guard case .copyFailed(id: 3, offset: nil, _) = try copyOut(3, checks: [], copies: bad) else { throw Unexpected() }
        }
        // A tier's buffer, and one of an instance that is no longer there.
        let buffer = try SharedMemory.create(name: "buffer", bytes: 8192)
        try buffer.map(writable: true).copy(from: [1, 2, 3], at: 0)
        try stager.send(.buffer(tier: .local, instance: "i1", bytes: 8192), descriptors: [buffer.descriptor])
        guard case .copiedOut(id: 4) = try copyOut(4, checks: [0, 3, UInt64(Checksum.crc32c([1, 2, 3])), 0], copies: [0, 7, 0, 3],
                                                   source: .buffer(tier: .local, instance: "i1")) else { throw Unexpected() }
        #expect(view.copyBytes(offset: 0, count: 3) == [1, 2, 3])
        guard case .copyFailed(id: 5, offset: nil, _) = try copyOut(5, checks: [], copies: [100, 7, 0, 3], source: .buffer(tier: .local, instance: "i0"))
        else { throw Unexpected() }
        try stager.send(.release(segment: 7))
        guard case .copyFailed(id: 6, offset: nil, _) = try copyOut(6, checks: [], copies: [100, 7, 0, 3]) else { throw Unexpected() }
    }

    @Test func poolIsFilledAndTold() throws {
        let stager = try StagerHarness(slots: 5, lock: true)
        let (locked, notes) = try stager.waitUntilFilled()
        #expect(locked == 5 || notes.contains { $0.contains("LimitMEMLOCK") })
    }
}
