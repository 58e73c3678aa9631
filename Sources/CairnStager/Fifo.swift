/// First in, first out, without moving what waits.
struct Fifo<Item> {
    private var items: [Item] = []
    private var head = 0
    var isEmpty: Bool { head == items.count }

    mutating func append(_ item: Item) { items.append(item) }

    mutating func popFirst() -> Item? {
        guard !isEmpty else { return nil }
        let item = items[head]
        head += 1
        if isEmpty { items.removeAll(keepingCapacity: true); head = 0 }
        return item
    }
}

extension Fifo: Sendable where Item: Sendable {}
