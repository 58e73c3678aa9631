// What is to be copied, in which order, and what became of it. One lock, many copy threads.
// (1) Sessions take turns; within one, the older save goes first.
//     A save that its rank waits for is lazy no more: threads of both phases copy it.
// (2) No lazy byte of a save is copied before its last eager one, nor before all that are verified are summed.
// (3) A chunk's `staged` is posted before the `eagerStaged` that its bytes complete, both under the lock.
// (4) A slot is busy from take to complete. `cancelled` names the busy ones, and each of these gets its `slotFree`.
// (5) A chunk's streamed bytes are copied last, one portion at a time, in the file's order. Each put is answered once.
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
        /// Chunks whose lazy bytes are not summed yet: still to be taken, and all; and the sums of the others, until they are copied.
        var unsummed = Fifo<Int>(), sumsLeft = 0
        var sums: [Int: [UInt32?]] = [:]
        /// Chunks of which only streamed bytes are missing, portions that wait, by chunk, and chunks that have both and are not under a copy.
        var streaming: [Int: (slot: Int, checksums: [UInt32?])] = [:], portions: [Int: [Portion]] = [:], ready: [Int] = []
        /// Portions of each put that are not copied yet.
        var puts: [Int: Int] = [:]
        var isOver = false, isHurried = false
        /// Copied is all that `save()` waits for.
        var isEagerDone: Bool { eagerLeft == 0 && sumsLeft == 0 }

        init(_ plan: StagePlan) {
            self.plan = plan
            eagerLeft = plan.eagerChunks
            guard plan.verifies else { return }
            for chunk in 0..<plan.chunks where plan.hasLazy(chunk) { unsummed.append(chunk); sumsLeft += 1 }
        }

        /// For a thread of that phase.
        func hasWork(_ phase: ChunkWork.Phase) -> Bool {
            guard !isOver else { return false }
            let hasLazy = isEagerDone && (!lazy.isEmpty || !ready.isEmpty)
            return phase == .lazy ? hasLazy : !eager.isEmpty || !unsummed.isEmpty || (isHurried && hasLazy)
        }

        /// All but its streamed bytes are in the slot, and no portion of it is under a copy.
        mutating func streams(_ chunk: Int, slot: Int, _ checksums: [UInt32?]) {
            streaming[chunk] = (slot, checksums)
            if portions[chunk] != nil { ready.append(chunk) }
        }

        mutating func take(_ portion: Portion) {
            let chunk = portion.begin / Sizes.chunkBytes
            puts[portion.put, default: 0] += 1
            if portions[chunk, default: []].isEmpty, streaming[chunk] != nil { ready.append(chunk) }
            portions[chunk, default: []].append(portion)
        }

        /// The next portion whose chunk is there. `streaming` has the chunk again once it is copied.
        mutating func nextPortion() -> (portion: Portion, slot: Int, checksums: [UInt32?])? {
            guard !ready.isEmpty else { return nil }
            let chunk = ready.removeFirst()
            guard let item = streaming.removeValue(forKey: chunk), let portion = portions[chunk]?.removeFirst() else {
                preconditionFailure("chunk \(chunk) is not ready")
            }
            if portions[chunk]?.isEmpty == true { portions[chunk] = nil }
            return (portion, item.slot, item.checksums)
        }
    }
    private struct State: Sendable {
        var saves: [Int: Save] = [:]
        /// Handles of each session, oldest first.
        var sessions: [(token: String, handles: [Int])] = []
        var turn = 0
        var busy: [Int: Int] = [:]          // slot: handle; a sum has -1 - thread for its slot
        var told: Set<Int> = []             // busy slots that a `cancelled` named
        var writtenOff: [Int: UInt32] = [:] // thread: whose memory it is stuck at
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
            let save = Save(plan)
            state.saves[plan.handle] = save
            if let index = state.sessions.firstIndex(where: { $0.token == plan.session.token }) {
                state.sessions[index].handles.append(plan.handle)
            } else {
                state.sessions.append((plan.session.token, [plan.handle]))
            }
            if save.isEagerDone { outbox.post(.eagerStaged(handle: plan.handle)) }
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
                } else if save.plan.hasLazy(assignment.chunk) {
                    state.saves[assignment.handle]?.lazy.append(item)
                } else {
                    let bytes = Sizes.bytes(ofChunk: assignment.chunk, fileBytes: save.plan.fileBytes)
                    state.saves[assignment.handle]?.streams(assignment.chunk, slot: assignment.slot, Array(repeating: nil, count: Sizes.blocks(ofFile: bytes)))
                }
            }
        }
    }

    /// Streamed bytes of a save: each piece goes on where the one before it ended, which main has checked, as that they are streamed ones.
    func put(_ id: Int, _ handle: Int, _ pieces: [(fileOffset: Int, lease: MemoryMap, offset: Int, bytes: Int)]) {
        state.update { state in
            guard let save = state.saves[handle], !save.isOver else { return outbox.post(.putFailed(id: id, text: "the save is not being staged any more")) }
            for piece in pieces {
                var at = piece.fileOffset
                let end = at + piece.bytes
                while at < end {
                    let count = min(end, (at / Sizes.chunkBytes + 1) * Sizes.chunkBytes) - at
                    state.saves[handle]?.take(Portion(put: id, begin: at, bytes: count, lease: piece.lease, offset: piece.offset + at - piece.fileOffset))
                    at += count
                }
            }
        }
    }

    func hurry(_ handle: Int) { state.update { $0.saves[handle]?.isHurried = true } }

    func cancel(_ handle: Int) {
        state.update { state in
            let busy = state.busy.filter { $0.value == handle && $0.key >= 0 }.map(\.key).sorted()
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
        giveUp(save.puts)
        guard let index = state.sessions.firstIndex(where: { $0.token == save.plan.session.token }) else { return }
        state.sessions[index].handles.removeAll { $0 == handle }
        if state.sessions[index].handles.isEmpty { state.sessions.remove(at: index) }
    }

    private func giveUp(_ puts: [Int: Int]) {
        for id in puts.keys.sorted() { outbox.post(.putFailed(id: id, text: "the save is not being staged any more")) }
    }

    /// A save that cannot be staged at all.
    func refuse(_ handle: Int, _ kind: StageFailureKind, _ text: String) {
        outbox.post(.stageFailed(handle: handle, kind: kind, text: text))
    }

    // The copy threads' side.

    /// Waits for work of one phase, sums being part of the eager one; nil when the role ends.
    func take(_ phase: ChunkWork.Phase, thread: Int) -> ChunkWork? {
        state.wait { state -> ChunkWork?? in
            if state.isStopped { return .some(nil) }
            return next(phase, thread, &state).map { .some($0) }
        } ?? nil
    }

    private func next(_ threadPhase: ChunkWork.Phase, _ thread: Int, _ state: inout State) -> ChunkWork? {
        for step in 0..<state.sessions.count {
            let index = (state.turn + step) % state.sessions.count
            guard let handle = state.sessions[index].handles.first(where: { state.saves[$0]?.hasWork(threadPhase) ?? false }),
                  var save = state.saves[handle] else { continue }
            state.turn = index + 1
            let phase: ChunkWork.Phase = threadPhase == .eager && save.eager.isEmpty && save.unsummed.isEmpty ? .lazy : threadPhase
            if phase == .eager, save.eager.isEmpty, let chunk = save.unsummed.popFirst() {
                state.busy[-1 - thread] = handle
                state.saves[handle] = save
                return ChunkWork(plan: save.plan, chunk: chunk, slot: -1 - thread, phase: .sum, checksums: [])
            }
            if phase == .lazy, let (portion, slot, checksums) = save.nextPortion() {
                precondition(state.busy[slot] == nil, "slot \(slot) is under another copy")
                state.busy[slot] = handle
                state.saves[handle] = save
                return ChunkWork(plan: save.plan, chunk: portion.begin / Sizes.chunkBytes, slot: slot, phase: .streamed, checksums: checksums, portion: portion)
            }
            guard let item = phase == .eager ? save.eager.popFirst() : save.lazy.popFirst() else { continue }
            let bytes = Sizes.bytes(ofChunk: item.chunk, fileBytes: save.plan.fileBytes)
            let checksums = save.partial.removeValue(forKey: item.chunk) ?? Array(repeating: nil, count: Sizes.blocks(ofFile: bytes))
            precondition(state.busy[item.slot] == nil, "slot \(item.slot) is under another copy")
            state.busy[item.slot] = handle
            let sums = phase == .lazy ? save.sums.removeValue(forKey: item.chunk) ?? [] : []
            state.saves[handle] = save
            return ChunkWork(plan: save.plan, chunk: item.chunk, slot: item.slot, phase: phase, checksums: checksums, sums: sums)
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
                case .failure(.changed(let fileOffset)): end(&state, handle, .changed(handle: handle, fileOffset: fileOffset))
                case .failure(.failed(let kind, let text)): fail(&state, handle, kind, text)
                }
            }
            return state.writtenOff.removeValue(forKey: thread) == nil
        }
    }

    private func succeed(_ state: inout State, _ work: ChunkWork, _ checksums: [UInt32?]) {
        guard var save = state.saves[work.plan.handle] else { return }
        defer { state.saves[work.plan.handle] = save }
        if work.phase == .sum {
            save.sums[work.chunk] = checksums
            save.sumsLeft -= 1
            if save.isEagerDone { outbox.post(.eagerStaged(handle: work.plan.handle)) }
            return
        }
        if work.isLast {
            let words = checksums.compactMap { $0 }
            precondition(words.count == checksums.count, "\(work.plan.handle): chunk \(work.chunk) ended without all checksums")
            outbox.post(ChunkStaged(handle: work.plan.handle, chunk: work.chunk, slot: work.slot, blocks: words.count), checksums: words)
        } else if work.phase == .streamed || work.phase == .lazy || !work.plan.hasLazy(work.chunk) {
            save.streams(work.chunk, slot: work.slot, checksums)
        } else {
            save.partial[work.chunk] = checksums
            save.lazy.append((work.chunk, work.slot))
        }
        if let put = work.portion?.put, let left = save.puts[put] {
            save.puts[put] = left > 1 ? left - 1 : nil
            if left == 1 { outbox.post(.putDone(id: put)) }
        }
        guard work.phase == .eager else { return }
        save.eagerLeft -= 1
        precondition(save.eagerLeft >= 0, "\(work.plan.handle): more eager chunks than there are")
        if save.isEagerDone { outbox.post(.eagerStaged(handle: work.plan.handle)) }
    }

    private func fail(_ state: inout State, _ handle: Int, _ kind: StageFailureKind, _ text: String) {
        end(&state, handle, .stageFailed(handle: handle, kind: kind, text: text))
    }

    private func end(_ state: inout State, _ handle: Int, _ reply: StagerReply) {
        guard let save = state.saves[handle], !save.isOver else { return }
        state.saves[handle]?.isOver = true
        state.saves[handle]?.puts = [:]
        save.plan.stop()
        giveUp(save.puts)
        outbox.post(reply)
    }

    /// The watchdog's finding. False when the copy has ended meanwhile.
    func writeOff(_ work: ChunkWork, thread: Int, text: String) -> Bool {
        state.update { state in
            guard state.busy[work.slot] == work.plan.handle, !state.isStopped, state.writtenOff[thread] == nil else { return false }
            let uid = work.plan.session.uid
            state.writtenOff[thread] = uid
            fail(&state, work.plan.handle, .stuck, text)
            if isStuck(uid, state) {
                for (handle, save) in state.saves where save.plan.session.uid == uid { fail(&state, handle, .stuck, text) }
            }
            return true
        }
    }

    private func isStuck(_ uid: UInt32, _ state: State) -> Bool {
        state.writtenOff.values.count { $0 == uid } >= StagerLimits.stuckThreadsPerUser
    }

    /// Copies of this user's memory stick in as many threads as one user may hold up.
    func isStuck(_ uid: UInt32) -> Bool { state.read { isStuck(uid, $0) } }

    var stuckThreads: Int { state.read { $0.writtenOff.count } }
}
