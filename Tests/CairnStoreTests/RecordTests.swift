import CairnModel
import CairnStore
import Testing

@Test func recordsRoundTrip() throws {
    for rank in [0, 1] {
        let value = manifest(rank: rank)
        #expect(try Record.decode(Manifest.self, from: Record.encode(value)) == value)
    }
    for decision in [Decision.commit(commit()), .void(reason: "rank 3 cannot deliver")] {
        let value = DecisionRecord(run: testRun, save: save(), decision)
        let read = try Record.decode(DecisionRecord.self, from: Record.encode(value))
        #expect(read == value && read.decision == decision)
    }
    let attempt = AttemptRecord(run: testRun, number: 17, tokenHash: "abc", worldSize: 2, node: "n", startedAt: "2026-01-02T03:04:05Z")
    #expect(try Record.decode(AttemptRecord.self, from: Record.encode(attempt)) == attempt)
    let choice = RestoreChoice(attempt: 17, restore: 3, step: 1200, sequence: CommitSequence(attempt: 16, count: 2), save: save(attempt: 16), level: .committed)
    #expect(try Record.decode(RestoreChoice.self, from: Record.encode(choice)) == choice)
    let nothing = RestoreChoice(attempt: 17, restore: 3, step: nil, sequence: nil, save: nil, level: nil)
    #expect(try Record.decode(RestoreChoice.self, from: Record.encode(nothing)) == nothing)
    let settled = SettleRecord(node: "n", attempt: 17, restore: 3, ranks: [0, 1], ok: true, reason: nil)
    #expect(try Record.decode(SettleRecord.self, from: Record.encode(settled)) == settled)
    let verdict = SettleVerdict(attempt: 17, restore: 3, ok: false, reason: "rank 1: corrupt")
    #expect(try Record.decode(SettleVerdict.self, from: Record.encode(verdict)) == verdict)
}

@Test func equalRecordsHaveEqualBytes() {
    #expect(Record.encode(manifest()) == Record.encode(manifest()))
    #expect(String(decoding: Record.encode(manifest()), as: UTF8.self).hasSuffix("\"}\n"))
}

@Test func recordCutAnywhereDoesNotOpen() {
    let record = Record.encode(manifest())
    for length in 0..<record.count {
        #expect(throws: RecordError.self) { try Record.decode(Manifest.self, from: Array(record.prefix(length))) }
    }
}

@Test func recordWithAnyByteFlippedDoesNotOpen() {
    let record = Record.encode(manifest())
    for index in record.indices {
        var flipped = record
        flipped[index] ^= 1
        #expect(throws: RecordError.self) { try Record.decode(Manifest.self, from: flipped) }
    }
}

@Test func recordWithBytesAddedDoesNotOpen() {
    let record = Record.encode(manifest())
    #expect(throws: RecordError.noDigest) { try Record.open(record + [10]) }
    #expect(throws: RecordError.digestMismatch) { try Record.open([32] + record) }
}

@Test func recordOfAnotherFormatIsRefused() throws {
    let json = String(decoding: try Record.open(Record.encode(manifest())), as: UTF8.self)
    let other = Record.seal(Array(json.replacing("cairn-1", with: "cairn-9").utf8))
    #expect(throws: RecordError.wrongFormat(found: "cairn-9")) { try Record.decode(Manifest.self, from: other) }
}

@Test(arguments: [
    ("\"attempt\":17", "\"attempt\":18"), ("\"step\":1200", "\"step\":1201"), ("\"rank\":0", "\"rank\":1"), ("\"rank\":0", "\"rank\":2"),
    ("\"count\":41,", ""), ("\"count\":41", "\"count\":0"), ("\"blockCount\":2", "\"blockCount\":3"), ("\"dataStart\":4096", "\"dataStart\":4097"),
    ("\"fileBytes\":300000", "\"fileBytes\":100"), ("\"run\":\"llama\"", "\"run\":\"..\""), ("\"crcDigest\":\"", "\"crcDigest\":\"x"),
]) func manifestThatContradictsItselfIsRefused(text: String, replacement: String) throws {
    let json = String(decoding: try Record.open(Record.encode(manifest())), as: UTF8.self)
    try #require(json.contains(text))
    let lying = Record.seal(Array(json.replacing(text, with: replacement, maxReplacements: 1).utf8))
    do throws(RecordError) {
        _ = try Record.decode(Manifest.self, from: lying)
        Issue.record("was accepted")
    } catch {
        guard case .inconsistent = error else { Issue.record("\(error)"); return }
    }
}

@Test(arguments: [
    ("\"participants\":[0,2]", "\"participants\":[2,0]"), ("\"participants\":[0,2]", "\"participants\":[1,2]"), ("\"participants\":[0,2]", "\"participants\":[0,3]"),
    ("\"participants\":[0,2]", "\"participants\":[0,1,2]"), ("\"participants\":[0,2]", "\"participants\":[]"), ("\"sequence\":\"17-41\"", "\"sequence\":\"18-41\""),
    ("\"parent\":\"16-9\"", "\"parent\":\"17-41\""), ("\"bytes\":600000", "\"bytes\":-1"), ("\"bytes\":600000", "\"bytes\":60000000000000000"), ("\"worldSize\":3", "\"worldSize\":2"),
    ("\"manifestsDigest\":\"", "\"manifestsDigest\":\"x"), ("layout-b", "layout-x"), ("\"verdict\":\"commit\"", "\"verdict\":\"void\""),
    ("\"step\":1200", "\"step\":1300"),
]) func commitThatContradictsItselfIsRefused(text: String, replacement: String) throws {
    let record = Record.encode(DecisionRecord(run: testRun, save: save(), .commit(commit(worldSize: 3, ranks: [0, 2]))))
    let json = String(decoding: try Record.open(record), as: UTF8.self)
    try #require(json.contains(text))
    let lying = Record.seal(Array(json.replacing(text, with: replacement, maxReplacements: 1).utf8))
    #expect(throws: RecordError.self) { try Record.decode(DecisionRecord.self, from: lying) }
}

@Test(arguments: [
    ("\"sequence\":\"0-1\"", "\"sequence\":\"0-2\""), ("\"sequence\":\"0-1\"", "\"sequence\":\"1-1\""), ("\"sequence\":\"0-1\"", "\"parent\":\"0-0\",\"sequence\":\"0-1\""),
    ("\"run\":\"origin\"", "\"run\":\"..\""), ("\"writtenAs\"", "\"other\""), ("\"origin\":", "\"other\":"),
]) func branchThatContradictsItselfIsRefused(text: String, replacement: String) throws {
    let commit = commit().branched(from: "origin")
    #expect(commit.sequence < CommitSequence(attempt: 1, count: 1) && commit.folder == "step-1200.0-1" && commit.parent == nil)
    let record = Record.encode(DecisionRecord(run: testRun, save: commit.save, .commit(commit)))
    #expect(try Record.decode(DecisionRecord.self, from: record).decision == .commit(commit))
    let json = String(decoding: try Record.open(record), as: UTF8.self)
    try #require(json.contains(text))
    let lying = Record.seal(Array(json.replacing(text, with: replacement, maxReplacements: 1).utf8))
    #expect(throws: RecordError.self) { try Record.decode(DecisionRecord.self, from: lying) }
}

@Test func branchOfABranchKeepsTheNameOfWhoWroteIt() {
    let second = commit().branched(from: "one").branched(from: "two")
    #expect(second.origin?.run == "two" && second.origin?.sequence == Commit.branchSequence)
    #expect(second.writtenAs == Commit.WrittenAs(run: "one", save: save()))
}

@Test func manifestsSayWhoTakesPartAndWhatWasBefore() throws {
    var some = manifest()
    some.participants = [0, 1]
    some.previous = save(1100)
    #expect(try Record.decode(Manifest.self, from: Record.encode(some)) == some)
    for participants in [[], [1], [1, 0], [0, 0], [0, 2]] {
        some.participants = participants
        #expect(some.problem() != nil, "\(participants)")
    }
    some.participants = nil
    for previous in [save(), save(1300), save(1100, attempt: 16)] {
        some.previous = previous
        #expect(some.problem() != nil, "\(previous)")
    }
}

@Test func checksumFileRoundTripsAndRefusesDamage() throws {
    let crcs: [UInt32] = [0, 1, 0xFFFF_FFFF, 0xE306_9283]
    let fileBytes = 3 * Sizes.blockBytes + 1
    let file = BlockChecksums.encode(crcs)
    #expect(file.count == BlockChecksums.fileBytes(blocks: 4))
    #expect(try BlockChecksums.decode(file, fileBytes: fileBytes) == crcs)
    #expect(throws: BlockChecksumError.self) { try BlockChecksums.decode(file, fileBytes: fileBytes + Sizes.blockBytes) }
    for index in file.indices {
        var flipped = file
        flipped[index] ^= 0x10
        #expect(throws: BlockChecksumError.self) { try BlockChecksums.decode(flipped, fileBytes: fileBytes) }
    }
    #expect(Manifest(run: testRun, save: save(), rank: 0, worldSize: 1, layoutDigest: "", fileBytes: fileBytes, dataStart: 4096,
                     crcs: crcs, count: 1, savedAt: "", node: "").matches(checksumFile: file))
}

@Test func contentDigestIsOfLayoutAndChecksumsOnly() {
    let digest = Manifest.contentDigest(layoutDigest: "a", crcs: [1, 2])
    #expect(digest != Manifest.contentDigest(layoutDigest: "b", crcs: [1, 2]))
    #expect(digest != Manifest.contentDigest(layoutDigest: "a", crcs: [2, 1]))
    #expect(digest == Manifest.contentDigest(layoutDigest: "a", crcs: [1, 2]))
}

@Test func layoutFileOfTheFixtureRoundTrips() throws {
    let tables = try [0, 1].map { try fixturePlan(rank: $0).table }
    let read = try LayoutFile.decode(LayoutFile.encode(worldSize: 2, tables: tables))
    #expect(read.worldSize == 2 && read.tables == tables)
}

@Test func namesAreReadBackAsTheyWereMade() {
    let sequence = CommitSequence(attempt: 17, count: 41)
    let digest = String(repeating: "0a", count: 16)
    #expect(Names.attempt(17) == "attempts/000017.json")
    #expect(Names.decision(save()) == "attempts/000017/17-1200-1.json")
    #expect(Names.stepFolder(step: 1200, sequence: sequence) == "step-1200.17-41")
    #expect(Names.step("step-1200.17-41")?.sequence == sequence)
    #expect(Names.saving(Names.savingFolder(save())) == save())
    #expect(Names.attemptNumber("000017.json") == 17 && Names.attemptNumber("1234567.json") == 1_234_567)
    #expect(Names.rankFile(Names.data(rank: 3)) == .data(rank: 3))
    #expect(Names.rankFile(Names.checksums(rank: 123_456)) == .checksums(rank: 123_456))
    #expect(Names.rankFile(Names.manifest(rank: 3, digest: digest)) == .manifest(rank: 3, digest: digest))
    #expect(Names.besideFile(Names.besideManifest(save(), rank: 3, digest: digest))?.file == .manifest(rank: 3, digest: digest))
    #expect(Names.besideFile(Names.besideData(save(), rank: 3))?.save == save())
    #expect(Names.isBesidePin(Names.besidePin(save())) == save())
    #expect(Names.layoutDigest(Names.layout(digest: digest)) == digest)
    #expect(commit().manifestsFile == "manifests-\(commit().manifestsDigest.prefix(32)).bin")
    #expect(Names.decidedSave("17-1200-1.json") == save())
    #expect(Names.restoreNumber("restore-3.json") == 3)
    #expect(Names.haveNode(Names.have(node: "gpu-7")) == "gpu-7")
    #expect(Names.decision(save(1200, attempt: 0)) == "attempts/000000/branch.json")
    #expect(Names.settled("settled-3-a-b.json")?.node == "a-b")
    #expect(Names.goneSeconds(Names.gone("step-1200.17-41", seconds: 99)) == 99)
    #expect(Names.temporaryData(rank: 3, maker: "n.i", fileTry: 2) == ".rank-00003.n.i.2.part")
    #expect(Names.isTemporary(".rank-00003.n.i.2.part", ofNode: "n") && !Names.isTemporary(".rank-00003.n.i.2.part", ofNode: "m"))
    #expect(Names.node("gpu-7.cluster") == "gpu-7-cluster")
}

@Test func strangeNamesAreNotOurs() {
    for name in ["step-01200.17-41", "step-1200.17-041", "step-1200", "step--1.17-41", "step-1200.17-41.x", "step-", ""] { #expect(Names.step(name) == nil, "\(name)") }
    for name in ["rank-3.safetensors", "rank-00003.safetensors.x", "rank-00003-XYZ.json", "rank-000003.crc", "rank-.crc", "rank-00003"] {
        #expect(Names.rankFile(name) == nil, "\(name)")
    }
    for name in ["17.json", "000017", "0000017.json", ".json"] { #expect(Names.attemptNumber(name) == nil, "\(name)") }
    for name in [".saving-17-1200", ".saving-17-1200-01", "saving-17-1200-1"] { #expect(Names.saving(name) == nil, "\(name)") }
    #expect(Names.besideFile("17-1200.rank-00003.crc") == nil)
    #expect(Names.settled("settled-3.json") == nil)
}
