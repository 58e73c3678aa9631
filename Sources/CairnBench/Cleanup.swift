// What was made and must be put away again, however the command ends: by itself, by an error, or by a signal on a thread of its own.
// (1) A thing is made and noted in one, so none is made that a signal does not find; after a signal none is made at all.
// (2) Each is put away once, the last made first; who finds one under way waits for it.
// (3) Once a signal has come the thread that got it ends the process; the other one no longer says or does anything.
import CairnIO

public final class Cleanup: Sendable {
    private struct State: Sendable {
        var things: [(id: Int, name: String, remove: @Sendable () throws -> Void)] = []
        var lastID = 0, underWay = 0
        var problems: [String] = []
        var isEnding = false
    }
    private let state = Monitor(State())

    public init() {}

    /// What was made, and the number by which it may be put away before the end.
    func made<Thing: Sendable>(_ name: String, _ make: () throws -> Thing, remove: @escaping @Sendable (Thing) throws -> Void) throws -> (Thing, id: Int) {
        try state.update { state in
            guard !state.isEnding else { throw BenchError.ending }
            let thing = try make()
            state.lastID += 1
            state.things.append((state.lastID, name, { try remove(thing) }))
            return (thing, state.lastID)
        }
    }

    func remove(_ id: Int) {
        if let thing = take(id) { put(away: thing) }
    }

    /// Gives what could not be put away, and why.
    public func removeAll() -> [String] {
        while let thing = take(nil) { put(away: thing) }
        return state.wait { $0.underWay == 0 ? $0.problems : nil } ?? []
    }

    private func take(_ id: Int?) -> (id: Int, name: String, remove: @Sendable () throws -> Void)? {
        state.update { state in
            let at = if let id { state.things.firstIndex { $0.id == id } } else { state.things.indices.last }
            guard let at else { return nil }
            state.underWay += 1
            return state.things.remove(at: at)
        }
    }

    private func put(away thing: (id: Int, name: String, remove: @Sendable () throws -> Void)) {
        var problem: String?
        do { try thing.remove() } catch { problem = "\(thing.name): \(error)" }
        state.update { state in
            state.underWay -= 1
            if let problem { state.problems.append(problem) }
        }
    }

    /// On the thread that got the signal, before it puts away.
    public func end() { state.update { $0.isEnding = true } }

    /// On the other one, before anything that takes long.
    func goOn() throws {
        if state.read({ $0.isEnding }) { throw BenchError.ending }
    }

    /// On the other one, before it says how it ended: does not return once a signal has come.
    public func waitIfEnding() {
        while state.read({ $0.isEnding }) { Clock.sleep(milliseconds: 1000) }
    }
}
