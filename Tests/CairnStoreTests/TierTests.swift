import CairnIO
import CairnMessages
import CairnModel
import CairnStore
import Testing

/// Several chunks, several dtypes, objects, an odd end.
private func largeFile(_ id: SaveID, rank: Int = 0, worldSize: Int = 1) throws -> StagedFile {
    try StagedFile([
        Shard(name: "big", dtype: "F32", shape: [3000, 1000], globalShape: [3000 * worldSize, 1000], offsets: [3000 * rank, 0]),
        Shard(name: "odd", dtype: "U8", shape: [1_234_567], isPrivate: true), Shard(name: "empty", dtype: "F16", shape: [0], isPrivate: true),
        Shard(name: "scalar", dtype: "I64", shape: [], isPrivate: true),
    ], objects: [(ObjectInfo(name: "rng", scope: .rank, bytes: 777), [UInt8](repeating: UInt8(rank), count: 777)),
                 (ObjectInfo(name: "epoch", scope: .shared, bytes: 1), [7])], save: id, rank: rank, worldSize: worldSize, seed: 7)
}

@Test(arguments: TierMode.all) func saveLivesFromCreateToRemoval(_ mode: TierMode) throws {
    let folder = try TierFolder(on: mode.base)
    let tier = try TierHarness([folder.path], mode: mode)
    try #require(tier.startFailure == nil)
    #expect(tier.ring == (mode.ring != .off) || !tier.notes.isEmpty)
    let id = save(100, attempt: 1)
    let file = try largeFile(id)
    try tier.put(file)
    #expect(try tier.steps().isEmpty, "I2: nothing is visible before the decision")
    let (reply, record) = try tier.decide(id)
    guard case .decision(_, .committed(let sequence)) = reply else { Issue.record("\(reply)"); return }
    #expect(sequence == CommitSequence(attempt: 1, count: 1))
    #expect(try Record.decode(DecisionRecord.self, from: record).save == id)
    let steps = try tier.steps()
    #expect(steps.map(\.step) == [100] && steps[0].bytes == file.bytes.count)

    let run = "1000/llama", step = "\(run)/step-100.1-1"
    #expect(Set(try folder.names(run)) == ["attempts", "step-100.1-1"], "no temporary is left")
    let names = try folder.names(step)
    #expect(names.count == 5 && names.contains("checkpoint.json") && names.contains("rank-00000.safetensors") && names.contains("rank-00000.crc"))
    #expect(try Files.readAll(folder.root, "\(step)/rank-00000.safetensors", limit: 1 << 30) == file.bytes)

    let ref = tier.ref(file, count: 1)
    let (_, index) = try tier.ask { .describe(id: $0, ref: ref) }
    #expect(try MessageCoding.decode(StepIndex.self, from: index).ranks == [file.plan.table])
    let loaded = try tier.load(ref, [Box(name: "big"), Box(name: "odd", rank: 0), Box(name: "empty", rank: 0), Box(name: "rng", rank: 0), Box(name: "epoch"),
                                     Box(name: "scalar", rank: 0)])
    #expect(loaded == [file.bytes(of: "big"), file.bytes(of: "odd"), [], file.bytes(of: "rng"), [7], file.bytes(of: "scalar")])
    // A narrow box: columns 10..<13 of rows 2990..<3000.
    let big = try #require(file.bytes(of: "big"))
    var expected: [UInt8] = []
    for row in 2990..<3000 {
        let begin: Int = (row * 1000 + 10) * 4
        expected += big[begin..<begin + 12]
    }
    #expect(try tier.load(ref, [Box(name: "big", offsets: [2990, 10], shape: [10, 3])]) == [expected])
    #expect(try tier.verify(ref).isEmpty)

    // The newest stays; once there is a newer one, it may go.
    #expect(failureKind { _ = try tier.ask { .remove(id: $0, ref: ref) } } == .invalid)
    try tier.commit(step: 200, count: 2)
    _ = try tier.ask { .remove(id: $0, ref: ref) }
    #expect(try tier.steps().map(\.step) == [200])
    #expect(failureKind { _ = try tier.load(ref, [Box(name: "big")]) } == .noSuchStep)
    #expect(try folder.names(run).contains { $0.hasPrefix(".gone-") }, "its bytes stay for those who read in it")
}

@Test func twoDaemonsCommitOnlyWhenBothRanksAreIn() throws {
    let folder = try TierFolder()
    let first = try TierHarness([folder.path], node: "a"), second = try TierHarness([folder.path], node: "b")
    let id = save(10, attempt: 1)
    try first.put(try largeFile(id, rank: 0, worldSize: 2))
    guard case .missing(_, let ranks) = try first.decide(id, worldSize: 2).0 else { Issue.record("decided early"); return }
    #expect(ranks == [1])
    try second.put(try largeFile(id, rank: 1, worldSize: 2))
    guard case .missing(_, let none) = try second.ask({ .look(id: $0, run: testRun, save: id, worldSize: 2) }).0 else { Issue.record("decided early"); return }
    #expect(none.isEmpty)
    guard case .decision(_, .committed) = try first.decide(id, worldSize: 2).0,
          case .decision(_, .committed) = try second.ask({ .look(id: $0, run: testRun, save: id, worldSize: 2) }).0,
          case .decision(_, .committed) = try second.ask({ .void(id: $0, run: testRun, save: id, reason: "late") }).0 else { Issue.record("not committed"); return }
    // Rank 1 asks for rows of both ranks' parts.
    let whole = try #require(try largeFile(id, rank: 0, worldSize: 2).bytes(of: "big")) + #require(try largeFile(id, rank: 1, worldSize: 2).bytes(of: "big"))
    let ref = StepRef(run: testRun, step: 10, sequence: CommitSequence(attempt: 1, count: 1), save: nil)
    #expect(try second.load(ref, [Box(name: "big", offsets: [2999, 0], shape: [2, 1000])]) == [Array(whole[2999 * 4000..<3001 * 4000])])
}

@Test(arguments: 0..<10) func ofVoidAndCommitExactlyOneStands(_ round: Int) throws {
    let folder = try TierFolder()
    let first = try TierHarness([folder.path], node: "a"), second = try TierHarness([folder.path], node: "b")
    let id = save(10, attempt: 1)
    try first.put(try StagedFile([Shard(name: "w", dtype: "U8", shape: [100])], save: id))
    try first.send(.decide(id: 500, run: testRun, save: id, worldSize: 1, parent: nil))
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
    _ = try tier.ask { .retain(id: $0, run: testRun, keep: 5, keepPeriod: nil, protectedSaves: [], protectedSequences: []) }
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
        case 0: guard case .decision(_, .committed) = try tier.ask({ .look(id: $0, run: testRun, save: id, worldSize: 1) }).0 else { Issue.record("no"); return }
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

@Test func flippedAndLostBytesAreFoundByLoadAndVerify() throws {
    let folder = try TierFolder()
    let tier = try TierHarness([folder.path])
    let id = save(10, attempt: 1)
    let file = try largeFile(id)
    try tier.put(file)
    _ = try tier.decide(id)
    let path = "1000/llama/step-10.1-1/rank-00000.safetensors"
    try folder.flip(path, at: 5 * Sizes.blockBytes + 3)
    let ref = tier.ref(file, count: 1)
    do {
        _ = try tier.load(ref, [Box(name: "big")])
        Issue.record("I7: a flipped byte was handed over")
    } catch let failure as TierFailure {
        #expect(failure.kind == .corrupt && failure.block == 5 && failure.path == "\(folder.path)/\(path)")
    }
    #expect(try tier.load(ref, [Box(name: "odd", rank: 0)]) == [file.bytes(of: "odd")], "what is sound is still read")
    #expect(try tier.verify(ref).map(\.badBlock) == [5])
    try folder.flip(path, at: 5 * Sizes.blockBytes + 3)
    #expect(try tier.verify(ref).isEmpty)
    let handle = try Files.open(folder.root, path, flags: [.read, .write])
    try Files.truncate(handle, bytes: 9 << 20)
    #expect(failureKind { _ = try tier.load(ref, [Box(name: "odd", rank: 0)]) } == .corrupt)
    #expect(try !tier.verify(ref).isEmpty)
    tier.stop()
    let fresh = try TierHarness([folder.path])
    #expect(failureKind { _ = try fresh.load(ref, [Box(name: "odd", rank: 0)]) } == .corrupt, "the size alone tells")
}

@Test func loadsThatCannotBeAreRefused() throws {
    let folder = try TierFolder()
    let tier = try TierHarness([folder.path])
    let file = try tier.commit(step: 10, count: 1)
    let ref = tier.ref(file, count: 1)
    #expect(failureKind { _ = try tier.load(ref, [Box(name: "v")]) } == .noSuchTensor)
    #expect(failureKind { _ = try tier.load(ref, [Box(name: "w", offsets: [1], shape: [5000])]) } == .invalid)
    #expect(failureKind { _ = try tier.load(ref, [Box(name: "w")], segmentBytes: 100) } == .tooLarge)
    #expect(failureKind { _ = try tier.load(StepRef(run: testRun, step: 10, sequence: CommitSequence(attempt: 1, count: 2), save: nil), [Box(name: "w")]) } == .noSuchStep)
}

@Test func takenNamesAreAcceptedOnlyIfTheyVerify() throws {
    let folder = try TierFolder()
    let tier = try TierHarness([folder.path])
    let id = save(10, attempt: 1)
    let file = try StagedFile([Shard(name: "w", dtype: "U8", shape: [600_000])], save: id)
    try tier.put(file)
    try tier.put(file)                                          // the same again: an earlier worker's, whose reply was lost
    let saving = "1000/llama/.saving-\(id)"
    try Files.unlink(folder.root, "\(saving)/rank-00000.crc")   // ended between the two links: the bytes are read
    try tier.put(file)
    let other = try StagedFile([Shard(name: "w", dtype: "U8", shape: [600_000])], save: id, seed: 2)
    #expect(failureKind { try tier.put(other) } == .corrupt)
    try Files.unlink(folder.root, "\(saving)/rank-00000.crc")
    let third = try TierHarness([folder.path])                 // another try, by another instance
    #expect(failureKind { try third.put(other) } == .corrupt)
    #expect(try folder.names(saving).filter { $0.hasSuffix(".safetensors") } == ["rank-00000.safetensors"])
}

@Test func abandonedFilesLeaveNothing() throws {
    let folder = try TierFolder()
    let tier = try TierHarness([folder.path])
    let file = try StagedFile([Shard(name: "w", dtype: "U8", shape: [100])], save: save(10, attempt: 1))
    try tier.create(file, number: 1)
    try tier.send(.abandon(file: 1))
    #expect(failureKind { try tier.write(file, number: 1) } == .other)
    // An abandon that overtakes its create.
    try tier.send(.create(id: 900, file: 2, key: file.key, fileTry: 2, bytes: file.plan.fileBytes))
    try tier.send(.abandon(file: 2))
    _ = try tier.next()
    tier.stop()
    #expect(try folder.names("1000/llama/.saving-1-10-1").isEmpty)
}

@Test func fullTierSaysWhatIsNeeded() throws {
    let folder = try TierFolder()
    let tier = try TierHarness([folder.path], reserve: 1 << 60)
    let file = try StagedFile([Shard(name: "w", dtype: "U8", shape: [100])], save: save(10, attempt: 1))
    do {
        try tier.create(file, number: 1)
        Issue.record("was created")
    } catch let failure as TierFailure {
        #expect(failure.kind == .noSpace && (failure.needed ?? 0) > 1 << 60 && (failure.available ?? 0) > 0)
    }
}

@Test func startsSayWhatIsWrong() throws {
    let folder = try TierFolder()
    #expect(try TierHarness(["\(folder.path)/no/such"]).startFailure?.text.contains("mount") == true)
    #expect(try TierHarness(["\(folder.path)/made"]).startFailure == nil, "the tier's own folder is made")
    let first = try TierHarness(["\(folder.path)/l"], form: .beside, tier: .local)
    #expect(first.startFailure == nil)
    #expect(try TierHarness(["\(folder.path)/l"], form: .beside, tier: .local).startFailure?.text.contains("another cairnd") == true)
    try Files.writeNew(folder.root, "plain", [1])
    #expect(try TierHarness(["\(folder.path)/plain"]).startFailure != nil)
    first.stop()
    #expect(try TierHarness(["\(folder.path)/l"], form: .beside, tier: .local).startFailure == nil, "the lock ends with its worker")
}

@Test func attemptsAreNumberedOncePerLaunch() throws {
    let folder = try TierFolder()
    let first = try TierHarness([folder.path], node: "a"), second = try TierHarness([folder.path], node: "b")
    func number(_ tier: TierHarness, _ token: String) throws -> Int? {
        guard case .attempt(_, let number) = try tier.ask({ .numberAttempt(id: $0, run: testRun, tokenHash: token, worldSize: 2) }).0 else { return nil }
        return number
    }
    func find(_ token: String) throws -> Int? {
        guard case .attempt(_, let number) = try second.ask({ .findAttempt(id: $0, run: testRun, tokenHash: token) }).0 else { return nil }
        return number
    }
    #expect(try find("t1") == nil)
    #expect(try number(first, "t1") == 1)
    #expect(try number(second, "t2") == 2)
    #expect(try number(second, "t1") == 1)
    #expect(try find("t2") == 2)
    guard case .attempt(_, let newest) = try first.ask({ .newestAttempt(id: $0, run: testRun) }).0 else { return }
    #expect(newest == 2)
    #expect(failureKind { _ = try first.ask { .numberAttempt(id: $0, run: testRun, tokenHash: "t1", worldSize: 3) } } == .invalid)
    // Both at once, another token each time.
    for round in 0..<10 {
        try first.send(.numberAttempt(id: 700, run: testRun, tokenHash: "x\(round)", worldSize: 2))
        try second.send(.numberAttempt(id: 701, run: testRun, tokenHash: "y\(round)", worldSize: 2))
        guard case .attempt(_, let left?) = try first.next().0, case .attempt(_, let right?) = try second.next().0 else { Issue.record("no number"); return }
        #expect(left != right)
    }
}

@Test func ranksAgreeOnTheNewestStepAndGoBackTogether() throws {
    let folder = try TierFolder()
    let first = try TierHarness([folder.path], node: "a"), second = try TierHarness([folder.path], node: "b")
    func choose(_ tier: TierHarness, _ restore: Int, attempt: Int = 3, step: Int? = nil, candidate: Candidate? = nil) throws -> (step: Int?, level: Level?) {
        guard case .choice(_, true, let step, _, _, let level) = try tier.ask({
            .choose(id: $0, run: testRun, attempt: attempt, restore: restore, step: step, candidate: candidate) }).0 else { throw TierFailure(kind: .other, text: "no choice") }
        return (step, level)
    }
    #expect(try choose(first, 1, attempt: 1).step == nil, "nothing to restore")
    try first.commit(step: 1300, count: 1)
    try first.commit(step: 1200, count: 2)
    try first.commit(step: 1400, count: 3)
    try first.commit(step: 1250, attempt: 2, count: 1, parent: CommitSequence(attempt: 1, count: 2))
    guard case .choice(_, let chosen, _, _, _, _) = try second.ask({ .readChoice(id: $0, run: testRun, attempt: 3, restore: 1) }).0 else { return }
    #expect(!chosen)
    #expect(try choose(first, 1).step == 1250)
    #expect(try choose(second, 1, step: 1300).step == 1250, "the first choice stands for every daemon (I12)")
    guard case .choice(_, true, let read, _, _, _) = try second.ask({ .readChoice(id: $0, run: testRun, attempt: 3, restore: 1) }).0 else { Issue.record("not chosen"); return }
    #expect(read == 1250)

    // Settling: rank 0 could, rank 1 could not: again, older, and not the superseded 1400.
    func verdict(_ restore: Int, force: Bool = false) throws -> Bool? {
        guard case .verdict(_, let ok, _) = try first.ask({ .verdict(id: $0, run: testRun, attempt: 3, restore: restore, worldSize: 2, publish: true, force: force) }).0 else { return nil }
        return ok
    }
    _ = try first.ask { .settled(id: $0, run: testRun, attempt: 3, restore: 1, ranks: [0], ok: true, reason: nil) }
    #expect(try verdict(1) == nil)
    _ = try second.ask { .settled(id: $0, run: testRun, attempt: 3, restore: 1, ranks: [1], ok: false, reason: "corrupt") }
    #expect(try verdict(1) == false)
    #expect(try choose(second, 2).step == 1200)
    _ = try first.ask { .settled(id: $0, run: testRun, attempt: 3, restore: 2, ranks: [0], ok: true, reason: nil) }
    _ = try second.ask { .settled(id: $0, run: testRun, attempt: 3, restore: 2, ranks: [1], ok: true, reason: nil) }
    #expect(try verdict(2) == true)
    #expect(try choose(first, 3, step: 1300).step == 1300, "after a good restore all are there again")
    // A failure counts also before the verdict stands.
    _ = try first.ask { .settled(id: $0, run: testRun, attempt: 3, restore: 3, ranks: [0], ok: false, reason: "corrupt") }
    #expect(try choose(first, 4, step: 1200).step == nil, "nothing with that number is older than what failed")
    // By number also a superseded step; a newer candidate that every rank holds comes first.
    #expect(try choose(first, 1, attempt: 4, step: 1400).step == 1400)
    let candidate = Candidate(step: 1260, sequence: CommitSequence(attempt: 2, count: 2), save: save(1260, attempt: 2), level: .staged)
    let best = try choose(first, 1, attempt: 5, candidate: candidate)
    #expect(best.step == 1260 && best.level == .staged)
    #expect(try verdict(7, force: true) == false)
}

@Test func retentionKeepsTheNewestThePinnedAndTheNamed() throws {
    let folder = try TierFolder()
    let tier = try TierHarness([folder.path])
    var files: [StagedFile] = []
    for count in 1...6 { files.append(try tier.commit(step: count * 100, count: count)) }
    _ = try tier.ask { .pin(id: $0, ref: tier.ref(files[0], count: 1), pinned: true) }
    #expect(try tier.steps().filter(\.pinned).map(\.step) == [100])
    _ = try tier.ask { .choose(id: $0, run: testRun, attempt: 2, restore: 1, step: 200, candidate: nil) }
    guard case .removed(_, let removed) = try tier.ask({
        .retain(id: $0, run: testRun, keep: 2, keepPeriod: nil, protectedSaves: [files[2].key.save], protectedSequences: []) }).0 else { return }
    #expect(removed.map(\.count) == [4])
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
        try tier.send(.decide(id: 10_000 + step, run: testRun, save: save(step, attempt: 1), worldSize: 1, parent: nil))
        try tier.send(.retain(id: 20_000 + step, run: testRun, keep: 1000, keepPeriod: nil, protectedSaves: [], protectedSequences: []))
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

@Test func localTierBesideServesItsRanksAndProvesCommits() throws {
    let drives = [try TierFolder(), try TierFolder()], remote = try TierFolder()
    let local = try TierHarness(drives.map(\.path), form: .beside, tier: .local), global = try TierHarness([remote.path])
    let id = save(10, attempt: 1)
    let file = try largeFile(id)
    try local.put(file)
    let ref = local.ref(file, count: 1)
    #expect(failureKind { _ = try local.load(ref, [Box(name: "big")]) } == .notHere, "not committed as far as this tier knows")
    #expect(try local.load(ref, [Box(name: "big")], undecided: true) == [file.bytes(of: "big")])
    guard case .scanned(_, let found) = try local.ask({ .scan(id: $0) }).0 else { return }
    #expect(found.map(\.key) == [file.key] && found[0].count == 1 && found[0].decision == nil && found[0].fileBytes == file.bytes.count)

    // On to the global tier from the local copy, chunk by chunk.
    guard case .sidecars(_, let name, let manifestBytes) = try local.ask({ .sidecars(id: $0, key: file.key) }).0 else { return }
    #expect(name == file.manifest().name && manifestBytes == file.manifest().record.count)
    try global.send(.peerBuffer(instance: "L", bytes: local.buffer.bytes), descriptors: [local.buffer.descriptor])
    try global.create(file, number: 5)
    for chunk in 0..<Sizes.chunks(ofFile: file.bytes.count) {
        let bytes = Sizes.bytes(ofChunk: chunk, fileBytes: file.bytes.count), slot = local.bufferSlots + chunk % 4
        _ = try local.ask { .readBack(id: $0, key: file.key, chunk: chunk, bytes: bytes, bufferSlot: slot) }
        _ = try global.ask { .write([ChunkWrite(id: $0, file: 5, chunk: chunk, bytes: bytes, source: .peer(instance: "L", slot: slot))]) }
    }
    try global.publish(file, number: 5)
    let (reply, record) = try global.decide(id)
    guard case .decision(_, .committed) = reply else { Issue.record("\(reply)"); return }
    _ = try local.ask(payload: record) { .recordDecision(id: $0, run: testRun, save: id) }
    #expect(try local.steps().map(\.save) == [id])
    #expect(try local.load(ref, [Box(name: "big"), Box(name: "rng", rank: 0)]) == [file.bytes(of: "big"), file.bytes(of: "rng")])
    #expect(try global.load(ref, [Box(name: "big")]) == [file.bytes(of: "big")])
    #expect(try local.verify(ref).isEmpty)
    #expect(failureKind { _ = try global.ask { .write([ChunkWrite(id: $0, file: 5, chunk: 0, bytes: 1, source: .peer(instance: "old", slot: 0))]) } } == .other)

    // A flipped byte is caught when read back, and by a load.
    let drive = try #require(drives.first { (try? $0.names("1000/llama").contains { $0.hasSuffix(".safetensors") }) == true })
    try drive.flip("1000/llama/\(Names.besideData(id, rank: 0))", at: 9 << 20)
    #expect(failureKind { _ = try local.ask { .readBack(id: $0, key: file.key, chunk: 1, bytes: Sizes.bytes(ofChunk: 1, fileBytes: file.bytes.count), bufferSlot: 2) } } == .corrupt)
    #expect(failureKind { _ = try local.load(ref, [Box(name: "big")]) } == .corrupt)

    _ = try local.ask { .remove(id: $0, ref: ref) }
    #expect(try local.steps().isEmpty)
    for drive in drives { #expect(try !drive.names("").contains("1000") || drive.names("1000/llama").filter { $0.hasPrefix("1-10") }.isEmpty) }
}

@Test func localRetentionDropsOldAndEndedSavesOnly() throws {
    let drive = try TierFolder(), remote = try TierFolder()
    let local = try TierHarness([drive.path], form: .beside, tier: .local), global = try TierHarness([remote.path])
    func put(_ step: Int, _ count: Int, decision: Decision?) throws -> StagedFile {
        let file = try StagedFile([Shard(name: "w", dtype: "U8", shape: [100])], save: save(step, attempt: 1))
        try local.put(file, count: count)
        switch decision {
        case .commit?:
            try global.put(file, count: count)
            let (_, record) = try global.decide(file.key.save)
            _ = try local.ask(payload: record) { .recordDecision(id: $0, run: testRun, save: file.key.save) }
        case .void(let reason)?:
            let (_, record) = try global.ask { .void(id: $0, run: testRun, save: file.key.save, reason: reason) }
            _ = try local.ask(payload: record) { .recordDecision(id: $0, run: testRun, save: file.key.save) }
        case nil: break
        }
        return file
    }
    let anyCommit = Decision.commit(commit())
    for (step, decision) in [(1, anyCommit), (2, .void(reason: "x")), (3, anyCommit), (4, anyCommit)] { _ = try put(step, step, decision: decision) }
    let unfinished = try put(5, 5, decision: nil)
    func held() throws -> [Int] {
        Set(try drive.names("1000/llama").compactMap { Names.besideFile($0)?.save.step }).sorted()
    }
    func retain() throws { _ = try local.ask { .retain(id: $0, run: testRun, keep: 2, keepPeriod: nil, protectedSaves: [unfinished.key.save], protectedSequences: []) } }
    try retain()
    #expect(try held() == [2, 3, 4, 5], "nothing undecided or void is dropped before a scan")
    _ = try local.ask { .scan(id: $0) }
    try retain()
    #expect(try held() == [3, 4, 5])
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
