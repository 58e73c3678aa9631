// Taking up what a former process kept in the pool: the stager, which maps it, checks every block's CRC; each part's own header says what it
// holds; then the engine gets all of it at once, before any tier is started.
import CairnEngine
import CairnIO
import CairnMessages
import CairnModel
import CairnStore

/// While it lasts.
struct TakingUp {
    let startedAt: Int
    var waiting: [KeptEntry]
    var sound: [(entry: KeptEntry, plan: PlannedSave, handle: Int)] = []
    var running = 0, refused = 0
    /// The stager's last word about the pool's pages, for the engine.
    var filled: StagerReply?
}

extension Daemon {
    /// False: there is nothing.
    func beginTakingUp() -> Bool {
        guard let kept else { return false }
        for part in kept.cut where part.committed == nil {
            log.write(.notice, "run \(part.run) save \(part.save) rank \(part.rank): chunks of it had left the pool, so it is not taken up from there")
        }
        var known: Set<RankSaveKey> = []
        let whole = kept.found.filter { entry in
            let part = entry.part
            let isSound = entry.slots.allSatisfy { (0..<poolShape.slots).contains($0) } && Set(entry.slots).count == entry.slots.count
            return isSound && known.insert(RankSaveKey(run: part.run, save: part.save, rank: part.rank)).inserted
        }
        kept.found = []
        guard !whole.isEmpty else { return false }
        // The newest first: from the list's end.
        takingUp = TakingUp(startedAt: loop.nowNanoseconds, waiting: whole.sorted { $0.part.save < $1.part.save })
        SystemdNotify.send(state: "STATUS=checking what the former process kept in memory: \(whole.count) parts")
        return true
    }

    /// As many checks at once as keep the stager's threads busy.
    func takeUpNext() {
        while let now = takingUp, now.running < DaemonLimits.keptChecks, let entry = now.waiting.last {
            takingUp?.waiting.removeLast()
            takingUp?.running += 1
            check(entry, from: 0)
        }
        if let now = takingUp, now.running == 0, now.waiting.isEmpty { takenUp(now) }
    }

    private func check(_ entry: KeptEntry, from chunk: Int) {
        guard chunk < entry.slots.count else {
            takingUp?.running -= 1
            adopt(entry)
            return takeUpNext()
        }
        SystemdNotify.send(state: "EXTEND_TIMEOUT_USEC=\(DaemonLimits.startExtensionSeconds * 1_000_000)")
        var checks: [UInt64] = []
        let next = min(chunk + DaemonLimits.keptCheckChunks, entry.slots.count)
        for chunk in chunk..<next {
            for (number, crc) in entry.crcs[(chunk * Sizes.blocksPerChunk)..<min((chunk + 1) * Sizes.blocksPerChunk, entry.crcs.count)].enumerated() {
                let offset = chunk * Sizes.chunkBytes + number * Sizes.blockBytes
                checks += [UInt64(entry.slots[chunk] * Sizes.chunkBytes + number * Sizes.blockBytes), UInt64(min(Sizes.blockBytes, entry.part.fileBytes - offset)), UInt64(crc), 0]
            }
        }
        copyOut(.pool, checks: checks, copies: []) { [unowned self] result in
            switch result {
            case .done: check(entry, from: next)
            case .failed(let offset, let text):
                takingUp?.running -= 1
                refuse(entry, "\(text)\(offset.map { " (slot \($0 / Sizes.chunkBytes))" } ?? "")")
                takeUpNext()
            }
        }
    }

    private func refuse(_ entry: KeptEntry, _ reason: String) {
        takingUp?.refused += 1
        kept?.index.clear(entry.slots, of: entry.number)
        log.write(.error, "run \(entry.part.run) save \(entry.part.save) rank \(entry.part.rank): what the former process kept in memory is not taken up: \(reason)")
    }

    /// Its bytes are what was staged: what they are, its header says.
    private func adopt(_ entry: KeptEntry) {
        let part = entry.part
        do {
            let head = try FileHeader.headBytes(first8: keptBytes(entry, 0, 8), fileBytes: part.fileBytes)
            let header = try FileHeader.parse(prefix: keptBytes(entry, 0, head), fileBytes: part.fileBytes)
            guard header.runName == part.run.name, header.save == part.save, header.rank == part.rank, header.worldSize == part.worldSize else {
                return refuse(entry, "its header is of save \(header.save) rank \(header.rank) of run \(header.runName)")
            }
            let charge = MemoryCharge(clientMemory, uid: part.run.uid), wanted = DaemonLimits.tableBytes(fileBytes: part.fileBytes) + head
            guard charge.set(wanted) else { return refuse(entry, "its tables need \(wanted) bytes, and its user has \(clientMemory.left(part.run.uid)) left") }
            let plan = PlannedSave(session: "", run: part.run, save: part.save, rank: part.rank, worldSize: part.worldSize,
                                   memberCount: part.participants?.count ?? part.worldSize, layoutDigest: header.layoutDigest, plan: header.plan,
                                   metadata: part.metadata ?? [:], parent: part.parent, upto: part.upto, savedAt: part.savedAt, charge: charge, files: part.files)
            plan.crcs = entry.crcs
            plan.manifestUpto = part.manifestUpto
            takingUp?.sound.append((entry, plan, nextHandle))
            nextHandle += 1
        } catch {
            refuse(entry, "\(error)")
        }
    }

    private func keptBytes(_ entry: KeptEntry, _ offset: Int, _ count: Int) throws -> [UInt8] {
        var bytes: [UInt8] = []
        while bytes.count < count {
            let at = offset + bytes.count, inChunk = at % Sizes.chunkBytes, slot = entry.slots[at / Sizes.chunkBytes]
            bytes += try poolSegments[PoolShape.segment(ofSlot: slot)]
                .read(offset: PoolShape.offset(ofSlot: slot) + inChunk, count: min(count - bytes.count, Sizes.chunkBytes - inChunk))
        }
        return bytes
    }

    private func takenUp(_ result: TakingUp) {
        takingUp = nil
        hasTakenUp = true
        for (entry, plan, handle) in result.sound {
            plans[handle] = plan
            kept?.adopt(entry, handle: handle)
        }
        let bytes = result.sound.reduce(0) { $0 + $1.entry.part.fileBytes }
        log.write(.notice, "took up \(result.sound.count) parts of saves, \(bytes >> 20) MiB, from the former process's memory in "
            + "\((loop.nowNanoseconds - result.startedAt) / 1_000_000) ms" + (result.refused > 0 ? "; \(result.refused) were refused" : ""))
        deliver(.kept(result.sound.map { entry, _, handle in
            let part = entry.part
            return KeptRankSave(handle: handle, key: RankSaveKey(run: part.run, save: part.save, rank: part.rank), worldSize: part.worldSize,
                                fileBytes: part.fileBytes, slots: entry.slots, upto: part.upto, saveUpto: part.saveUpto, count: part.count,
                                previous: part.previous, parent: part.parent, participants: part.participants, committed: part.committed)
        }))
        if stager.state == .up { deliver(.stagerReady) }
        if let filled = result.filled { deliver(.stager(filled)) }
        startTiers()
    }

    /// What the next process would need of this part.
    func keep(_ handle: Int) {
        guard let kept else { return }
        guard let part = engine.kept(handle: handle), let plan = plans[handle] else { return kept.drop(handle) }
        kept.keep(part, KeptPart(run: plan.run, save: plan.save, rank: plan.rank, worldSize: plan.worldSize, fileBytes: part.fileBytes, upto: part.upto,
                                 saveUpto: part.saveUpto, manifestUpto: plan.manifestUpto, count: part.count, parent: plan.parent, previous: part.previous,
                                 participants: part.participants, metadata: plan.rank == 0 && !plan.metadata.isEmpty ? plan.metadata : nil, files: plan.files,
                                 savedAt: plan.savedAt, committed: part.committed), crcs: plan.crcs)
    }
}
