// The data engine over one io_uring, on a thread of its own that alone touches the ring.
// New operations come through a queue; an eventfd polled in the ring wakes the thread for them.
import CairnIO
import CairnModel

package final class RingEngine: DataEngine {
    private let queue = WorkQueue<DataOperation>(capacity: TierLimits.queuedOperations)
    private let wake: EventCounter

    /// `broken`: the ring itself failed; the worker cannot go on.
    package init(depth: Int, broken: @escaping @Sendable (String) -> Void) throws {
        wake = try EventCounter()
        let depth = max(1, min(depth, 1024))
        try Threads.spawn(name: "tier-ring") { [queue, wake] in
            do {
                var loop = RingLoop(ring: try Ring(depth: depth + 1), queue: queue, wake: wake)
                try loop.run()
            } catch { broken("io_uring: \(error)") }
        }
    }

    package func submit(_ operation: DataOperation) {
        guard queue.push(operation) else {
            return operation.done(.failed(IOFailure(operation: "queue", errno: IOFailure.cancelled, path: operation.path)))
        }
        wake.signal()
    }

    package func close() {
        queue.close()
        wake.signal()
    }
}

/// Belongs to the ring's thread.
private struct RingLoop {
    private static let pollTag: UInt64 = 0
    let ring: Ring
    let queue: WorkQueue<DataOperation>
    let wake: EventCounter
    private var operations: [UInt64: (operation: DataOperation, moved: Int)] = [:]
    private var nextTag: UInt64 = 1
    private var polling = false

    init(ring: Ring, queue: WorkQueue<DataOperation>, wake: EventCounter) {
        self.ring = ring
        self.queue = queue
        self.wake = wake
    }

    mutating func run() throws(IOFailure) {
        while true {
            if !polling {
                ring.pollReadable(wake.descriptor, tag: Self.pollTag)
                polling = true
            }
            while ring.hasRoom, let operation = queue.tryPop() { issue(operation, moved: 0) }
            if queue.isClosed && operations.isEmpty && queue.count == 0 { return }
            try ring.submitAndWait(minimum: 1)
            for completion in ring.completions() {
                if completion.tag == Self.pollTag {
                    polling = false
                    wake.drain()
                } else {
                    complete(completion)
                }
            }
        }
    }

    private mutating func issue(_ operation: DataOperation, moved: Int) {
        let tag = nextTag
        nextTag += 1
        operations[tag] = (operation, moved)
        let bytes = operation.bytes - moved
        switch operation.kind {
        case .read: ring.read(operation.file, operation.map, mapOffset: operation.mapOffset + moved, bytes: bytes, fileOffset: operation.fileOffset + moved, tag: tag)
        case .write: ring.write(operation.file, operation.map, mapOffset: operation.mapOffset + moved, bytes: bytes, fileOffset: operation.fileOffset + moved, tag: tag)
        }
    }

    private mutating func complete(_ completion: Ring.Completion) {
        guard let (operation, before) = operations.removeValue(forKey: completion.tag) else { return }
        let name = operation.kind == .read ? "read" : "write"
        if let failure = completion.failure(name, operation.path) { return operation.done(.failed(failure)) }
        let moved = before + Int(completion.result)
        if moved >= operation.bytes || (operation.kind == .read && moved >= operation.least) { return operation.done(nil) }
        guard completion.result > 0 else {
            return operation.done(operation.kind == .read ? .truncated(path: operation.path, at: operation.fileOffset + moved)
                : .failed(IOFailure(operation: "write", errno: IOFailure.inputOutput, path: operation.path)))
        }
        guard !operation.direct || moved.isMultiple(of: Sizes.alignment) else {
            return operation.done(operation.kind == .read ? .truncated(path: operation.path, at: operation.fileOffset + moved)
                : .failed(IOFailure(operation: "short write", errno: IOFailure.inputOutput, path: operation.path)))
        }
        issue(operation, moved: moved)          // the slot of the completed one is free, so there is room
    }
}
