// What the engine asks for, done: replies, requests to workers (with the bytes that the engine does not carry), notices.
import CairnEngine
import CairnIO
import CairnMessages
import CairnModel
import CairnStore

extension Daemon {
    func perform(_ action: Action) {
        switch action {
        case .reply(let call, let answer): engineCalls.removeValue(forKey: call)?(answer)
        case .stager(let request):
            if case .begin(let begin) = request {
                stager.send(request, payload: plans[begin.handle]?.plan.takeHeader() ?? [])
            } else {
                if case .stage(let chunks) = request { kept?.giveOut(chunks.map(\.slot)) }
                stager.send(request)
            }
        case .tier(let tier, .write(let writes)): tierLinks[tier]?.send(TierRequest.write(writes.map(withInstance)))
        case .tier(let tier, let request): tierLinks[tier]?.send(request)
        case .publish(let tier, let id, let file, let handle, let facts): publish(tier, id: id, file: file, handle: handle, facts)
        case .recordDecision(let tier, let id, let run, let save):
            // The engine asks for it while it handles the reply that brought the record, and never later.
            assert(!decisionRecord.isEmpty, "a copy of save \(save)'s decision without its record")
            tierLinks[tier]?.send(TierRequest.recordDecision(id: id, run: run, save: save), payload: decisionRecord)
        case .tell(let notice): tell(notice)
        case .keep(let handle): keep(handle)
        case .drop(let handle): kept?.drop(handle)
        case .forget(let handle):
            kept?.drop(handle)
            plans[handle] = nil
            if restoring?.handles.contains(handle) == true { restoring = nil }
        case .endSession(let token, let reason, let replaced):
            guard let session = sessions[token] else { return }
            endSession(session, reason: reason, replaced: replaced)
        case .log(let severity, let text, let run, let save, let rank, let tier):
            var subject = ""
            if let run { subject += "run \(run) " }
            if let save { subject += "save \(save) " }
            if let rank { subject += "rank \(rank) " }
            log.write(severity, (subject.isEmpty ? "" : subject.dropLast() + ": ") + text, LogFields(run: run, save: save, rank: rank, tier: tier))
        }
    }

    /// The engine does not know instances: a peer's slot is that of the local worker that runs now.
    private func withInstance(_ write: ChunkWrite) -> ChunkWrite {
        guard case .peer(_, let slot) = write.source else { return write }
        var write = write
        write.source = .peer(instance: tierLinks[.local]?.instance ?? "", slot: slot)
        return write
    }

    private func publish(_ tier: Tier, id: Int, file: Int, handle: Int, _ facts: ManifestFacts) {
        guard let plan = plans[handle] else { return publishRecovered(tier, id: id, file: file, handle: handle) }
        let checksums = BlockChecksums.encode(plan.crcs)
        let manifest: (name: String, bytes: [UInt8])
        if let made = plan.manifest {
            manifest = made
        } else {
            let upto = plan.manifestUpto ?? engine.upto(ofHandle: handle) ?? plan.upto
            plan.manifestUpto = upto
            let record = Record.encode(Manifest(
                run: plan.run, save: plan.save, rank: plan.rank, worldSize: plan.worldSize, layoutDigest: plan.layoutDigest,
                fileBytes: plan.plan.fileBytes, dataStart: plan.plan.dataStart, crcs: plan.crcs, count: facts.count,
                parent: plan.rank == 0 ? plan.parent : nil, previous: facts.previous, participants: facts.participants,
                upto: upto, metadata: plan.rank == 0 ? plan.metadata : nil, files: plan.files, savedAt: plan.savedAt, node: node))
            manifest = (Names.manifest(rank: plan.rank, digest: Record.nameDigest(record)), record)
            plan.manifest = manifest
        }
        tierLinks[tier]?.send(TierRequest.publish(id: id, file: file, manifestName: manifest.name, manifestBytes: manifest.bytes.count),
                              payload: manifest.bytes + checksums)
    }

    /// A save that an earlier process staged: its manifest and CRCs are beside its local copy.
    private func publishRecovered(_ tier: Tier, id: Int, file: Int, handle: Int) {
        guard let key = engine.key(ofHandle: handle) else { return }
        askTier(.local, { .sidecars(id: $0, key: key) }) { [unowned self] reply, payload in
            switch reply {
            case .sidecars(_, let name, let bytes):
                tierLinks[tier]?.send(TierRequest.publish(id: id, file: file, manifestName: name, manifestBytes: bytes), payload: payload)
            case .failed(_, let failure): deliver(.tier(tier, .failed(id: id, failure)))
            default: deliver(.tier(tier, .failed(id: id, TierFailure(kind: .other, text: "no sidecars of \(key)"))))
            }
        }
    }

    private func tell(_ notice: Notice) {
        // A held save is counted when it is sealed.
        if notice.save.attemptTry > 0 { count(notice) }
        measure(notice)
        for watcher in Array(watchers.values) { watcher.tell(notice) }
    }

    private func count(_ notice: Notice) {
        switch notice.level {
        case .accepted where notice.reached: counters.saves += 1
        case .staged where notice.reached: counters.staged += 1
        case .committed where notice.reached:
            counters.committed += 1
            // All ranks of a save are told one after the other.
            if counters.lastCommitted[notice.run] != notice.save { counters.commitsOfRun[notice.run, default: 0] += 1 }
            counters.lastCommitted[notice.run] = notice.save
        case .failed where notice.reached:
            counters.failed += 1
            if counters.lastFailed[notice.run] != notice.save { counters.failuresOfRun[notice.run, default: 0] += 1 }
            counters.lastFailed[notice.run] = notice.save
        default: break
        }
    }
}

/// A connection that watches levels: one run's (a rank's client), or all that it may see (the CLI).
final class Watcher {
    let context: CallContext
    private let run: RunKey?, uid: UInt32?, rank: Int?
    private let push: (CallContext, Notice) -> Void

    init(context: CallContext, run: RunKey?, uid: UInt32?, rank: Int?, push: @escaping (CallContext, Notice) -> Void) {
        self.context = context
        self.run = run
        self.uid = uid
        self.rank = rank
        self.push = push
    }
    func tell(_ notice: Notice) {
        if let run, notice.run != run { return }
        if let uid, notice.run.uid != uid { return }
        if let rank, notice.rank != rank { return }
        push(context, notice)
    }
}
