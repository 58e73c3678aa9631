// The chunks' way to and from the filesystem: many positioned reads and writes in flight, by io_uring on a thread of its own,
// or by a pool of threads with pread and pwrite where io_uring is refused (default containers, RHEL).
import CairnIO
import CairnMessages
import Synchronization

/// One positioned read or write. `bytes` is what is asked of the kernel (aligned for O_DIRECT), `needed` what must be done at least:
/// a read at the end of a file is shorter than its aligned length.
struct Transfer: Sendable {
    enum Kind: Sendable { case read, write }
    var kind: Kind
    var file: Descriptor
    var path: String
    var map: MemoryMap
    var mapOffset: Int, bytes: Int, needed: Int, fileOffset: Int
    /// Called once, on a thread of the engine.
    var completion: @Sendable (TierFailure?) -> Void
}

final class DataEngine: Sendable {
    let usesRing: Bool
    private let queue: WorkQueue<Transfer>
    private let arrivals: EventCounter

    /// `note`: why io_uring is not used, and the remedy.
    static func make(ring: Preference, depth: Int) throws -> (engine: DataEngine, note: String?) {
        if ring == .off { return (try DataEngine(threads: min(depth, 8)), "io_uring is switched off by the configuration: \(min(depth, 8)) threads are used") }
        guard let refusal = Ring.probe() else { return (try DataEngine(ringDepth: depth), nil) }
        if ring == .on { throw TierFailure(kind: .other, text: "io: io_uring is asked for, but \(refusal); say io: auto, or allow it (sysctl kernel.io_uring_disabled=0, seccomp)") }
        return (try DataEngine(threads: min(depth, 8)), "\(refusal): \(min(depth, 8)) threads with pread and pwrite are used; "
            + "to allow io_uring set sysctl kernel.io_uring_disabled=0 or the container's seccomp profile")
    }

    private init(ringDepth depth: Int) throws {
        usesRing = true
        queue = WorkQueue(capacity: 4096)
        arrivals = try EventCounter()
        let queue = queue, arrivals = arrivals
        // A ring of SINGLE_ISSUER kind is made on the thread that submits.
        _ = try Threads.spawn(name: "ring") { RingLoop.run(queue: queue, arrivals: arrivals, depth: depth) }
    }

    private init(threads: Int) throws {
        usesRing = false
        queue = WorkQueue(capacity: 4096)
        arrivals = try EventCounter()
        let queue = queue
        for number in 0..<threads {
            _ = try Threads.spawn(name: "data-\(number)") {
                while let transfer = queue.pop() { Self.perform(transfer) }
            }
        }
    }

    func submit(_ transfer: Transfer) {
        guard queue.push(transfer) else { return transfer.completion(TierFailure(kind: .other, text: "the worker is ending")) }
        if usesRing { arrivals.signal() }
    }

    func read(file: Descriptor, path: String, into map: MemoryMap, at offset: Int, bytes: Int, needed: Int, fileOffset: Int,
              completion: @escaping @Sendable (TierFailure?) -> Void) {
        submit(Transfer(kind: .read, file: file, path: path, map: map, mapOffset: offset, bytes: bytes, needed: needed, fileOffset: fileOffset,
                        completion: completion))
    }

    private static func perform(_ transfer: Transfer) {
        do {
            switch transfer.kind {
            case .write:
                try PositionedIO.writeAll(transfer.file, transfer.map, mapOffset: transfer.mapOffset, bytes: transfer.bytes,
                                          fileOffset: transfer.fileOffset, path: transfer.path)
            case .read:
                let got = try PositionedIO.readUpTo(transfer.file, transfer.map, mapOffset: transfer.mapOffset, bytes: transfer.bytes,
                                                    fileOffset: transfer.fileOffset, path: transfer.path)
                guard got >= transfer.needed else { return transfer.completion(truncated(transfer, got)) }
            }
            transfer.completion(nil)
        } catch {
            transfer.completion(TierContext.failure(error))
        }
    }

    static func truncated(_ transfer: Transfer, _ got: Int) -> TierFailure {
        TierFailure(kind: .corrupt, text: "'\(transfer.path)' ends at byte \(transfer.fileOffset + got), \(transfer.needed - got) bytes too early",
                    path: transfer.path)
    }
}

/// The ring's thread: takes transfers, keeps up to `depth` in flight, goes on with short ones.
private enum RingLoop {
    static func run(queue: WorkQueue<Transfer>, arrivals: EventCounter, depth: Int) {
        let ring: Ring
        do { ring = try Ring(depth: depth + 1) } catch {
            // It was probed before; refused now (memlock) it still must not hang who waits.
            while let transfer = queue.pop() { transfer.completion(TierContext.failure(error)) }
            return
        }
        let wakeTag: UInt64 = 0
        var flying: [UInt64: (transfer: Transfer, done: Int)] = [:]
        var nextTag: UInt64 = 1
        var armed = false
        while true {
            while flying.count < depth, let transfer = queue.tryPop() {
                flying[nextTag] = (transfer, 0)
                start(ring, transfer, done: 0, tag: nextTag)
                nextTag += 1
            }
            if queue.isClosed, flying.isEmpty { return }
            if !armed, flying.count < depth {
                ring.pollReadable(arrivals.descriptor, tag: wakeTag)
                armed = true
            }
            do { try ring.submitAndWait(minimum: 1) } catch {
                for (transfer, _) in flying.values { transfer.completion(TierContext.failure(error)) }
                flying.removeAll()
                continue
            }
            for completion in ring.completions() {
                if completion.tag == wakeTag { armed = false; _ = arrivals.drain(); continue }
                guard var (transfer, done) = flying.removeValue(forKey: completion.tag) else { continue }
                if let failure = completion.failure(transfer.kind == .read ? "read" : "write", transfer.path) {
                    transfer.completion(TierContext.failure(failure))
                    continue
                }
                done += Int(completion.result)
                if done >= transfer.needed, transfer.kind == .read || done >= transfer.bytes {
                    transfer.completion(nil)
                } else if completion.result == 0 {
                    transfer.completion(transfer.kind == .read ? DataEngine.truncated(transfer, done)
                        : TierFailure(kind: .io, text: "write '\(transfer.path)': nothing was written", path: transfer.path))
                } else {
                    flying[completion.tag] = (transfer, done)
                    start(ring, transfer, done: done, tag: completion.tag)
                }
            }
        }
    }

    private static func start(_ ring: Ring, _ transfer: Transfer, done: Int, tag: UInt64) {
        switch transfer.kind {
        case .write:
            ring.write(transfer.file, transfer.map, mapOffset: transfer.mapOffset + done, bytes: transfer.bytes - done,
                       fileOffset: transfer.fileOffset + done, tag: tag)
        case .read:
            ring.read(transfer.file, transfer.map, mapOffset: transfer.mapOffset + done, bytes: transfer.bytes - done,
                      fileOffset: transfer.fileOffset + done, tag: tag)
        }
    }
}
