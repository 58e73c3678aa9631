// Each request of the main process and who does it.
import CairnIO
import CairnMessages
import CairnModel
import CairnStore

extension TierWorker {
    func handle(_ request: TierRequest, _ frame: Frame) {
        switch request {
        case .start, .stop: return
        case .peerBuffer(let instance, let bytes):
            if let descriptor = frame.descriptors.first { try? memory.setPeer(instance: instance, bytes: bytes, descriptor) }
        case .lease(let segment, let bytes):
            // One that cannot be mapped is filled by copies.
            if let descriptor = frame.descriptors.first { try? memory.setLease(segment, bytes: bytes, descriptor) }
        case .release(let segment): memory.release(segment)

        case .create(let id, let number, let key, let fileTry, let bytes):
            let file = writing.register(number: number, key: key, fileTry: fileTry, bytes: bytes)
            answer(id, on: files) { [writing] in
                try writing.create(file)
                return .done(id: id)
            }
        case .write(let writes): for write in writes { writing.write(write) }
        case .sync(let id, let file):
            answer(id, on: files) { [writing] in
                try writing.sync(file)
                return .done(id: id)
            }
        case .publish(let id, let file, let manifestName, let manifestBytes):
            let payload = frame.payload
            answer(id, on: files) { [writing] in
                guard (0...payload.count).contains(manifestBytes) else { throw TierFailure(kind: .invalid, text: "a publish without its records") }
                try writing.publish(file, manifestName: manifestName, manifest: Array(payload[..<manifestBytes]), checksums: Array(payload[manifestBytes...]))
                return .done(id: id)
            }
        case .abandon(let file):
            if let left = writing.abandon(file) {
                files.run { [opening] in try? opening.folders.unlinkIfPresent(left.root, left.path) }
            }
        case .readBack(let id, let key, let chunk, let bytes, let slot): readBack(id, key, chunk: chunk, bytes: bytes, slot: slot)
        case .sidecars(let id, let key):
            answer(id, on: records) { [reading] in
                let found = try reading.sidecars(key)
                return (.sidecars(id: id, manifestName: found.name, manifestBytes: found.manifest.count), found.manifest + found.checksums)
            }

        case .numberAttempt(let id, let run, let tokenHash, let worldSize, let notAfter):
            answer(id, on: records) { [attempts] in .attempt(id: id, number: try attempts.number(run, tokenHash: tokenHash, worldSize: worldSize, notAfter: notAfter)) }
        case .findAttempt(let id, let run, let tokenHash):
            answer(id, on: records) { [attempts] in .attempt(id: id, number: try attempts.find(run, tokenHash: tokenHash)) }
        case .newestAttempt(let id, let run):
            answer(id, on: records) { [attempts] in .attempt(id: id, number: try attempts.newest(run)) }
        case .claimAttempt(let id, let run, let number, let tokenHash, let worldSize):
            answer(id, on: records) { [attempts] in .attempt(id: id, number: try attempts.claim(run, number: number, tokenHash: tokenHash, worldSize: worldSize)) }
        case .have(let id, let run, let attempt, let list):
            answer(id, on: records) { [leftovers] in
                try leftovers.have(run, attempt: attempt, list)
                return .done(id: id)
            }
        case .leftovers(let id, let run, let attempt):
            answer(id, on: records) { [leftovers] in
                let (serving, found) = try leftovers.find(run, before: attempt)
                return .leftovers(id: id, serving: serving, found)
            }

        case .decide(let id, let run, let save, let worldSize, let participants, let parent, let ranks):
            answer(id, on: records) { [self] in
                let looked = try decisions.decide(run, save, worldSize: worldSize, participants: participants, parent: parent)
                // On a thread of its own, after the answer: who asks will ask again, and then less is left to be read.
                if case .undecided = looked { aheads.run { [decisions] in ReadAhead.read(decisions.check(run, save, worldSize, participants)) } }
                return try reply(id, run, looked, ranks)
            }
        case .void(let id, let run, let save, let reason, let ranks):
            answer(id, on: records) { [self] in try reply(id, run, .decided(try decisions.void(run, save, reason: reason)), ranks) }
        case .look(let id, let run, let save, let worldSize, let participants, let lists, let ranks):
            answer(id, on: records) { [self] in
                try reply(id, run, try decisions.look(run, save, worldSize: worldSize, participants: participants, lists: lists), ranks)
            }
        case .recordDecision(let id, let run, let save):
            let payload = frame.payload
            answer(id, on: records) { [beside, reading] in
                // Files that are kept open for reading would keep their space.
                if try beside.record(run, save, payload) { reading.forget(run) }
                return .done(id: id)
            }

        case .choose(let id, let run, let attempt, let restore, let step, let candidate):
            answer(id, on: records) { [restores] in
                Self.reply(id, try restores.choose(run, attempt: attempt, restore: restore, step: step, candidate: candidate))
            }
        case .readChoice(let id, let run, let attempt, let restore):
            answer(id, on: records) { [restores] in Self.reply(id, try restores.readChoice(run, attempt: attempt, restore: restore)) }
        case .settled(let id, let run, let attempt, let restore, let ranks, let ok, let reason):
            answer(id, on: records) { [restores] in
                try restores.settled(run, attempt: attempt, restore: restore, ranks: ranks, ok: ok, reason: reason)
                return .done(id: id)
            }
        case .verdict(let id, let run, let attempt, let restore, let worldSize, let publish, let force):
            answer(id, on: records) { [restores] in
                let verdict = try restores.verdict(run, attempt: attempt, restore: restore, worldSize: worldSize, publish: publish, force: force)
                return .verdict(id: id, ok: verdict?.ok, reason: verdict?.reason)
            }
        default: handleSteps(request)
        }
    }

    private func handleSteps(_ request: TierRequest) {
        switch request {
        case .describe(let id, let ref):
            answer(id, on: records) { [reading, opening] in
                // A tier beside may be asked about a save that is not decided: what it holds is the answer.
                let beside = opening.folders.start.form == .beside
                let step = try (try? reading.files(ref, undecided: false)) ?? reading.files(ref, undecided: beside)
                return (.index(id: id), StepIndexFile.encode(step.catalog))
            }
        case .load(let id, let ref, let boxes, let segments, let undecided):
            answer(id, on: loads) { [reading, engine, frames, memory, slots, replies] in
                try reading.reading(ref) {
                    let step = try reading.files(ref, undecided: undecided)
                    let loader = Loader(engine: engine, frames: frames, memory: memory, slots: slots, replies: replies)
                    return .loaded(id: id, placed: try loader.load(id: id, step: step, boxes: boxes, segments: segments))
                }
            }
        case .freeBuffers(let freed): slots.give(freed)
        case .compressed(let id, let ref): answer(id, on: records) { [reading] in .compressed(id: id, ranks: try reading.compressed(ref)) }
        case .list(let id, let run): answer(id, on: records) { [housekeeping] in .steps(id: id, try housekeeping.list(run)) }
        case .runs(let id): answer(id, on: records) { [housekeeping] in .runs(id: id, try housekeeping.runs()) }
        case .verify(let id, let ref):
            answer(id, on: verifies) { [reading, engine, frames, replies] in
                try reading.reading(ref) {
                    try Verifier(engine: engine, frames: frames, replies: replies, folders: reading.folders).verify(id: id, try reading.written(ref))
                    return .done(id: id)
                }
            }
        case .pin(let id, let ref, let pinned):
            answer(id, on: records) { [steps, beside, opening] in
                if opening.folders.start.form == .beside { try beside.pin(ref.run, try beside.save(of: ref), pinned) } else { try steps.pin(ref, pinned) }
                return .done(id: id)
            }
        case .remove(let id, let ref):
            answer(id, on: records) { [housekeeping] in
                try housekeeping.remove(ref)
                return .done(id: id)
            }
        case .retain(let id, let run, let rules, let given):
            answer(id, on: records) { [housekeeping] in .removed(id: id, try housekeeping.retain(run, rules, given)) }
        case .scan(let id): answer(id, on: records) { [housekeeping] in .scanned(id: id, try housekeeping.scan()) }
        case .space(let id): answer(id, on: records) { [housekeeping] in .space(id: id, try housekeeping.space()) }
        case .held(let id, let run, let step): answer(id, on: records) { [housekeeping] in .scanned(id: id, try housekeeping.held(run, step: step)) }
        case .branch(let id, let run, let from, let step, let sequence):
            answer(id, on: files) { [branching] in
                let first = try branching.branch(run, from: from, step: step, sequence: sequence)
                return .branched(id: id, step: first.step, sequence: first.sequence)
            }
        default: return
        }
    }

    /// One chunk of a published file into a slot that main assigned, each block checked.
    private func readBack(_ id: Int, _ key: RankSaveKey, chunk: Int, bytes: Int, slot: Int) {
        answer(id, on: readBacks) { [reading, engine, frames, memory] in
            let file = try reading.file(key)
            let first = chunk * Sizes.blocksPerChunk
            guard first < file.crcs.count, Sizes.bytes(ofChunk: chunk, fileBytes: file.bytes) == bytes, (slot + 1) * Sizes.chunkBytes <= memory.buffer.bytes else {
                throw TierFailure(kind: .invalid, text: "chunk \(chunk) of \(bytes) bytes is not in the file of \(key)")
            }
            memory.fill(readBacks: true)
            let done = WorkQueue<BufferRead>(capacity: 1)
            if let table = file.frames {
                frames.read(file, table, chunk: chunk, to: memory.buffer, at: slot * Sizes.chunkBytes) { done.push(BufferRead(failure: $0)) }
            } else {
                engine.submit(DataOperation(kind: .read, file: file.descriptor, path: file.path, map: memory.buffer, mapOffset: slot * Sizes.chunkBytes,
                                            fileOffset: chunk * Sizes.chunkBytes, bytes: DataOperation.padded(bytes, direct: file.direct), least: bytes,
                                            direct: file.direct) { done.push(BufferRead(failure: $0.map { .read($0) })) })
            }
            switch done.pop()?.failure {
            case nil: break
            case .read(let failure)?: throw failure
            case .frame(let reason)?: throw BadBlock(path: file.path, block: first, reason: reason).failure
            }
            for block in first..<min(first + Sizes.blocksPerChunk, file.crcs.count) {
                let crc = memory.buffer.crc32c(offset: slot * Sizes.chunkBytes + (block - first) * Sizes.blockBytes, bytes: file.bytes(ofBlock: block))
                guard crc == file.crcs[block] else {
                    throw BadBlock(path: file.path, block: block, reason: "its CRC32C is not what it was when staged").failure
                }
            }
            return .done(id: id)
        }
    }

    private struct BufferRead: Sendable { let failure: ChunkFailure? }

    private func reply(_ id: Int, _ run: RunKey, _ looked: Looked, _ ranks: [Int]) throws -> (TierReply, [UInt8]) {
        switch looked {
        case .decided(let standing): (.decision(id: id, standing.outcome), Record.encode(try decisions.copy(run, standing, ranks: ranks)))
        case .undecided(let missing): (.missing(id: id, ranks: missing), [])
        }
    }

    private static func reply(_ id: Int, _ choice: RestoreChoice?) -> TierReply {
        .choice(id: id, chosen: choice != nil, step: choice?.step, sequence: choice?.sequence, save: choice?.save, level: choice?.level)
    }
}
