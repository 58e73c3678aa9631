/// A bounded queue between threads: what is behind it waits or is refused, never grows.
public final class WorkQueue<Item: Sendable>: Sendable {
    private struct State: Sendable {
        var items: [Item] = []          // the oldest is last in `front`, then first here
        var front: [Item] = []
        var isClosed = false
        var count: Int { items.count + front.count }

        mutating func take() -> Item? {
            if front.isEmpty { front = items.reversed(); items.removeAll(keepingCapacity: true) }
            return front.popLast()
        }
    }
    private let state = Monitor(State())
    public let capacity: Int

    public init(capacity: Int) {
        precondition(capacity > 0, "queue of \(capacity)")
        self.capacity = capacity
    }

    public var count: Int { state.read { $0.count } }

    /// Waits for room; false when the queue was closed.
    @discardableResult
    public func push(_ item: Item) -> Bool {
        let capacity = capacity
        return state.wait { state in
            if state.isClosed { return false }
            guard state.count < capacity else { return nil }
            state.items.append(item)
            return true
        } ?? false
    }

    /// False, at once, when it is full or closed.
    @discardableResult
    public func tryPush(_ item: Item) -> Bool {
        state.update { state in
            guard !state.isClosed, state.count < capacity else { return false }
            state.items.append(item)
            return true
        }
    }

    /// Waits for an item; nil when the queue is closed and empty.
    public func pop() -> Item? { next(nil).item }

    /// Nil on timeout too.
    public func pop(timeoutMilliseconds: Int) -> Item? { next(timeoutMilliseconds).item }

    public func tryPop() -> Item? { state.update { $0.take() } }

    private struct Popped { var item: Item? }
    private func next(_ timeoutMilliseconds: Int?) -> Popped {
        state.wait(timeoutMilliseconds: timeoutMilliseconds) { state in
            if let item = state.take() { return Popped(item: item) }
            return state.isClosed ? Popped(item: nil) : nil
        } ?? Popped(item: nil)
    }

    /// What is queued is still handed out; nothing new is taken.
    public func close() { state.update { $0.isClosed = true } }
    public var isClosed: Bool { state.read { $0.isClosed } }
}
