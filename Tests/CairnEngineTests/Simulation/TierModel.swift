// A tier worker as the engine sees it: each request takes effect at some moment, then its reply may come, or the worker dies
// before or after. The effects are in TierModel+Effects.
import CairnEngine
import CairnMessages
import CairnModel

final class TierModel {
    unowned let daemon: Daemon
    let tier: Tier, disk: ModelDisk, generation: Int
    let pool: PoolModel
    private let pipe = Pipe()
    var files: [Int: TemporaryFile] = [:]
    var buffer: [Int: SlotContent] = [:]
    var dead = false, stalledUntil = 0

    init(daemon: Daemon, tier: Tier, disk: ModelDisk, generation: Int, pool: PoolModel) {
        self.daemon = daemon; self.tier = tier; self.disk = disk; self.generation = generation; self.pool = pool
    }
    var world: World { daemon.world }
    var committing: CommittingDisk? { disk as? CommittingDisk }

    func send(_ reply: TierReply) {
        let at = pipe.arrival(max(world.now + world.delay(), stalledUntil))
        world.at(at) { [self] in
            guard !dead, daemon.workers[tier] === self else { return }
            daemon.deliver(.tier(tier, reply))
        }
    }

    enum Result { case reply(TierReply), failed(TierFailureKind) }

    /// One request: maybe an error before or after its effect, and an effect that may come after the worker's death.
    func operate(_ id: Int, writes: Bool, finally: @escaping () -> Void = {}, _ effect: @escaping () -> Result) {
        let dying = world.random.once(in: 2)
        world.at(max(world.now + world.delay(), stalledUntil)) { [self] in
            defer { finally() }
            if dead, dying { return }
            let failing = world.faults && world.random.once(in: world.settings.errorOdds)
            if writes, !disk.freeSpace, !dead { return send(.failed(id: id, TierFailure(kind: .noSpace, text: "no space left on the \(tier) tier"))) }
            if failing, world.random.once(in: 2) { return send(.failed(id: id, TierFailure(kind: .io, text: "EIO before"))) }
            let result = effect()
            if dead { return }
            if failing { return send(.failed(id: id, TierFailure(kind: .io, text: "EIO after"))) }
            switch result {
            case .reply(let reply): send(reply)
            case .failed(let kind): send(.failed(id: id, TierFailure(kind: kind, text: "\(kind) on the \(tier) tier")))
            }
        }
    }

    func handle(_ request: TierRequest) {
        switch request {
        case .create(let id, let file, let key, _, let bytes): create(id, file, key, bytes)
        case .write(let writes): for write in writes { self.write(write) }
        case .sync(let id, let file):
            operate(id, writes: true) { [self] in
                guard let file = files[file] else { return .failed(.invalid) }
                for chunk in file.chunks.indices where file.chunks[chunk] != nil { file.synced.insert(chunk) }
                return .reply(.done(id: id))
            }
        case .abandon(let file): files[file] = nil
        case .readBack(let id, let key, let chunk, _, let slot): readBack(id, key, chunk, slot)
        case .retain(let id, let run, let keep, _, let saves, let sequences): retain(id, run, keep, saves, sequences)
        case .scan(let id): operate(id, writes: false) { [self] in .reply(.scanned(id: id, scan())) }
        case .list(let id, _): operate(id, writes: false) { [self] in .reply(.steps(id: id, steps())) }
        default: decideOrChoose(request)
        }
    }

    private func create(_ id: Int, _ number: Int, _ key: RankSaveKey, _ bytes: Int) {
        if !daemon.fileNumbers.insert(number).inserted { world.fail("a file number is used twice: \(number)") }
        operate(id, writes: true) { [self] in
            if committing?.decisions[key.save] != nil { return .failed(.ended) }
            files[number] = TemporaryFile(key: key, fileBytes: bytes)
            return .reply(.done(id: id))
        }
    }

    private func write(_ write: ChunkWrite) {
        guard let file = files[write.file] else { return world.fail("I2: a write goes to file \(write.file) that is not open on the \(tier) tier") }
        let key = file.key
        func isChunk(_ content: SlotContent?) -> Bool {
            guard case .chunk(let content)? = content else { return false }
            return content.key == key && content.chunk == write.chunk
        }
        let source: () -> SlotContent?
        let done: () -> Void
        switch write.source {
        case .pool(let slot):
            let pool = pool
            source = { pool.contents[slot] }
            pool.readers[slot] += 1
            done = { pool.readers[slot] -= 1 }
        case .peer(_, let slot):
            guard let peer = daemon.workers[.local] else { return world.fail("I7: a write takes from a local worker that is not there") }
            source = { peer.buffer[slot] }
            done = {}
        }
        if !isChunk(source()) { world.fail("I5: a write of \(key) chunk \(write.chunk) starts from \(write.source), which holds \(String(describing: source()))") }
        operate(write.id, writes: true, finally: done) { [self] in
            // The dead worker's write counts for I5 too: its slot rests until then.
            if !isChunk(source()), case .pool = write.source { world.fail("I5: \(write.source) changed while \(key) chunk \(write.chunk) was written from it") }
            if !isChunk(source()), !dead, files[write.file] != nil { world.fail("I7: \(write.source) changed while \(key) chunk \(write.chunk) was written from it") }
            guard let file = files[write.file], let content = source() else { return .failed(.invalid) }
            file.chunks[write.chunk] = content
            file.synced.remove(write.chunk)
            return .reply(.done(id: write.id))
        }
    }

    private func readBack(_ id: Int, _ key: RankSaveKey, _ chunk: Int, _ slot: Int) {
        guard let published = disk.files[key] else { return world.fail("I1: \(key) is read back from the \(tier) tier, where it is not published") }
        buffer[slot] = .garbage
        operate(id, writes: false) { [self] in
            buffer[slot] = .chunk(published.chunks[chunk])
            return .reply(.done(id: id))
        }
    }

    func publish(_ id: Int, _ number: Int, count: Int?, worldSize: Int) {
        guard let file = files[number] else { return world.fail("I2: file \(number) is published but not open on the \(tier) tier") }
        if file.chunks.contains(where: { $0 == nil }) { world.fail("I2: \(file.key) is published on the \(tier) tier before all of it is written") }
        operate(id, writes: true) { [self] in
            guard files[number] != nil || dead else { return .failed(.invalid) }
            if committing?.decisions[file.key.save] != nil { return .failed(.ended) }
            var chunks: [ChunkContent] = []
            for content in file.chunks {
                guard case .chunk(let chunk)? = content else { world.fail("I7: \(file.key) is published with bytes that are no chunk"); return .failed(.invalid) }
                chunks.append(chunk)
            }
            for (index, chunk) in chunks.enumerated() where chunk.chunk != index || chunk.key != file.key || chunk.nonce != chunks[0].nonce {
                world.fail("I11: \(file.key) mixes bytes: chunk \(index) is \(chunk)")
            }
            if let standing = disk.files[file.key] { return standing.chunks == chunks ? .reply(.done(id: id)) : .failed(.invalid) }
            disk.files[file.key] = PublishedFile(chunks: chunks, worldSize: worldSize, fileBytes: file.fileBytes, count: count)
            world.note("d\(daemon.index) \(tier): published \(file.key)")
            return .reply(.done(id: id))
        }
    }
}
