// Slots of a read buffer: taken for a read, given back when what was read has been copied on.
import CairnIO

final class BufferSlots: Sendable {
    private struct State { var free: [Int]; var isClosed = false }
    private let state: Monitor<State>
    let count: Int

    init(count: Int) {
        self.count = count
        state = Monitor(State(free: Array((0..<count).reversed())))
    }

    func tryTake() -> Int? { state.update { $0.isClosed ? nil : $0.free.popLast() } }

    /// Nil when none came free in time, or at the worker's end.
    func take(timeoutMilliseconds: Int?) -> Int? {
        let result: Int?? = state.wait(timeoutMilliseconds: timeoutMilliseconds) { state -> Int?? in
            if state.isClosed { return .some(nil) }
            return state.free.popLast().map { .some($0) }
        }
        return result ?? nil
    }

    func give(_ slots: [Int]) {
        state.update { state in
            for slot in slots where (0..<count).contains(slot) && !state.free.contains(slot) { state.free.append(slot) }
        }
    }

    func close() { state.update { $0.isClosed = true } }
}
