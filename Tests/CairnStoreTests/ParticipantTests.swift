// Saves by some of the ranks, and saves that some rank went on without.
import CairnIO
import CairnMessages
import CairnModel
import CairnStore
import Testing

private func reason(_ reply: TierReply) -> String? {
    if case .decision(_, .void(let reason)) = reply { reason } else { nil }
}

@Test func saveOfSomeRanksIsWholeWithThem() throws {
    let folder = try TierFolder()
    let tier = try TierHarness([folder.path])
    let id = save(10, attempt: 1)
    try tier.put(smallPart(id, rank: 0, worldSize: 4, participants: [0, 2]))
    guard case .missing(_, let ranks) = try tier.look(id, worldSize: 4, participants: [0, 2]) else { Issue.record("decided early"); return }
    #expect(ranks == [2])
    let other = try smallPart(id, rank: 2, worldSize: 4, participants: [0, 2])
    try tier.put(other)
    let (reply, record) = try tier.decide(id, worldSize: 4, participants: [0, 2], ranks: [2, 3])
    guard case .decision(_, .committed) = reply, case let copy = try Record.decode(DecisionCopy.self, from: record), let commit = copy.commit else { Issue.record("\(reply)"); return }
    #expect(commit.participants == [0, 2] && commit.worldSize == 4 && copy.rows.map(\.rank) == [2])
    let ref = StepRef(run: testRun, step: 10, sequence: commit.sequence, save: id)
    #expect(try tier.load(ref, [Box(name: "w", rank: 2)]) == [other.bytes(of: "w")])
    #expect(failureKind { _ = try tier.load(ref, [Box(name: "w", rank: 1)]) } == .notHere)
    #expect(try tier.verify(ref).isEmpty)
}

@Test func ranksThatDisagreeOnWhoTakesPartVoidTheSave() throws {
    let folder = try TierFolder()
    let tier = try TierHarness([folder.path])
    let id = save(10, attempt: 1), more = save(20, attempt: 1)
    try tier.put(smallPart(id, rank: 0, worldSize: 3, participants: [0, 1]))
    try tier.put(smallPart(id, rank: 1, worldSize: 3, participants: [0, 1, 2]))
    let why = try #require(try reason(tier.decide(id, worldSize: 3, participants: [0, 1]).0))
    #expect(why.contains("[0, 1]") && why.contains("[0, 1, 2]") && why.contains("rank 1 says"))
    // A rank that saved and is not among them.
    for rank in 0..<3 { try tier.put(smallPart(more, rank: rank, worldSize: 3, participants: rank == 2 ? [0, 1, 2] : [0, 1])) }
    #expect(try reason(tier.decide(more, worldSize: 3, participants: [0, 1]).0)?.contains("[2]") == true)
    // All ranks, said or not said, is the same.
    let whole = save(30, attempt: 1)
    for rank in 0..<3 { try tier.put(smallPart(whole, rank: rank, worldSize: 3, participants: rank == 1 ? [0, 1, 2] : nil)) }
    guard case .decision(_, .committed) = try tier.decide(whole, worldSize: 3, participants: nil).0 else { Issue.record("not committed"); return }
}

@Test func boxesMustBeWholeAmongTheParticipants() throws {
    let folder = try TierFolder()
    let tier = try TierHarness([folder.path])
    let id = save(10, attempt: 1)
    for rank in [0, 1] {
        var file = try StagedFile([Shard(name: "w", dtype: "U8", shape: [50], globalShape: [150], offsets: [50 * rank])], save: id, rank: rank, worldSize: 3)
        file.participants = [0, 1]
        try tier.put(file)
    }
    #expect(try reason(tier.decide(id, worldSize: 3, participants: [0, 1]).0)?.contains("leave 50") == true)
}

@Test func savesThatARankWentOnWithoutAreVoided() throws {
    let folder = try TierFolder()
    let tier = try TierHarness([folder.path])
    func id(_ step: Int, attempt: Int = 2) -> SaveID { save(step, attempt: attempt) }
    func outcome(_ id: SaveID) throws -> String? { try reason(tier.look(id, worldSize: 3, lists: false)) }
    // 10: committed. 20: rank 1 missed it. 30: of ranks 0 and 2 only, so rank 1 is no reason. 40: rank 1's part is there, rank 2's not yet.
    // 15 of an older attempt, 60: beyond.
    for rank in 0..<3 { try tier.put(smallPart(id(10), rank: rank, worldSize: 3)) }
    _ = try tier.decide(id(10), worldSize: 3)
    try tier.put(smallPart(id(20), rank: 0, worldSize: 3), count: 2)
    try tier.put(smallPart(id(30), rank: 0, worldSize: 3, participants: [0, 2]), count: 3)
    for rank in [0, 1] { try tier.put(smallPart(id(40), rank: rank, worldSize: 3), count: 4) }
    try tier.put(smallPart(id(15, attempt: 1), rank: 0, worldSize: 3), count: 9)
    try tier.put(smallPart(id(60), rank: 0, worldSize: 3), count: 6)
    for rank in 0..<3 { try tier.put(smallPart(id(50), rank: rank, worldSize: 3, previous: rank == 1 ? id(10) : id(40)), count: 5) }
    guard case .decision(_, .committed) = try tier.decide(id(50), worldSize: 3).0 else { Issue.record("not committed"); return }
    let why = try #require(try outcome(id(20)))
    #expect(why.contains("[1]") && why.contains("\(id(50))"))
    #expect(try outcome(id(30)) == nil, "rank 1 does not take part")
    #expect(try outcome(id(40)) == nil, "rank 1's manifest stands, and rank 2 made that save")
    #expect(try outcome(id(15, attempt: 1)) == nil && outcome(id(60)) == nil)
    #expect(try tier.steps().map(\.step) == [10, 50])
}

@Test func nothingIsVoidedByASaveThatIsNotCommitted() throws {
    let folder = try TierFolder()
    let tier = try TierHarness([folder.path])
    try tier.put(smallPart(save(20, attempt: 1), rank: 0, worldSize: 2), count: 2)
    try tier.put(smallPart(save(30, attempt: 1), rank: 1, worldSize: 2, previous: save(10, attempt: 1)))
    guard case .missing = try tier.decide(save(30, attempt: 1), worldSize: 2).0,
          case .missing = try tier.look(save(20, attempt: 1), worldSize: 2) else { Issue.record("decided"); return }
}

@Test func lookWithoutListsAsksForOneName() throws {
    let folder = try TierFolder()
    let tier = try TierHarness([folder.path])
    let id = save(10, attempt: 1)
    // What would be listed is not a folder: a look that lists fails there.
    try Files.makeFolders(folder.root, "1000/llama/attempts")
    try Files.writeNew(folder.root, "1000/llama/.saving-\(id)", [1])
    #expect(failureKind { _ = try tier.look(id) } == .io)
    guard case .missing(_, nil) = try tier.look(id, lists: false) else { Issue.record("not undecided"); return }
    try Files.unlink(folder.root, "1000/llama/.saving-\(id)")
    // It still completes a commit whose daemon ended before the rename.
    try tier.put(smallPart(id))
    _ = try tier.decide(id)
    try Files.rename(folder.root, from: "1000/llama/step-10.1-1", to: "1000/llama/.saving-\(id)")
    guard case .decision(_, .committed) = try tier.look(id, lists: false) else { Issue.record("not committed"); return }
    #expect(try folder.names("1000/llama").sorted() == ["attempts", "step-10.1-1"])
}
