// The index of what outlives the daemon in the pool: what is whole is read back as it was put, what is cut anywhere is not there.
import CairnIO
import CairnModel
import Testing
@testable import CairnStore

struct KeptIndexTests {
    private static let slots = 32
    private static let blocksPerChunk = Sizes.blocksPerChunk

    private static func pool() throws -> [SharedMemory] { try (0..<2).map { try SharedMemory.create(name: "kept-test-\($0)", bytes: 4096) } }

    private static func part(_ step: Int, rank: Int = 0, fileBytes: Int = 3 * Sizes.chunkBytes - 5000, metadata: [String: String]? = nil) -> KeptPart {
        KeptPart(run: RunKey(uid: 7, name: "model"), save: SaveID(attempt: 2, step: step, attemptTry: 1), rank: rank, worldSize: 4, fileBytes: fileBytes,
                 upto: .committed, saveUpto: .committed, manifestUpto: nil, count: 3, parent: nil, previous: nil, participants: [0, 2], metadata: metadata, files: nil,
                 savedAt: "2026-01-01T00:00:00Z", committed: nil)
    }
    private static func crcs(_ part: KeptPart, seed: UInt32) -> [UInt32] { (0..<UInt32(Sizes.blocks(ofFile: part.fileBytes))).map { $0 &* 2_654_435_761 &+ seed } }

    @Test func whatIsPutIsReadBackByTheNextProcess() throws {
        let segments = try Self.pool()
        let index = try KeptIndex.create(slots: Self.slots, node: "n1", segments: segments)
        let first = Self.part(1), second = Self.part(2, metadata: ["loss": "0.5"])
        #expect(index.put(10, first, slots: [4, 31, 0], crcs: Self.crcs(first, seed: 1)))
        #expect(index.put(11, second, slots: [5, 6, 7], crcs: Self.crcs(second, seed: 2)))
        // In any order, and once more through a descriptor of its own.
        let (next, ordered) = try KeptIndex.open(index.memory, slots: Self.slots, node: "n1", segments: segments.reversed())
        #expect(try ordered.map { try $0.identity() } == segments.map { try $0.identity() })
        let (parts, cut) = next.read()
        #expect(cut.isEmpty)
        #expect(parts.map(\.number) == [10, 11])
        #expect(parts.map(\.part) == [first, second])
        #expect(parts.map(\.slots) == [[4, 31, 0], [5, 6, 7]])
        #expect(parts[1].crcs == Self.crcs(second, seed: 2))
    }

    @Test func aSlotThatIsGivenOutTakesItsPartAway() throws {
        let index = try KeptIndex.create(slots: Self.slots, node: "n1", segments: Self.pool())
        let one = Self.part(1), two = Self.part(2)
        #expect(index.put(10, one, slots: [1, 2, 3], crcs: Self.crcs(one, seed: 1)))
        index.clear([2])
        #expect(index.read().parts.isEmpty)
        #expect(index.read().cut == [one])
        // A slot of the former belongs to another part by now: dropping the former leaves that alone.
        #expect(index.put(11, two, slots: [2, 8, 9], crcs: Self.crcs(two, seed: 2)))
        index.clear([1, 2, 3], of: 10)
        #expect(index.read().parts.map(\.number) == [11])
        #expect(index.read().cut.isEmpty)
    }

    /// A SIGKILL may end a write at any byte.
    @Test func aPartOfWhichAnyByteIsOldIsNotThere() throws {
        let segments = try Self.pool()
        let part = Self.part(1)
        let whole = try KeptIndex.create(slots: Self.slots, node: "n1", segments: segments)
        let empty = try whole.memory.read(offset: 0, count: whole.memory.bytes)
        #expect(whole.put(10, part, slots: [4, 30, 0], crcs: Self.crcs(part, seed: 1)))
        let full = try whole.memory.read(offset: 0, count: whole.memory.bytes)
        let written = full.indices.filter { full[$0] != empty[$0] }
        #expect(written.count > 300)
        let map = try whole.memory.map(writable: true)
        for at in written {
            map.copy(from: [empty[at]], at: at)
            #expect(whole.read().parts.isEmpty, "byte \(at) is old")
            map.copy(from: [full[at]], at: at)
        }
        #expect(whole.read().parts.count == 1)
    }

    @Test func anIndexThatDoesNotProveItselfIsRefusedWithItsReason() throws {
        let segments = try Self.pool()
        func refusal(_ harm: (KeptIndex) throws -> Void = { _ in }, slots: Int = Self.slots, node: String = "n1", segments given: [SharedMemory]? = nil) throws -> String {
            let index = try KeptIndex.create(slots: Self.slots, node: "n1", segments: segments)
            try harm(index)
            do { _ = try KeptIndex.open(index.memory, slots: slots, node: node, segments: given ?? segments) } catch { return "\(error)" }
            return "taken"
        }
        #expect(try refusal() == "taken")
        #expect(try refusal({ try $0.memory.map(writable: true).copy(from: [0], at: 0) }).contains("is none"))
        #expect(try refusal({ try $0.memory.map(writable: true).copy(from: [9], at: 8) }).contains("version 9"))
        #expect(try refusal({ try $0.memory.map(writable: true).copy(from: [1], at: 30) }).contains("checksum"))
        #expect(try refusal(slots: 64).contains("the configuration now says 64"))
        #expect(try refusal(node: "n2").contains("daemon 'n1'"))
        #expect(try refusal(segments: [segments[0]]).contains("1 of the pool's 2 segments are missing"))
    }

    @Test func whatIsTooLongForACellIsNotKept() throws {
        let index = try KeptIndex.create(slots: Self.slots, node: "n1", segments: Self.pool())
        let part = Self.part(1, metadata: ["note": String(repeating: "x", count: 70_000)])
        #expect(!index.put(10, part, slots: [1, 2, 3], crcs: Self.crcs(part, seed: 1)))
        #expect(index.read().parts.isEmpty)
    }
}
