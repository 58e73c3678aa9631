import CairnIO
import CairnMessages
import CairnModel
import CairnStore
import Testing

@Test(arguments: 0..<10) func ofVoidAndCommitExactlyOneStands(_ round: Int) throws {
    let folder = try TierFolder()
    let first = try TierHarness([folder.path], node: "a"), second = try TierHarness([folder.path], node: "b")
    let id = save(10, attempt: 1)
    try first.put(try StagedFile([Shard(name: "w", dtype: "U8", shape: [100])], save: id))
    try first.send(.decide(id: 500, run: testRun, save: id, worldSize: 1, participants: nil, parent: nil))
    try second.send(.void(id: 501, run: testRun, save: id, reason: "a rank cannot deliver"))
    guard case .decision(_, let left) = try first.next().0, case .decision(_, let right) = try second.next().0 else { Issue.record("no decision"); return }
    #expect(left == right, "I11: both are told the same")
    let committed = try first.steps().count == 1
    #expect(committed == { if case .committed = left { true } else { false } }())
}

@Test func voidSaveTakesNoMoreFilesAndIsRemoved() throws {
    let folder = try TierFolder()
    let tier = try TierHarness([folder.path])
    let id = save(10, attempt: 1)
    let file = try StagedFile([Shard(name: "w", dtype: "U8", shape: [100])], save: id)
    try tier.create(file, number: 1)
    try tier.write(file, number: 1)
    guard case .decision(_, .void(let reason)) = try tier.ask({ .void(id: $0, run: testRun, save: id, reason: "rank 3 died") }).0 else { Issue.record("not void"); return }
    #expect(reason == "rank 3 died")
    #expect(failureKind { try tier.create(file, number: 2) } == .ended)
    guard case .decision(_, .void) = try tier.decide(id).0 else { Issue.record("not void"); return }
    try tier.commit(step: 20, count: 2)
    _ = try tier.ask { .retain(id: $0, run: testRun, rules: RetentionRules(keep: 5), given: nothingGiven) }
    #expect(try !folder.names("1000/llama").contains(".saving-\(id)"))
    #expect(failureKind { try tier.publish(file, number: 1) } == .ended, "its folder was renamed away")
}

@Test func decideCompletesWhatACrashLeftHalfDone() throws {
    for stage in 0..<3 {
        let folder = try TierFolder()
        let id = save(10, attempt: 1)
        let file = try StagedFile([Shard(name: "w", dtype: "U8", shape: [100])], save: id)
        do {
            let tier = try TierHarness([folder.path])
            try tier.put(file)
            guard case .decision = try tier.decide(id).0 else { Issue.record("not decided"); return }
        }
        // Back to a state of the middle: decided, folder not renamed; without its record; or with the decision only.
        let run = "1000/llama"
        try Files.rename(folder.root, from: "\(run)/step-10.1-1", to: "\(run)/.saving-\(id)")
        if stage >= 1 { try Files.unlink(folder.root, "\(run)/.saving-\(id)/checkpoint.json") }
        let tier = try TierHarness([folder.path])
        switch stage {
        case 0: guard case .decision(_, .committed) = try tier.look(id, worldSize: 1) else { Issue.record("no"); return }
        case 1: guard case .scanned(_, let found) = try tier.ask({ .scan(id: $0) }).0 else { Issue.record("no"); return }; #expect(found.isEmpty)
        default: break
        }
        #expect(try tier.steps().map(\.step) == [10])
        #expect(try folder.names(run).sorted() == ["attempts", "step-10.1-1"])
        #expect(try tier.load(tier.ref(file, count: 1), [Box(name: "w")]) == [file.bytes(of: "w")])
    }
}

@Test func unsoundSavesAreVoidedWithTheReason() throws {
    func decided(_ files: [StagedFile], _ damage: (TierFolder, SaveID) throws -> Void = { _, _ in }) throws -> String {
        let folder = try TierFolder()
        let tier = try TierHarness([folder.path])
        for file in files { try tier.put(file) }
        try damage(folder, files[0].key.save)
        switch try tier.decide(files[0].key.save, worldSize: files.count).0 {
        case .decision(_, .void(let reason)): return reason
        case let other: return "\(other)"
        }
    }
    let id = save(10, attempt: 1)
    func part(_ rank: Int, _ shard: Shard, object: [UInt8]? = nil) throws -> StagedFile {
        try StagedFile([shard], objects: object.map { [(ObjectInfo(name: "epoch", scope: .shared, bytes: $0.count), $0)] } ?? [], save: id, rank: rank, worldSize: 2)
    }
    let whole = Shard(name: "w", dtype: "U8", shape: [100])
    #expect(try decided([part(0, whole), part(1, whole)]).contains("declare it replicas"))
    let half = Shard(name: "w", dtype: "U8", shape: [50], globalShape: [101], offsets: [0])
    let other = Shard(name: "w", dtype: "U8", shape: [50], globalShape: [101], offsets: [50])
    #expect(try decided([part(0, half), part(1, other)]).contains("leave 1"))
    let own = Shard(name: "w", dtype: "U8", shape: [100], isPrivate: true)
    #expect(try decided([part(0, own, object: [1]), part(1, own, object: [2])]).contains("object 'epoch' is shared"))
    let sound = try [part(0, own, object: [1]), part(1, own, object: [1])]
    #expect(try decided(sound).contains("committed"))
    let saving = "1000/llama/.saving-\(id)"
    #expect(try decided(sound) { folder, _ in try folder.flip("\(saving)/rank-00001.crc", at: 17) }.contains("rank 1"))
    #expect(try decided(sound) { folder, _ in
        let name = try #require(try folder.names(saving).first { $0.hasPrefix("rank-00001-") })
        try folder.flip("\(saving)/\(name)", at: 30)
    }.contains("rank 1"))
    #expect(try decided(sound) { folder, _ in
        try Files.truncate(try Files.open(folder.root, "\(saving)/rank-00000.safetensors", flags: [.read, .write]), bytes: 4100)
    }.contains("4100 bytes"))
    #expect(try decided(sound) { folder, _ in try folder.flip("\(saving)/rank-00000.safetensors", at: 200) }.contains("rank 0"))
}

/// One flipped bit in the decision of one save ends that save's story, not its run's.
@Test func damagedDecisionsStopNoListAndNoRestore() throws {
    let folder = try TierFolder()
    let tier = try TierHarness([folder.path])
    let id = save(10, attempt: 1)
    try tier.put(smallPart(id))
    _ = try tier.ask { .void(id: $0, run: testRun, save: id, reason: "x") }
    try tier.commit(step: 20, count: 2)
    try folder.flip("1000/llama/attempts/000001/\(id).json", at: 30)
    #expect(failureKind { _ = try tier.decide(id) } == .corrupt, "I11: it is not decided a second time")
    #expect(try tier.steps().map(\.step) == [20])
    guard case .choice(_, true, 20?, _, _, _) = try tier.ask({
        .choose(id: $0, run: testRun, attempt: 2, restore: 1, step: nil, candidate: nil) }).0 else { Issue.record("no choice"); return }
    guard case .removed = try tier.ask({ .retain(id: $0, run: testRun, rules: RetentionRules(keep: 1), given: nothingGiven) }).0,
          case .scanned = try tier.ask({ .scan(id: $0) }).0 else { Issue.record("no answer"); return }
}

/// A commit stands twice: where its decision is damaged the copy in the step's folder tells the same, whichever name that has.
@Test(arguments: ["step-10.1-1", ".saving-1-10-1"]) func aDamagedDecisionIsReadFromItsCopy(_ name: String) throws {
    let folder = try TierFolder(), id = save(10, attempt: 1), run = "1000/llama", decision = "\(run)/attempts/000001/\(id).json"
    let tier = try TierHarness([folder.path])
    try tier.put(try StagedFile([Shard(name: "w", dtype: "U8", shape: [100])], save: id))
    guard case .decision(_, let told) = try tier.decide(id).0, case .committed = told else { Issue.record("not committed"); return }
    try Files.rename(folder.root, from: "\(run)/step-10.1-1", to: "\(run)/\(name)")
    try Files.unlink(folder.root, decision)
    try Files.writeNew(folder.root, decision, Array("{".utf8), mode: 0o600)
    for reply in [try tier.look(id, worldSize: 1), try tier.ask({ .void(id: $0, run: testRun, save: id, reason: "late") }).0] {
        guard case .decision(_, told) = reply else { Issue.record("told otherwise: \(reply)"); return }
    }
    #expect(try folder.names(run).contains("step-10.1-1"), "whoever reads it completes it")
    #expect(try tier.verify(StepRef(run: testRun, step: 10, sequence: CommitSequence(attempt: 1, count: 1), save: nil)).compactMap(\.badPath) == ["\(folder.path)/\(decision)"])
    // Without the copy nobody knows, and nothing is decided anew.
    try Files.unlink(folder.root, "\(run)/step-10.1-1/checkpoint.json")
    #expect(failureKind { _ = try tier.look(id, worldSize: 1) } == .corrupt)
    #expect(failureKind { _ = try tier.ask { .void(id: $0, run: testRun, save: id, reason: "late") } } == .corrupt)
    #expect(try Files.readAll(folder.root, decision, limit: StoreLimits.recordBytes) == Array("{".utf8))
}
