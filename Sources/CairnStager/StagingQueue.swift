// What is to be copied, in which order, and what became of it. One lock, many copy threads.
// (1) Sessions take turns; within one, the older save goes first.
// (2) No lazy byte of a save is copied before its last eager one.
// (3) A chunk's `staged` is posted before the `eagerStaged` that its bytes complete, both under the lock.
// (4) A slot is busy from take to complete. `cancelled` names the busy ones, and each of these gets its `slotFree`.
import CairnIO
import CairnMessages
import CairnModel

final class StagingQueue: Sendable {
    private struct Save: Sendable {
        let plan: StagePlan
        /// Chunks with eager bytes that are not copied yet, assigned or not.
        var eagerLeft: Int
        var eager = Fifo<(chunk: Int, slot: Int)>(), lazy = Fifo<(chunk: Int, slot: Int)>()
        /// Checksums of chunks between their two phases.
        var partial: [Int: [UInt32?]] = [:]
        var isOver = false
        func hasWork(_ phase: ChunkWork.Phase) -> Bool { !isOver && (phase == .eager ? !eager.isEmpty : eagerLeft == 0 && !lazy.isEmpty) }
    }
    private struct State: Sendable {
        var saves: [Int: Save] = [:]
        /// Handles of each session, oldest first.
        var sessions: [(token: String, handles: [Int])] = []
        var turn = 0
        var busy: [Int: Int] = [:]          // slot: handle
        var told: Set<Int> = []             // busy slots that a `cancelled` named
        var writtenOff: Set<Int> = []       // threads
        var isStopped = false
    }
    private let state = Monitor(State())
    private let outbox: Outbox
    private let shape: PoolShape

    init(_ shape: PoolShape, outbox: Outbox) { self.shape = shape; self.outbox = outbox }

    // The main thread's side.

    func begin(_ plan: StagePlan) {
        state.update { state in
            precondition(state.saves[plan.handle] == nil, "handle \(plan.handle) begun twice")
            state.saves[plan.handle] = Save(plan: plan, eagerLeft: plan.eagerChunks)
            if let index = state.sessions.firstIndex(where: { $0.token == plan.session.token }) {
                state.sessions[index].handles.append(plan.handle)
            } else {
                state.sessions.append((plan.session.token, [plan.handle]))
            }
            if plan.eagerChunks == 0 { outbox.post(.eagerStaged(handle: plan.handle)) }
        }
    }

    func stage(_ assignments: [ChunkAssignment]) {
        state.update { state in
            for assignment in assignments {
                // Unknown or over: main learns of it, or has asked for it, and takes the slot back by `cancel`.
                guard let save = state.saves[assignment.handle], !save.isOver else { continue }
                guard (0..<save.plan.chunks).contains(assignment.chunk), (0..<shape.slots).contains(assignment.slot) else {
                    fail(&state, assignment.handle, .other, "chunk \(assignment.chunk) in slot \(assignment.slot) is out of range")
                    continue
                }
                let item = (assignment.chunk, assignment.slot)
                if save.plan.hasEager(assignment.chunk) {
                    state.saves[assignment.handle]?.eager.append(item)
                } else {
                    state.saves[assignment.handle]?.lazy.append(item)
                }
            }
        }
    }

    func cancel(_ handle: Int) {
        state.update { state in
            let busy = state.busy.filter { $0.value == handle }.map(\.key).sorted()
            state.told.formUnion(busy)
            forget(&state, handle)
            outbox.post(.cancelled(handle: handle, busySlots: busy))
        }
    }

    func finish(_ handle: Int) { state.update { forget(&$0, handle) } }
    func stop() {
        state.update { state in
            state.isStopped = true
            for save in state.saves.values { save.plan.stop() }
        }
    }

    private func forget(_ state: inout State, _ handle: Int) {
        guard let save = state.saves.removeValue(forKey: handle) else { return }
        save.plan.stop()
        guard let index = state.sessions.firstIndex(where: { $0.token == save.plan.session.token }) else { return }
        state.sessions[index].handles.removeAll { $0 == handle }
        if state.sessions[index].handles.isEmpty { state.sessions.remove(at: index) }
    }

    /// A save that cannot be staged at all.
    func refuse(_ handle: Int, _ kind: StageFailureKind, _ text: String) {
        outbox.post(.stageFailed(handle: handle, kind: kind, text: text))
    }

    // The copy threads' side.

    /// Waits for work of one phase; nil when the role ends.
    func take(_ phase: ChunkWork.Phase) -> ChunkWork? {
        state.wait { state -> ChunkWork?? in
            if state.isStopped { return .some(nil) }
            return next(phase, &state).map { .some($0) }
        } ?? nil
    }

    private func next(_ phase: ChunkWork.Phase, _ state: inout State) -> ChunkWork? {
        for step in 0..<state.sessions.count {
            let index = (state.turn + step) % state.sessions.count
            guard let handle = state.sessions[index].handles.first(where: { state.saves[$0]?.hasWork(phase) ?? false }),
                  var save = state.saves[handle] else { continue }
            state.turn = index + 1
            guard let item = phase == .eager ? save.eager.popFirst() : save.lazy.popFirst() else { continue }
            let bytes = Sizes.bytes(ofChunk: item.chunk, fileBytes: save.plan.fileBytes)
            let checksums = save.partial.removeValue(forKey: item.chunk) ?? Array(repeating: nil, count: Sizes.blocks(ofFile: bytes))
            precondition(state.busy[item.slot] == nil, "slot \(item.slot) is under another copy")
            state.busy[item.slot] = handle
            state.saves[handle] = save
            return ChunkWork(plan: save.plan, chunk: item.chunk, slot: item.slot, phase: phase, checksums: checksums)
        }
        return nil
    }

    /// False: the thread was written off and ends.
    func complete(_ work: ChunkWork, thread: Int, _ outcome: Result<[UInt32?], StageFailure>) -> Bool {
        state.update { state in
            let handle = work.plan.handle
            state.busy[work.slot] = nil
            if state.told.remove(work.slot) != nil { outbox.post(.slotFree(slot: work.slot)) }
            // The handle could be forgotten by now; it is never used twice.
            if let save = state.saves[handle], !save.isOver {
                switch outcome {
                case .success(let checksums): succeed(&state, work, checksums)
                case .failure(.cancelled): break
                case .failure(.failed(let kind, let text)): fail(&state, handle, kind, text)
                }
            }
            return state.writtenOff.remove(thread) == nil
        }
    }

    private func succeed(_ state: inout State, _ work: ChunkWork, _ checksums: [UInt32?]) {
        guard var save = state.saves[work.plan.handle] else { return }
        defer { state.saves[work.plan.handle] = save }
        if work.isLast {
            let words = checksums.compactMap { $0 }
            precondition(words.count == checksums.count, "\(work.plan.handle): chunk \(work.chunk) ended without all checksums")
            outbox.post(ChunkStaged(handle: work.plan.handle, chunk: work.chunk, slot: work.slot, blocks: words.count), checksums: words)
        } else {
            save.partial[work.chunk] = checksums
            save.lazy.append((work.chunk, work.slot))
        }
        guard work.phase == .eager else { return }
        save.eagerLeft -= 1
        precondition(save.eagerLeft >= 0, "\(work.plan.handle): more eager chunks than there are")
        if save.eagerLeft == 0 { outbox.post(.eagerStaged(handle: work.plan.handle)) }
    }

    private func fail(_ state: inout State, _ handle: Int, _ kind: StageFailureKind, _ text: String) {
        guard let save = state.saves[handle], !save.isOver else { return }
        state.saves[handle]?.isOver = true
        save.plan.stop()
        outbox.post(.stageFailed(handle: handle, kind: kind, text: text))
    }

    /// The watchdog's finding. False when the copy has ended meanwhile.
    func writeOff(_ work: ChunkWork, thread: Int, text: String) -> Bool {
        state.update { state in
            guard state.busy[work.slot] == work.plan.handle, !state.isStopped, !state.writtenOff.contains(thread) else { return false }
            state.writtenOff.insert(thread)
            fail(&state, work.plan.handle, .stuck, text)
            return true
        }
    }

    var stuckThreads: Int { state.read { $0.writtenOff.count } }
}
