// What a job's nodes ask of the shared folder, phase by phase, node after node: a save and its commit, then a new attempt that restores it,
// in the same sharding and in another, then retention. Each phase of each node is marked: an open of a name that does not exist, which
// `scale.py` finds in the tracer's log, and a line with its seconds.
import CairnIO
import CairnMessages
import CairnModel
import CairnStore

final class Phases {
    let world: World, folder: String, memory: Memory
    /// Nodes that load: the cost is the same on each, and a load takes long in a large world.
    let loading: Set<Int>
    /// Rank 0's daemon asks for the decision each time that so many nodes have published: with as many as there are nodes, only at the end.
    let asking: Int
    private let root: Descriptor

    init(_ world: World, folder: String, loading count: Int, asking: Int) throws {
        self.world = world
        self.asking = asking
        self.folder = folder
        memory = try Memory()
        root = try Files.openRoot(folder)
        loading = Set((0..<min(count, world.nodes)).map { $0 * world.nodes / min(count, world.nodes) })
    }

    private func mark(_ phase: String, _ node: Int) { _ = try? Files.openRoot("/cairn-scale/\(phase)/\(node)") }

    private func phase<Result>(_ name: String, _ node: Int, _ body: () throws -> Result) throws -> Result {
        mark(name, node)
        let begin = Clock.monotonicNanoseconds()
        let result = try body()
        let nanoseconds = Clock.monotonicNanoseconds() - begin
        mark("between", node)
        StandardStreams.write(to: 1, "phase \(name) \(node) \(nanoseconds)\n")
        return result
    }

    private func start(_ number: Int) throws -> Node { try phase("start", number) { try Node(number, folder: folder, memory: memory) } }

    private func size(_ what: String, _ bytes: Int) { StandardStreams.write(to: 1, "size \(what) \(bytes)\n") }

    private func hash(_ attempt: Int) -> String { String(repeating: "\(attempt)", count: 64) }

    // MARK: the life of an attempt that saves

    func save(_ save: SaveID) throws -> StepRef {
        let first = try start(0)
        defer { first.stop() }
        _ = try phase("number", 0) { try first.ask { .numberAttempt(id: $0, run: world.run, tokenHash: hash(save.attempt), worldSize: world.ranks) } }
        for number in 1..<world.nodes {
            let node = try start(number)
            defer { node.stop() }
            _ = try phase("number", number) { try node.ask { .findAttempt(id: $0, run: world.run, tokenHash: hash(save.attempt)) } }
            try put(node, save)
            try phase("look", number) { try look(node, save, isCommitted: false) }
            if number.isMultiple(of: asking) { try phase("ahead", 0) { try ahead(first, save) } }
        }
        // Rank 0's node is the last, so that what follows is the time from the last manifest to the commit.
        try put(first, save)
        let record = try phase("decide", 0) {
            let (reply, record) = try first.ask { .decide(id: $0, run: world.run, save: save, worldSize: world.ranks, participants: nil, parent: nil, ranks: ranks(first)) }
            guard case .decision(_, .committed) = reply else { throw ScaleError("not committed: \(reply)") }
            return record
        }
        size("decision-told", record.count)
        let sequence = CommitSequence(attempt: save.attempt, count: 1), step = "\(Names.runFolder(world.run))/\(Names.stepFolder(step: save.step, sequence: sequence))"
        for entry in try Files.list(root, step) {
            if case .manifest(1, _)? = Names.rankFile(entry.name) { size("manifest", try Files.stat(root, "\(step)/\(entry.name)").bytes) }
            if entry.name == Names.data(rank: 1) { size("rank's-file", try Files.stat(root, "\(step)/\(entry.name)").bytes) }
            if entry.name == Names.checkpoint || entry.name.hasPrefix("manifests-") { size(String(entry.name.prefix(9)), try Files.stat(root, "\(step)/\(entry.name)").bytes) }
            if entry.name.hasPrefix("layout-") { size("layout", try Files.stat(root, "\(step)/\(entry.name)").bytes) }
        }
        return StepRef(run: world.run, step: save.step, sequence: sequence, save: save)
    }

    /// Rank 0's daemon asks while ranks are missing, and asks again after two seconds, in which its worker reads what is there.
    private func ahead(_ first: Node, _ save: SaveID) throws {
        guard case .missing = try first.ask({ .decide(id: $0, run: world.run, save: save, worldSize: world.ranks, participants: nil, parent: nil) }).0 else {
            throw ScaleError("decided while ranks were missing")
        }
        Clock.sleep(milliseconds: 2000)
    }

    private func put(_ node: Node, _ save: SaveID) throws {
        let parts = try world.ranks(ofNode: node.number).map { try RankPart(world, save: save, rank: $0, count: 1) }
        try phase("save", node.number) { for part in parts { try node.put(part) } }
    }

    private func ranks(_ node: Node) -> [Int] { Array(world.ranks(ofNode: node.number)) }

    private func look(_ node: Node, _ save: SaveID, isCommitted: Bool) throws {
        switch try node.ask({ .look(id: $0, run: world.run, save: save, worldSize: world.ranks, participants: nil, lists: false, ranks: ranks(node)) }).0 {
        case .decision(_, .committed) where isCommitted: return
        case .missing where !isCommitted: return
        case let other: throw ScaleError("node \(node.number) looks and sees \(other)")
        }
    }

    // MARK: the life of an attempt that restores

    func restore(_ ref: StepRef, attempt: Int) throws {
        guard let save = ref.save else { throw ScaleError("no save") }
        let first = try start(0)
        defer { first.stop() }
        _ = try phase("number", 0) { try first.ask { .numberAttempt(id: $0, run: world.run, tokenHash: hash(attempt), worldSize: world.ranks) } }
        try have(first, attempt, save)
        try phase("choose", 0) {
            guard case .choice(_, true, ref.step, ref.sequence, _, _) = try first.ask({ .choose(id: $0, run: world.run, attempt: attempt, restore: 1, step: nil, candidate: nil) }).0
            else { throw ScaleError("another step was chosen") }
        }
        try load(first, ref, attempt)
        for number in 1..<world.nodes {
            let node = try start(number)
            defer { node.stop() }
            try phase("learn", number) { try look(node, save, isCommitted: true) }
            _ = try phase("number", number) { try node.ask { .findAttempt(id: $0, run: world.run, tokenHash: hash(attempt)) } }
            try have(node, attempt, save)
            try phase("choose", number) {
                guard case .choice(_, true, ref.step, _, _, _) = try node.ask({ .readChoice(id: $0, run: world.run, attempt: attempt, restore: 1) }).0
                else { throw ScaleError("the choice is not seen") }
            }
            try load(node, ref, attempt)
            _ = try phase("verdict", number) { try node.ask { .verdict(id: $0, run: world.run, attempt: attempt, restore: 1, worldSize: world.ranks, publish: false, force: false) } }
        }
        _ = try phase("leftovers", 0) { try first.ask { .leftovers(id: $0, run: world.run, attempt: attempt) } }
        try phase("verdict", 0) {
            guard case .verdict(_, true, _) = try first.ask({ .verdict(id: $0, run: world.run, attempt: attempt, restore: 1, worldSize: world.ranks, publish: true, force: false) }).0
            else { throw ScaleError("the ranks did not settle") }
        }
    }

    /// As if this node still held its ranks' parts of a save that was never decided.
    private func have(_ node: Node, _ attempt: Int, _ save: SaveID) throws {
        let ranks = Array(world.ranks(ofNode: node.number))
        let held = HeldSave(save: SaveID(attempt: save.attempt, step: save.step + 1, attemptTry: 1), worldSize: world.ranks, upto: .committed, participants: nil,
                            ranks: ranks, level: .local, count: ranks.first == 0 ? 2 : nil)
        let list = HaveList(serves: ranks, saves: [held], served: [HaveList.ServedRanks(attempt: save.attempt, ranks: ranks)])
        _ = try phase("have", node.number) { try node.ask { .have(id: $0, run: world.run, attempt: attempt, list: list) } }
    }

    private func load(_ node: Node, _ ref: StepRef, _ attempt: Int) throws {
        let ranks = world.ranks(ofNode: node.number)
        if loading.contains(node.number) {
            // A new worker for each sharding, since one keeps what it has read.
            for (name, world) in [("same", world.ranks), ("other", max(1, world.ranks / 2))] {
                let reader = try start(node.number)
                defer { reader.stop() }
                let wanted = ranks.map { $0 % world }
                let loaded = try phase(name, node.number) { try wanted.map { rank in (rank, try reader.load(ref, self.world.boxes(rank: rank, of: world))) } }
                for (rank, (bytes, placed)) in loaded { try check(bytes, placed, rank: rank, of: world) }
                StandardStreams.write(to: 1, "resident \(name) \(node.number) \(ProcessFacts.residentBytes())\n")
            }
            let reader = try start(node.number)
            defer { reader.stop() }
            let (_, index) = try phase("describe", node.number) { try reader.ask { .describe(id: $0, ref: ref) } }
            size("index", index.count)
        }
        _ = try phase("settle", node.number) { try node.ask { .settled(id: $0, run: world.run, attempt: attempt, restore: 1, ranks: Array(ranks), ok: true, reason: nil) } }
    }

    /// Every byte is the one that the rank which held it wrote.
    private func check(_ bytes: [UInt8], _ placed: [PlacedPiece], rank: Int, of ranks: Int) throws {
        let row = World.columns * 2
        var starts: [Int: [Int]] = [:], piece = 0
        for index in 0..<world.tensors {
            let (name, rows) = world.tensor(index), (begin, count) = World.cut(rows: rows, rank: rank, of: ranks)
            guard count > 0 else { continue }
            guard piece < placed.count, placed[piece].name == name, placed[piece].bytes == count * row else { throw ScaleError("'\(name)' was not loaded whole") }
            for at in 0..<count {
                let owner = (begin + at) / ((rows + world.ranks - 1) / world.ranks)
                let held = World.cut(rows: rows, rank: owner, of: world.ranks)
                let start = starts[owner] ?? self.starts(owner)
                starts[owner] = start
                let from = start[index] + (begin + at - held.begin) * row, to = placed[piece].offset + at * row
                guard (0..<row).allSatisfy({ bytes[to + $0] == RankPart.byte(rank: owner, at: from + $0) }) else {
                    throw ScaleError("rank \(rank) of \(ranks) got other bytes than rank \(owner) saved of '\(name)'")
                }
            }
            piece += 1
        }
    }

    /// Where each tensor begins in a rank's data.
    private func starts(_ rank: Int) -> [Int] {
        var starts: [Int] = [], at = 0
        for index in 0..<world.tensors {
            starts.append(at)
            at += World.cut(rows: world.tensor(index).rows, rank: rank, of: world.ranks).count * World.columns * 2
        }
        return starts
    }

    // MARK: retention

    /// A newer step by a world of one, so that the large one may go; then, as if ten minutes had passed, its files.
    func retain(_ ref: StepRef, attempt: Int) throws {
        var small = world
        (small.ranks, small.tensors) = (1, 1)
        let node = try start(0)
        defer { node.stop() }
        let save = SaveID(attempt: attempt, step: ref.step + 100, attemptTry: 1)
        try node.put(try RankPart(small, save: save, rank: 0, count: 1))
        try node.ask { .decide(id: $0, run: world.run, save: save, worldSize: 1, participants: nil, parent: nil) }
        try phase("retain", 0) {
            guard case .removed(_, let gone) = try node.ask({ .retain(id: $0, run: world.run, rules: RetentionRules(keep: 1), given: RetentionGiven(protectedSaves: [], protectedSequences: [])) }).0, gone.map(\.sequence) == [ref.sequence]
            else { throw ScaleError("the step was not removed") }
        }
        let run = Names.runFolder(world.run)
        guard let gone = try Files.list(root, run).map(\.name).first(where: { $0.hasPrefix(".gone-") }) else { throw ScaleError("nothing was renamed away") }
        try Files.rename(root, from: "\(run)/\(gone)", to: "\(run)/\(Names.gone("old", seconds: Clock.utcSeconds() - 3600))")
        _ = try phase("delete", 0) { try node.ask { .retain(id: $0, run: world.run, rules: RetentionRules(keep: 1), given: RetentionGiven(protectedSaves: [], protectedSequences: [])) } }
        guard try !Files.list(root, run).contains(where: { $0.name.hasPrefix(".gone-") }) else { throw ScaleError("its files were not deleted") }
    }
}
