// The pool and its index in the service manager's descriptor store (FileDescriptorStoreMax= of the unit): a next process, after a restart or a
// SIGKILL of this one, gets them back and goes on. Nothing of this where no manager listens.
//   cairn-pool    the pool's segments, in any order: the index knows them by their identity
//   cairn-index   CairnStore's KeptIndex; this process holds its byte `mainByte`, the stager `lockByte`, until they are gone
// Taken up only where all of it proves itself: the index (version, boot, node, shape, checksum, every segment), and that no process of the
// former daemon is left that could write the pool (I5): a stager that is stuck in the kernel still holds its byte. A tier's worker that is stuck
// does not matter: it only reads, and what it still writes goes to a name of its own that nobody will publish.
import CairnEngine
import CairnIO
import CairnMessages
import CairnModel
import CairnStore

final class KeptMemory {
    static let poolName = "cairn-pool", indexName = "cairn-index"
    let index: KeptIndex
    /// The parts that a former process left whole, and those of which something is gone; until they are taken up.
    var found: [KeptEntry] = [], cut: [KeptPart] = []
    /// What is kept of this life's parts, by handle.
    private var parts: [Int: (number: UInt64, slots: [Int])] = [:]
    /// Numbers of parts of this process: no other's are the same.
    private let prefix: UInt64
    private let log: Log

    private init(_ index: KeptIndex, log: Log) {
        self.index = index
        self.log = log
        // Eight hex digits are a number of 32 bits.
        prefix = UInt64(Entropy.hex(bytes: 4), radix: 16) ?? 0
    }

    /// The pool's memory, taken up or fresh. What is the store's is removed from `passed`.
    static func begin(_ passed: inout [(name: String, descriptor: Descriptor)], shape: PoolShape, node: String, log: Log) throws -> ([SharedMemory], KeptMemory?) {
        let mine = passed.filter { [poolName, indexName].contains($0.name) }
        passed.removeAll { [poolName, indexName].contains($0.name) }
        if !mine.isEmpty {
            do {
                return try takeUp(mine, shape: shape, node: node, log: log)
            } catch {
                log.write(.warning, "the memory of the former process is not taken up: \(error); starting with an empty pool")
                for name in [indexName, poolName] { SystemdNotify.forget(name: name) }
            }
        }
        let segments = try (0..<shape.segments).map { try SharedMemory.create(name: "\(poolName)-\($0)", bytes: shape.bytes(ofSegment: $0)) }
        guard SystemdNotify.isAsked else { return (segments, nil) }
        do {
            let index = try KeptIndex.create(slots: shape.slots, node: node, segments: segments)
            guard try index.memory.lock(byte: StagerStart.mainByte) else { throw KeptProblem("its own index is locked") }
            // The index last: a store that has it has all.
            guard SystemdNotify.store(name: poolName, segments.map(\.descriptor)), SystemdNotify.store(name: indexName, [index.memory.descriptor]) else {
                throw KeptProblem("the service manager does not take it")
            }
            return (segments, KeptMemory(index, log: log))
        } catch {
            log.write(.warning, "the pool will not outlive this process: \(error)")
            return (segments, nil)
        }
    }

    private static func takeUp(_ mine: [(name: String, descriptor: Descriptor)], shape: PoolShape, node: String, log: Log) throws -> ([SharedMemory], KeptMemory?) {
        let indexes = mine.filter { $0.name == indexName }
        guard indexes.count == 1, let memory = SharedMemory.kept(indexes[0].descriptor) else {
            throw KeptProblem("the descriptor store holds \(indexes.count) sound indexes: raise FileDescriptorStoreMax= of the unit to \(shape.segments + 2)")
        }
        let given = mine.filter { $0.name == poolName }.compactMap { SharedMemory.kept($0.descriptor) }
        let (index, segments) = try KeptIndex.open(memory, slots: shape.slots, node: node, segments: given)
        for (number, segment) in segments.enumerated() where segment.bytes != shape.bytes(ofSegment: number) {
            throw KeptProblem("segment \(number) has \(segment.bytes) bytes instead of \(shape.bytes(ofSegment: number))")
        }
        let end = Clock.monotonicNanoseconds() + DaemonLimits.predecessorMilliseconds * 1_000_000
        for (byte, who) in [(StagerStart.mainByte, "main process"), (StagerStart.lockByte, "stager")] {
            while let pid = try memory.owner(ofByte: byte) {
                guard Clock.monotonicNanoseconds() < end else {
                    throw KeptProblem("the former daemon's \(who) (process \(pid)) is still there, stuck in the kernel perhaps, and may write it")
                }
                Clock.sleep(milliseconds: 10)
            }
        }
        guard try memory.lock(byte: StagerStart.mainByte) else { throw KeptProblem("another process has just taken it") }
        let kept = KeptMemory(index, log: log)
        (kept.found, kept.cut) = index.read()
        return (segments, kept)
    }

    // MARK: this life's parts

    func keep(_ part: KeptRankSave, _ what: KeptPart, crcs: [UInt32]) {
        let known = parts[part.handle], number = known?.number ?? prefix << 32 | UInt64(part.handle)
        parts[part.handle] = (number, part.slots)
        guard index.put(number, what, slots: part.slots, crcs: crcs, isKnown: known?.slots == part.slots) else {
            log.write(.warning, "run \(what.run) save \(what.save) rank \(what.rank): its metadata is too long to be kept in memory over a restart")
            return drop(part.handle)
        }
    }

    /// Its entries are as they were.
    func adopt(_ entry: KeptEntry, handle: Int) { parts[handle] = (entry.number, entry.slots) }

    func drop(_ handle: Int) {
        guard let part = parts.removeValue(forKey: handle) else { return }
        index.clear(part.slots, of: part.number)
    }

    /// To be called before anything else is written there.
    func giveOut(_ slots: [Int]) { index.clear(slots) }
}
