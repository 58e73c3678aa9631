// Files: created under a name of their own, written, synced, published by link; read back chunk by chunk.
import CairnEngine
import CairnMessages
import CairnModel

extension TierModel {
    func create(_ id: Int, _ number: Int, _ key: RankSaveKey, _ bytes: Int) {
        if !daemon.fileNumbers.insert(number).inserted { world.fail("no name is used twice: file number \(number) is") }
        operate(id, writes: true) { [self] in
            if isCommitting, see(disk.decisions, key.save) != nil { return .failed(.ended) }
            files[number] = TemporaryFile(key: key, fileBytes: bytes)
            return .reply(.done(id: id))
        }
    }

    func write(_ write: ChunkWrite) {
        guard let file = files[write.file] else { return world.fail("I2: a write goes to file \(write.file) that is not open on the \(tier) tier") }
        let key = file.key
        func isChunk(_ content: SlotContent?) -> Bool {
            guard case .chunk(let content)? = content else { return false }
            return content.key == key && content.chunk == write.chunk
        }
        let source: () -> SlotContent?
        let done: () -> Void
        var usesPool = false
        switch write.source {
        case .pool(let slot):
            let pool = pool
            source = { pool.contents[slot] }
            pool.readers[slot] += 1
            done = { pool.readers[slot] -= 1 }
            usesPool = true
        case .peer(_, let slot):
            guard let peer = daemon.workers[.local] else { return world.fail("I7: a write takes from a local worker that is not there") }
            source = { peer.buffer[slot] }
            done = {}
        }
        if !isChunk(source()) { world.fail("I5: a write of \(key) chunk \(write.chunk) starts from \(write.source), which holds \(String(describing: source()))") }
        begin(write.id, writes: true, usesPool: usesPool, finally: done, [{ [self] in
            // The dead worker's write counts for I5 too: its slot rests until then.
            if !isChunk(source()), usesPool { world.fail("I5: \(write.source) changed while \(key) chunk \(write.chunk) was written from it") }
            if !isChunk(source()), !dead, files[write.file] != nil { world.fail("I7: \(write.source) changed while \(key) chunk \(write.chunk) was written from it") }
            guard let file = files[write.file], let content = source() else { return .failed(.invalid) }
            file.chunks[write.chunk] = content
            file.synced.remove(write.chunk)
            return .reply(.done(id: write.id))
        }])
    }

    func sync(_ id: Int, _ number: Int) {
        operate(id, writes: true) { [self] in
            guard let file = files[number] else { return .failed(.invalid) }
            for chunk in file.chunks.indices where file.chunks[chunk] != nil { file.synced.insert(chunk) }
            world.mark(.synced)
            return .reply(.done(id: id))
        }
    }

    func readBack(_ id: Int, _ key: RankSaveKey, _ chunk: Int, _ slot: Int) {
        guard let published = disk.files[key] else {
            // Promoted while retention took it: the worker finds nothing there.
            if disk.retired.contains(key) { return operate(id) { .failed(.missing) } }
            return world.fail("I1: \(key) is read back from the \(tier) tier, where it is not published")
        }
        buffer[slot] = .garbage
        operate(id) { [self] in
            buffer[slot] = .chunk(published.chunks[chunk])
            world.mark(.readBack)
            return .reply(.done(id: id))
        }
    }

    /// Link, then sync of the folder; only then the reply.
    func publish(_ id: Int, _ number: Int, _ facts: ManifestFacts) {
        guard let file = files[number] else { return world.fail("I2: file \(number) is published but not open on the \(tier) tier") }
        let key = file.key
        if file.chunks.contains(where: { $0 == nil }) { world.fail("I2: \(key) is published on the \(tier) tier before all of it is written") }
        guard let manifest = daemon.manifest(key, facts) else { return world.fail("I11: \(key) is published, of which nothing is known") }
        operate(id, writes: true, { [self] in
            guard files[number] != nil || dead else { return .failed(.invalid) }
            if isCommitting, see(disk.decisions, key.save) != nil { return .failed(.ended) }
            var published = manifest
            for content in file.chunks {
                guard case .chunk(let chunk)? = content else { world.fail("I7: \(key) is published with bytes that are no chunk"); return .failed(.invalid) }
                published.chunks.append(chunk)
            }
            for (index, chunk) in published.chunks.enumerated() where chunk.chunk != index || chunk.key != key || chunk.nonce != published.chunks[0].nonce {
                world.fail("I11: \(key) mixes bytes: chunk \(index) is \(chunk)")
            }
            guard link(disk.files, key, published) else { return disk.files[key]?.chunks == published.chunks ? .next : .failed(.invalid) }
            world.note("d\(node) \(tier): linked \(key)")
            return .next
        }, { [self] in
            disk.files.sync(key)
            return .reply(.done(id: id))
        })
    }
}
