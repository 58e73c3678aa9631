import CairnIO
import CairnMessages
import CairnModel
import CairnStore
import Testing

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
    #expect(try Record.decode(DecisionCopy.self, from: record).decision.save == id)
    let steps = try tier.steps()
    #expect(steps.map(\.step) == [100] && steps[0].bytes == file.bytes.count)

    let run = "1000/llama", step = "\(run)/step-100.1-1"
    #expect(Set(try folder.names(run)) == ["attempts", "step-100.1-1"], "no temporary is left")
    let names = try folder.names(step)
    #expect(names.count == 6 && names.contains("checkpoint.json") && names.contains("rank-00000.safetensors") && names.contains("rank-00000.crc"))
    #expect(try Files.readAll(folder.root, "\(step)/rank-00000.safetensors", limit: 1 << 30) == file.bytes)

    let ref = tier.ref(file, count: 1)
    let (_, index) = try tier.ask { .describe(id: $0, ref: ref) }
    #expect(try StepIndexFile.decode(index).ranks == [file.plan.table])
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
    guard case .missing(_, let none) = try second.look(id, worldSize: 2) else { Issue.record("decided early"); return }
    #expect(none?.isEmpty == true)
    guard case .decision(_, .committed) = try first.decide(id, worldSize: 2).0,
          case .decision(_, .committed) = try second.look(id, worldSize: 2),
          case .decision(_, .committed) = try second.ask({ .void(id: $0, run: testRun, save: id, reason: "late") }).0 else { Issue.record("not committed"); return }
    // Rank 1 asks for rows of both ranks' parts.
    let whole = try #require(try largeFile(id, rank: 0, worldSize: 2).bytes(of: "big")) + #require(try largeFile(id, rank: 1, worldSize: 2).bytes(of: "big"))
    let ref = StepRef(run: testRun, step: 10, sequence: CommitSequence(attempt: 1, count: 1), save: nil)
    #expect(try second.load(ref, [Box(name: "big", offsets: [2999, 0], shape: [2, 1000])]) == [Array(whole[2999 * 4000..<3001 * 4000])])
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

@Test(arguments: [TierMode(), TierMode(ring: .off)]) func whatIsInFewRunsIsReadIntoTheLease(_ mode: TierMode) throws {
    let folder = try TierFolder(on: mode.base), tier = try TierHarness([folder.path], mode: mode)
    let rows = 2300, shards = [Shard(name: "a", dtype: "U8", shape: [100]), Shard(name: "big", dtype: "F32", shape: [rows, 1000]), Shard(name: "z", dtype: "U8", shape: [7])]
    let file = try StagedFile(shards, save: save(3))                // two chunks, and a last block that is not whole
    try tier.put(file)
    _ = try tier.decide(file.key.save)
    let ref = tier.ref(file, count: 1), whole = try #require(file.bytes(of: "big"))
    #expect(try tier.load(ref, [Box(name: "big"), Box(name: "a"), Box(name: "z")]) == [whole, file.bytes(of: "a"), file.bytes(of: "z")] && tier.wasReadIntoLease)
    // Out of order, twice, one within another, and nothing.
    #expect(try tier.load(ref, [Box(name: "z"), Box(name: "big", offsets: [2000, 0], shape: [290, 1000]), Box(name: "big", offsets: [10, 0], shape: [0, 1000]),
                                Box(name: "z"), Box(name: "big", offsets: [2090, 0], shape: [5, 1000])])
        == [file.bytes(of: "z"), Array(whole[2000 * 4000..<2290 * 4000]), [], file.bytes(of: "z"), Array(whole[2090 * 4000..<2095 * 4000])] && tier.wasReadIntoLease)
    // A few rows' ends lie in few blocks; each row's would take more room than the lease has.
    #expect(try tier.load(ref, [Box(name: "big", offsets: [0, 990], shape: [50, 10])])[0].count == 2000 && tier.wasReadIntoLease)
    #expect(try tier.load(ref, [Box(name: "big", offsets: [0, 990], shape: [rows, 10])], segmentBytes: 2 << 20)[0].count == rows * 40 && !tier.wasReadIntoLease)
    #expect(try tier.load(ref, [Box(name: "big", offsets: [60, 0], shape: [255, 1000])], segmentBytes: 1 << 20)[0].count == 1_020_000 && !tier.wasReadIntoLease)
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
    let (reply, record) = try global.decide(id, ranks: [0])
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

@Test func answerBeyondOneMessageFailsAndTheWorkerGoesOn() throws {
    let folder = try TierFolder()
    let tier = try TierHarness([folder.path], messageBytes: 2000)
    for step in 1...3 { try tier.commit(step: step, count: step) }
    #expect(try tier.steps().count == 3)
    for step in 4...20 { try tier.commit(step: step, count: step) }
    do {
        _ = try tier.steps()
        Issue.record("an answer of more than its limit was sent")
    } catch let failure as TierFailure {
        #expect(failure.kind == .tooLarge && failure.available == 2000 && failure.needed ?? 0 > 2000)
    }
    guard case .done = try tier.ask({ .pin(id: $0, ref: StepRef(run: testRun, step: 20, sequence: CommitSequence(attempt: 1, count: 20), save: nil), pinned: true) }).0
    else { Issue.record("no answer"); return }
}
