import CairnIO
import CairnMessages
import CairnModel
import CairnStore
import Testing

@Test func retentionKeepsTheNewestThePinnedAndTheNamed() throws {
    let folder = try TierFolder()
    let tier = try TierHarness([folder.path])
    var files: [StagedFile] = []
    for count in 1...6 { files.append(try tier.commit(step: count * 100, count: count)) }
    _ = try tier.ask { .pin(id: $0, ref: tier.ref(files[0], count: 1), pinned: true) }
    #expect(try tier.steps().filter(\.pinned).map(\.step) == [100])
    _ = try tier.ask { .choose(id: $0, run: testRun, attempt: 2, restore: 1, step: 200, candidate: nil) }
    guard case .removed(_, let removed) = try tier.ask({
        .retain(id: $0, run: testRun, rules: RetentionRules(keep: 2), given: RetentionGiven(protectedSaves: [files[2].key.save], protectedSequences: [])) }).0 else { return }
    #expect(removed.map(\.sequence.count) == [4])
    #expect(try tier.steps().map(\.step) == [100, 200, 300, 500, 600])
    _ = try tier.ask { .pin(id: $0, ref: tier.ref(files[0], count: 1), pinned: false) }
    #expect(try tier.steps().filter(\.pinned).isEmpty)
    guard case .runs(_, let runs) = try tier.ask({ .runs(id: $0) }).0 else { return }
    #expect(runs.map(\.run) == [testRun] && runs[0].steps == 5 && runs[0].newest?.count == 6)
    guard case .space(_, let space) = try tier.ask({ .space(id: $0) }).0 else { return }
    #expect(space.count == 1 && space[0].freeBytes > 0)
}

/// Retention after one commit runs beside the next commit, whose folder has its first name until the decision is linked and synced.
@Test func retentionLeavesCommitsAloneThatAreBeingCompleted() throws {
    let folder = try TierFolder()
    let tier = try TierHarness([folder.path])
    let steps = 1...40
    for step in steps { try tier.put(try StagedFile([Shard(name: "w", dtype: "U8", shape: [5000])], save: save(step, attempt: 1), seed: 1), count: step) }
    for step in steps {
        try tier.send(.decide(id: 10_000 + step, run: testRun, save: save(step, attempt: 1), worldSize: 1, participants: nil, parent: nil))
        try tier.send(.retain(id: 20_000 + step, run: testRun, rules: RetentionRules(keep: 1000), given: nothingGiven))
    }
    for _ in 0..<2 * steps.count {
        switch try tier.next().0 {
        case .decision(_, .committed): continue
        case .removed(_, let removed): #expect(removed.isEmpty)
        case let other: Issue.record("\(other)")
        }
    }
    #expect(try tier.steps().map(\.step).sorted() == Array(steps))
    let left = try steps.flatMap { try folder.names("\(Names.runFolder(testRun))/\(Names.stepFolder(step: $0, sequence: CommitSequence(attempt: 1, count: $0)))") }
    #expect(!left.contains { $0.hasSuffix(".part") }, "temporaries of records in a committed step")
}

@Test func scanRemovesOnlyWhatThisNodesDeadWorkersLeft() throws {
    let folder = try TierFolder()
    let living = try TierHarness([folder.path], instance: "living", node: "n1")
    let file = try StagedFile([Shard(name: "w", dtype: "U8", shape: [100])], save: save(10, attempt: 1))
    try living.create(file, number: 1)
    let saving = "1000/llama/.saving-1-10-1"
    for name in [".rank-00001.n1.dead.1.part", ".rank-00002.n2.dead.1.part", ".rank-00003-abc.json.n1.young.7.part"] { try Files.writeNew(folder.root, "\(saving)/\(name)", [1]) }
    let starting = try TierHarness([folder.path], instance: "starting", node: "n1")
    guard case .scanned = try starting.ask({ .scan(id: $0) }).0 else { Issue.record("no scan"); return }
    #expect(Set(try folder.names(saving)) == [".rank-00000.n1.living.1.part", ".rank-00002.n2.dead.1.part", ".rank-00003-abc.json.n1.young.7.part"])
    try living.write(file, number: 1)
    try living.publish(file, number: 1)
    guard case .scanned(_, let found) = try starting.ask({ .scan(id: $0) }).0 else { return }
    #expect(found.map(\.key) == [file.key])
}
