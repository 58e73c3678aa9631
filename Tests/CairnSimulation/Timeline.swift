// Simulated time: what is to happen, in order of time and then of being planned.

struct Timeline {
    private struct Entry { var at: Int, order: Int, body: () -> Void }
    private var heap: [Entry] = []
    private var planned = 0

    var isEmpty: Bool { heap.isEmpty }
    var nextTime: Int? { heap.first?.at }

    private static func before(_ left: Entry, _ right: Entry) -> Bool { (left.at, left.order) < (right.at, right.order) }

    mutating func add(at: Int, _ body: @escaping () -> Void) {
        planned += 1
        heap.append(Entry(at: at, order: planned, body: body))
        var child = heap.count - 1
        while child > 0, Self.before(heap[child], heap[(child - 1) / 2]) {
            heap.swapAt(child, (child - 1) / 2)
            child = (child - 1) / 2
        }
    }

    mutating func removeFirst() -> () -> Void {
        let first = heap[0]
        let last = heap.removeLast()
        if !heap.isEmpty {
            heap[0] = last
            var parent = 0
            while true {
                var least = parent
                for child in [2 * parent + 1, 2 * parent + 2] where child < heap.count && Self.before(heap[child], heap[least]) { least = child }
                if least == parent { break }
                heap.swapAt(parent, least)
                parent = least
            }
        }
        return first.body
    }
}

/// Messages of one pipe arrive in the order in which they were sent.
final class Pipe {
    private var lastArrival = 0
    func arrival(_ wanted: Int) -> Int {
        lastArrival = max(lastArrival, wanted)
        return lastArrival
    }
}
