// Reads and writes of chunks between maps and files, many in flight: one io_uring, or threads where it is refused.
// (1) A write's chunk is read by the kernel until its completion, so `done` is called only then, on success or failure.
// (2) A short transfer goes on where it stopped; with O_DIRECT only at a multiple of the alignment, else it has failed.
import CairnIO
import CairnModel

package struct DataOperation: Sendable {
    package enum Kind: Sendable { case read, write }
    package var kind: Kind
    package var file: Descriptor
    package var path: String
    package var map: MemoryMap
    package var mapOffset: Int
    package var fileOffset: Int
    /// To transfer: with O_DIRECT a multiple of the alignment.
    package var bytes: Int
    /// What must arrive: a read's range may reach beyond the file's end.
    package var least: Int
    package var direct: Bool
    /// On the engine's own thread: it must be quick.
    package var done: @Sendable (PositionedFailure?) -> Void

    package init(kind: Kind, file: Descriptor, path: String, map: MemoryMap, mapOffset: Int, fileOffset: Int, bytes: Int, least: Int,
                 direct: Bool, done: @escaping @Sendable (PositionedFailure?) -> Void) {
        self.kind = kind; self.file = file; self.path = path; self.map = map; self.mapOffset = mapOffset; self.fileOffset = fileOffset
        self.bytes = bytes; self.least = least; self.direct = direct; self.done = done
    }
}

extension DataOperation {
    static func padded(_ bytes: Int, direct: Bool) -> Int {
        direct ? (bytes + Sizes.alignment - 1) / Sizes.alignment * Sizes.alignment : bytes
    }
}

package protocol DataEngine: Sendable {
    func submit(_ operation: DataOperation)
    /// Ends its threads once what was submitted is done.
    func close()
}

/// A pool of threads with pread and pwrite.
package final class ThreadEngine: DataEngine {
    private let queue = WorkQueue<DataOperation>(capacity: TierLimits.queuedOperations)

    package init(threads: Int) throws {
        for index in 0..<max(1, threads) {
            try Threads.spawn(name: "tier-io-\(index)") { [queue] in
                while let operation = queue.pop() { Self.perform(operation) }
            }
        }
    }

    package func submit(_ operation: DataOperation) {
        if !queue.push(operation) { operation.done(.failed(IOFailure(operation: "queue", errno: IOFailure.cancelled, path: operation.path))) }
    }

    package func close() { queue.close() }

    private static func perform(_ operation: DataOperation) {
        switch operation.kind {
        case .write:
            do {
                try PositionedIO.writeAll(operation.file, operation.map, mapOffset: operation.mapOffset, bytes: operation.bytes,
                                          fileOffset: operation.fileOffset, path: operation.path)
                operation.done(nil)
            } catch { operation.done(.failed(error)) }
        case .read:
            do {
                let got = try PositionedIO.readUpTo(operation.file, operation.map, mapOffset: operation.mapOffset, bytes: operation.bytes,
                                                    fileOffset: operation.fileOffset, path: operation.path)
                operation.done(got >= operation.least ? nil : .truncated(path: operation.path, at: operation.fileOffset + got))
            } catch { operation.done(error) }
        }
    }
}
