// A few threads that run requests one after the other; `finish` waits for what is running.
import CairnIO

final class TaskThreads: Sendable {
    private let queue = WorkQueue<@Sendable () -> Void>(capacity: TierLimits.queuedTasks)
    private let threads: [Thread]

    init(name: String, count: Int, niceness: Int = 0) throws {
        var threads: [Thread] = []
        for index in 0..<count {
            threads.append(try Threads.spawn(name: "\(name)-\(index)", niceness: niceness) { [queue] in
                while let task = queue.pop() { task() }
            })
        }
        self.threads = threads
    }

    func run(_ task: @escaping @Sendable () -> Void) { queue.push(task) }

    func close() { queue.close() }

    /// False if something still ran when the time was over.
    func finish(deadline: Int) -> Bool {
        threads.allSatisfy { $0.join(timeoutMilliseconds: max(0, (deadline - Clock.monotonicNanoseconds()) / 1_000_000)) }
    }
}
