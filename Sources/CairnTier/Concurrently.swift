// The same small piece of file work many times over, on a few threads: each mostly waits for a filesystem.
import CairnIO

/// `niceness`: of the threads that are started for it. Results in order; of several failures the one of the lowest index is thrown, so that equal folders give equal answers.
func concurrently<Result: Sendable>(_ count: Int, threads: Int, niceness: Int = 0, _ body: @escaping @Sendable (Int) throws -> Result) throws -> [Result] {
    guard threads > 1, count > threads else { return try (0..<count).map(body) }
    let shared = SharedWork<Result>(count: count)
    var running: [Thread] = []
    for number in 0..<threads - 1 {
        // A thread less is only slower.
        guard let thread = try? Threads.spawn(name: "tier-many-\(number)", niceness: niceness, { shared.work(body) }) else { break }
        running.append(thread)
    }
    shared.work(body)
    for thread in running { thread.join() }
    return try shared.results()
}

private final class SharedWork<Result: Sendable>: Sendable {
    private struct State: Sendable {
        var next = 0
        var results: [Result?]
        var failure: (index: Int, error: any Error)?
    }
    private let count: Int
    private let state: Monitor<State>
    /// Taken at once, so that the lock is not what is measured.
    private static var batch: Int { 16 }

    init(count: Int) {
        self.count = count
        state = Monitor(State(results: Array(repeating: nil, count: count)))
    }

    func work(_ body: (Int) throws -> Result) {
        while true {
            let indices = state.update { state in
                // What comes after a failure is not needed; what came before it was handed out already.
                guard state.failure == nil else { return 0..<0 }
                let begin = state.next
                state.next = min(count, begin + Self.batch)
                return begin..<state.next
            }
            guard !indices.isEmpty else { return }
            var done: [(Int, Result)] = [], failure: (index: Int, error: any Error)?
            for index in indices {
                do { done.append((index, try body(index))) } catch {
                    failure = (index, error)
                    break
                }
            }
            let results = done, failed = failure
            state.update { state in
                for (index, result) in results { state.results[index] = result }
                if let failed, failed.index < state.failure?.index ?? .max { state.failure = failed }
            }
        }
    }

    func results() throws -> [Result] {
        let (results, failure) = state.read { ($0.results, $0.failure) }
        if let failure { throw failure.error }
        return results.map { result in
            guard let result else { preconditionFailure("without a failure every piece has its result") }
            return result
        }
    }
}
