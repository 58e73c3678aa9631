// What a step holds: from memory where all of it lies there, else from a tier that can say.
// Of a step that no file says is committed, or whose commit only the local copies know, each node of the job knows its own ranks' parts.
import CairnEngine
import CairnIO
import CairnMessages
import CairnModel
import CairnStore
import CairnWire
import FoundationEssentials

/// Where everything of a save is that lies in memory here. Kept for the step that is being restored: its Loads are many.
struct MemoryCatalog {
    let run: RunKey
    /// The rank saves that it was made of: any of them may be evicted, or another become whole.
    let handles: [Int]
    let catalog: StepCatalog
    /// Every rank that takes part is among them.
    let isWhole: Bool
}

extension Daemon {
    func describe(_ parameters: Checkpoint.Describe.Parameters, _ session: ClientSession, _ context: CallContext) {
        let names = parameters.names.map(Set.init), once = parameters.once ?? false
        index(session.run, step: parameters.step, sequence: parameters.sequence.map(CommitSequence.init(wire:)), names: names, once: once, for: session) { result in
            switch result {
            case .failure(let error): context.fail(error)
            case .success(let index):
                var shards: [Checkpoint.Shard] = [], objects: [Checkpoint.Object] = [], seen: Set<String> = []
                // Whose own parts are not among these, their copies stand for: they say what there is, and are read like any other.
                for var table in index.ranks {
                    table.rank = Copies.rank(table.rank)
                    for stored in table.shards where names?.contains(stored.shard.name) ?? true && (!once || seen.insert("\(stored.shard.isPrivate) \(stored.shard.name)").inserted) {
                        shards.append(Checkpoint.Shard(stored.shard, rank: table.rank))
                    }
                    for stored in table.objects where names?.contains(stored.object.name) ?? true {
                        objects.append(Checkpoint.Object(stored.object, rank: table.rank))
                    }
                }
                context.reply(Checkpoint.Describe.Reply(worldSize: index.worldSize, shards: shards, objects: objects, metadata: index.metadata))
            }
        }
    }

    /// The index of all that a step holds; at least of these names, and of each shard where it is first. Where no tier knows it, a rank that
    /// restores it gets what lies here, if its own part is in that.
    func index(_ run: RunKey, step: Int, sequence: CommitSequence?, names: Set<String>? = nil, once: Bool = false, for session: ClientSession? = nil,
               _ handler: @escaping (Result<StepIndex, WireError>) -> Void) {
        guard let sequence else {
            return listSteps(run) { [unowned self] result in
                switch result {
                case .failure(let error): handler(.failure(error))
                case .success(let steps):
                    guard let newest = steps.filter({ $0.step == step }).max(by: { $0.sequence < $1.sequence }) else {
                        return handler(.failure(.noSuchStep(step: step)))
                    }
                    index(run, step: step, sequence: newest.sequence, names: names, once: once, for: session, handler)
                }
            }
        }
        let save = engine.save(run: run, sequence: sequence)
        let memory = save.flatMap { memoryCatalog(run, $0, sequence) }
        if let memory, memory.isWhole { return handler(.success(Self.withoutCopies(memory.catalog.index))) }
        let ref = StepRef(run: run, step: step, sequence: sequence, save: save)
        // The tier that has all of it first, unless its filesystem hangs: the nearer one may have all of it too.
        let inOrder = engine.answers(engine.committing) ? engine.tiers.reversed()[...] : engine.tiers[...]
        var partial = memory?.catalog.index, metNoWorker = false
        let begin = loop.nowNanoseconds
        func ask(_ tiers: ArraySlice<Tier>, _ last: WireError?) {
            guard let tier = tiers.first else {
                if let partial, let session, let save, engine.isChosen(run: run, save: save), partial.worldSize == session.worldSize,
                   partial.ranks.contains(where: { $0.rank == session.rank }) { return handler(.success(partial)) }
                let isAgain = metNoWorker && triesAgain(since: begin) {
                    metNoWorker = false
                    ask(inOrder, nil)
                }
                if !isAgain { handler(.failure(last ?? .noSuchStep(step: step))) }
                return
            }
            askTier(tier, seconds: tier == engine.committing ? listSeconds : DaemonLimits.tierCallSeconds, { .describe(id: $0, ref: ref) }) { [unowned self] reply, payload in
                switch reply {
                case .index:
                    let found: StepIndex
                    do { found = try StepIndexFile.decode(payload, names: names, once: once) } catch {
                        return ask(tiers.dropFirst(), .failed(reason: "the \(tier) tier's index of step \(step) does not parse: \(error)"))
                    }
                    // A tier beside knows only the ranks that it holds.
                    let own = Self.withoutCopies(found)
                    if tier == engine.committing || own.ranks.count == own.worldSize { return handler(.success(own)) }
                    partial = partial.map { Self.joined($0, found) } ?? found
                    ask(tiers.dropFirst(), last)
                case .failed(_, let failure):
                    if isWithoutWorker(tier) { metNoWorker = true }
                    ask(tiers.dropFirst(), last ?? wireError(failure, tier: tier, step: step))
                default: ask(tiers.dropFirst(), last)
                }
            }
        }
        ask(inOrder, nil)
    }

    /// Of a step whose ranks' own parts are all there.
    static func withoutCopies(_ index: StepIndex) -> StepIndex {
        var own = index
        own.ranks.removeAll { Copies.isCopies($0.rank) }
        return own
    }

    /// Two partial indexes of one save: each rank's table is the same in both.
    static func joined(_ one: StepIndex, _ other: StepIndex) -> StepIndex {
        guard one.save == other.save, one.worldSize == other.worldSize else { return one }
        let known = Set(one.ranks.map(\.rank))
        var joined = one
        joined.ranks = (one.ranks + other.ranks.filter { !known.contains($0.rank) }).sorted { $0.rank < $1.rank }
        // Rank 0's manifest says the metadata.
        if !known.contains(0), other.ranks.contains(where: { $0.rank == 0 }) { joined.metadata = other.metadata }
        return joined
    }

    /// What lies in memory here of a save; nil: nothing.
    func memoryCatalog(_ run: RunKey, _ save: SaveID, _ sequence: CommitSequence) -> MemoryCatalog? {
        let handles = engine.resident(run: run, save: save).map(\.handle)
        let held = handles.compactMap { plans[$0] }
        // What a scan found on the local tier has no plan here: it is read from there.
        guard let first = held.first, held.count == handles.count else { return nil }
        if let restoring, restoring.run == run, restoring.handles == handles, restoring.catalog.sequence == sequence { return restoring }
        let tables = held.map(\.table), own = tables.filter { !Copies.isCopies($0.rank) }, isWhole = own.count == first.memberCount
        // Nobody may have checked it as a commit does: boxes that overlap would give wrong bytes.
        guard !isWhole || (try? Tiling.check(tables: own)) != nil else { return nil }
        let catalog = StepCatalog(StepIndex(step: save.step, sequence: sequence, save: save, worldSize: first.worldSize, metadata: first.metadata, ranks: tables))
        let memory = MemoryCatalog(run: run, handles: handles, catalog: catalog, isWhole: isWhole)
        restoring = memory
        return memory
    }
}
