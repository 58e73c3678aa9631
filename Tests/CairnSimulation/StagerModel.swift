// The stager as the engine sees it: copies take time, replies keep their order, a cancelled copy may still write.
import CairnEngine
import CairnMessages
import CairnModel

final class StagerModel {
    unowned let daemon: Daemon
    let generation: Int
    private let pipe = Pipe()
    private let pool: PoolModel
    private struct Copy { var handle: Int, chunk: Int, slot: Int, sources: [Int] }
    private var copies: [Int: Copy] = [:]
    /// Cancelled, but still writing.
    private var busyCopies: [Int: Copy] = [:]
    private var nextCopy = 1
    private var known: Set<Int> = [], cancelled: Set<Int> = []

    init(daemon: Daemon, generation: Int, pool: PoolModel) { self.daemon = daemon; self.generation = generation; self.pool = pool }
    var world: World { daemon.world }

    func send(_ reply: StagerReply, delay: Int) {
        let at = pipe.arrival(world.now + delay)
        let life = daemon.life
        world.at(at) { [self] in
            guard daemon.life == life, daemon.stager === self else { return }
            if case .staged(let chunks) = reply { for chunk in chunks { daemon.deliverHangUps(before: chunk.handle) } }
            daemon.deliver(.stager(reply))
        }
    }

    func handle(_ request: StagerRequest) {
        switch request {
        case .openSession(let token, _, _): send(.sessionOpened(token: token, direct: world.random.once(in: 2)), delay: world.delay())
        case .begin(let begin): known.insert(begin.handle)
        case .stage(let assignments): for assignment in assignments { copy(assignment) }
        case .cancel(let handle): cancel(handle)
        case .finish(let handle):
            if copies.values.contains(where: { $0.handle == handle }) { world.fail("I5: the stager was told to forget save \(handle) while it copies") }
            known.remove(handle)
        default: break
        }
    }

    private func copy(_ assignment: ChunkAssignment) {
        let (handle, slot) = (assignment.handle, assignment.slot)
        guard let record = daemon.records[handle], known.contains(handle) else {
            return world.fail("I5: chunk \(assignment.chunk) of unknown save \(handle) was handed to the stager")
        }
        if let from = record.streamedFrom, assignment.chunk * Sizes.chunkBytes >= from, !record.eager.contains(assignment.chunk) {
            world.fail("I6: chunk \(assignment.chunk) of \(record.key) was given a slot before anything of it was put")
        }
        if pool.writers[slot] > 0 { world.fail("I5: slot \(slot) was given out while a copy may still write it") }
        if pool.readers[slot] > 0 { world.fail("I5: slot \(slot) was given out while a write may still read it") }
        daemon.checkEviction(of: slot)
        pool.contents[slot] = .garbage
        pool.assigned[slot] = (handle, assignment.chunk)
        pool.writers[slot] += 1
        let id = nextCopy
        nextCopy += 1
        copies[id] = Copy(handle: handle, chunk: assignment.chunk, slot: slot, sources: sources(record, assignment.chunk))
        for source in copies[id]?.sources ?? [] { pool.readers[source] += 1 }
        checkSources(record, assignment.chunk)
        finish(id, record, assignment, after: world.delay() * (world.random.once(in: 60) ? 50 : 1))
    }

    private func finish(_ id: Int, _ record: SaveRecord, _ assignment: ChunkAssignment, after delay: Int) {
        let (handle, slot) = (assignment.handle, assignment.slot)
        world.after(delay) { [self] in
            // What is to be streamed of it is not all there yet.
            if copies[id] != nil, let from = record.streamedFrom, min((assignment.chunk + 1) * Sizes.chunkBytes, record.fileBytes) > from {
                return finish(id, record, assignment, after: world.delay())
            }
            guard let copy = copies.removeValue(forKey: id) else { return }
            end(copy)
            pool.contents[slot] = .chunk(record.content(assignment.chunk))
            guard !cancelled.contains(handle), !record.stageFailed else { return }
            checkSources(record, assignment.chunk)
            if record.rankChunks?.contains(assignment.chunk) ?? true, daemon.isGone(record.session) {
                record.stageFailed = true
                return send(.stageFailed(handle: handle, kind: .gone, text: "the rank's process is gone"), delay: world.delay())
            }
            record.staged.insert(assignment.chunk)
            send(.staged([ChunkStaged(handle: handle, chunk: assignment.chunk, slot: slot, blocks: 32)]), delay: world.delay())
            if record.eager.isSubset(of: record.staged), !record.toldEager {
                record.toldEager = true
                send(.eagerStaged(handle: handle), delay: 0)
            }
        }
    }

    /// The slots that a chunk of a sealed save is made of.
    private func sources(_ record: SaveRecord, _ chunk: Int) -> [Int] {
        guard let source = record.source, source.needs.indices.contains(chunk) else { return [] }
        return source.needs[chunk].map { source.slots[$0] }
    }
    private func checkSources(_ record: SaveRecord, _ chunk: Int) {
        guard let source = record.source, source.needs.indices.contains(chunk) else { return }
        for held in source.needs[chunk] where pool.contents[source.slots[held]] != .chunk(source.held.content(held)) {
            world.fail("I5: chunk \(chunk) of \(record.key) is made of slot \(source.slots[held]), which does not hold chunk \(held) of \(source.held.key) any more")
        }
    }
    private func end(_ copy: Copy) {
        pool.writers[copy.slot] -= 1
        for source in copy.sources { pool.readers[source] -= 1 }
    }

    private func cancel(_ handle: Int) {
        guard known.contains(handle) else { return world.fail("an unknown save \(handle) was cancelled") }
        cancelled.insert(handle)
        var busy: [Int] = []
        for (id, copy) in copies.sorted(by: { $0.key < $1.key }) where copy.handle == handle {
            copies[id] = nil
            if world.random.once(in: 2) {
                busy.append(copy.slot)
                let at = pipe.arrival(world.now + 1) + world.delay() * 20
                busyCopies[id] = copy
                world.at(at) { [self] in
                    guard busyCopies.removeValue(forKey: id) != nil else { return }
                    end(copy)
                    pool.contents[copy.slot] = .garbage
                    send(.slotFree(slot: copy.slot), delay: world.delay())
                }
            } else {
                end(copy)
            }
        }
        send(.cancelled(handle: handle, busySlots: busy), delay: 1)
    }

    /// The process is gone, and with it every copy.
    func die() {
        for copy in copies.values { end(copy) }
        for copy in busyCopies.values { end(copy) }
        copies.removeAll()
        busyCopies.removeAll()
    }
}
