// The rows of a commit on a tier: damage is found where the rows are needed and named, a node gets its own ranks' rows, and a local tier
// proves its files by these.
import CairnIO
import CairnMessages
import CairnModel
import CairnStore
import Testing

private let world = 130
private let at = "1000/llama/step-10.1-1"

private func committedWorld() throws -> (folder: TierFolder, rows: String, ref: StepRef) {
    let folder = try TierFolder(on: "/dev/shm"), id = save(10, attempt: 1)
    try publishWorld(folder, id, worldSize: world)
    let tier = try TierHarness([folder.path])
    guard case .decision(_, .committed(let sequence)) = try tier.decide(id, worldSize: world).0 else { throw TierFailure(kind: .other, text: "not committed") }
    let rows = try #require(try folder.names(at).first { $0.hasPrefix("manifests-") })
    return (folder, "\(at)/\(rows)", StepRef(run: testRun, step: 10, sequence: sequence, save: id))
}

private func box(_ rank: Int) -> [Box] { [Box(name: "layers.0.weight", offsets: [4 * rank], shape: [4])] }

@Test func damagedRowIsFoundByWhoNeedsItsBlock() throws {
    let (folder, rows, ref) = try committedWorld()
    try folder.flip(rows, at: ManifestRows.headBytes(rows: world) + 70 * 80 + 20)
    let tier = try TierHarness([folder.path])
    for rank in [0, 63, 128, 129] { #expect(try tier.load(ref, box(rank))[0].count == 4) }
    for rank in [64, 70, 127] {
        do {
            _ = try tier.load(ref, box(rank))
            Issue.record("I7: rank \(rank) was believed")
        } catch let failure as TierFailure {
            #expect(failure.kind == .corrupt && failure.path == "\(folder.path)/\(rows)" && failure.text.contains("block 1"))
        }
    }
    #expect(try tier.verify(ref).map(\.badPath) == ["\(folder.path)/\(rows)"], "a verify names it, and goes on to all files")
}

@Test(arguments: [0, 8, 12, 16, 20, 24]) func damagedHeadOfRowsIsCorrupt(_ byte: Int) throws {
    let (folder, rows, ref) = try committedWorld()
    try folder.flip(rows, at: byte)
    let tier = try TierHarness([folder.path])
    #expect(failureKind { _ = try tier.load(ref, box(0)) } == .corrupt)
    // The step is a step all the same, and its decision stands.
    #expect(try tier.steps().map(\.step) == [10])
    let (reply, record) = try tier.decide(save(10, attempt: 1), worldSize: world, ranks: [0, 1])
    guard case .decision(_, .committed) = reply else { Issue.record("\(reply)"); return }
    #expect(try Record.decode(DecisionCopy.self, from: record).rows.isEmpty)
    #expect(failureKind { _ = try tier.ask { .branch(id: $0, run: RunKey(uid: 1000, name: "other"), from: testRun, step: 10, sequence: nil) } } == .corrupt)
    try folder.flip(rows, at: byte)
    let file = try Files.open(folder.root, rows, flags: [.read, .write])
    try Files.truncate(file, bytes: ManifestRows.fileBytes(rows: world) - 1)
    #expect(failureKind { _ = try tier.load(ref, box(0)) } == .corrupt)
    try Files.truncate(file, bytes: 10)
    #expect(failureKind { _ = try tier.load(ref, box(0)) } == .corrupt)
}

/// Decided, and its rows damaged before its folder got its last name: it is no step, and nothing else waits for it.
@Test func commitThatCannotBeCompletedStopsNoListAndLosesNothing() throws {
    let folder = try TierFolder(), id = save(10, attempt: 1)
    do {
        let tier = try TierHarness([folder.path])
        try tier.put(smallPart(id))
        _ = try tier.decide(id)
        try tier.commit(step: 20, count: 2)
    }
    let saving = "1000/llama/.saving-\(id)"
    try Files.rename(folder.root, from: at, to: saving)
    let rows = "\(saving)/" + (try #require(try folder.names(saving).first { $0.hasPrefix("manifests-") }))
    try folder.flip(rows, at: 60)
    let tier = try TierHarness([folder.path])
    #expect(try tier.steps().map(\.step) == [20])
    guard case .scanned = try tier.ask({ .scan(id: $0) }).0,
          case .removed = try tier.ask({ .retain(id: $0, run: testRun, rules: RetentionRules(keep: 1), given: nothingGiven) }).0 else { Issue.record("no answer"); return }
    #expect(failureKind { _ = try tier.look(id) } == .corrupt)
    #expect(try folder.names("1000/llama").contains(".saving-\(id)"), "its files are not deleted")
    try folder.flip(rows, at: 60)
    #expect(try tier.steps().map(\.step) == [10, 20])
}

/// A folder that a latecomer made after the step's was renamed, and even one with the commit's own files, is no step without the manifests.
@Test func folderWithRowsAndWithoutManifestsIsNoStep() throws {
    let folder = try TierFolder(), id = save(10, attempt: 1)
    let tier = try TierHarness([folder.path])
    try tier.put(smallPart(id))
    _ = try tier.decide(id)
    let saving = "1000/llama/.saving-\(id)"
    try Files.makeFolders(folder.root, saving)
    for name in try folder.names(at) where name.hasPrefix("manifests-") || name.hasPrefix("layout-") { try Files.link(folder.root, from: "\(at)/\(name)", to: "\(saving)/\(name)") }
    try Files.rename(folder.root, from: at, to: "1000/llama/.gone-1.x")
    let other = try TierHarness([folder.path], node: "b")
    #expect(try other.steps().isEmpty, "I2: nothing that lacks a part is visible")
}

@Test func localTierProvesItsPartsByTheirOwnRows() throws {
    let drive = try TierFolder(), remote = try TierFolder()
    let local = try TierHarness([drive.path], form: .beside, tier: .local), global = try TierHarness([remote.path])
    let id = save(10, attempt: 1), parts = try (0..<3).map { try smallPart(id, rank: $0, worldSize: 3) }
    for part in parts { try global.put(part) }
    for part in parts[..<2] { try local.put(part) }
    let (_, record) = try global.decide(id, worldSize: 3, ranks: [0])
    _ = try local.ask(payload: record) { .recordDecision(id: $0, run: testRun, save: id) }
    let ref = StepRef(run: testRun, step: 10, sequence: CommitSequence(attempt: 1, count: 1), save: id)
    #expect(failureKind { _ = try local.load(ref, [Box(name: "w", rank: 0)]) } == .notHere, "rank 1's part is here and nothing proves it: the global tier serves")
    // The same decision with other rows is no contradiction, and changes nothing; another decision is refused.
    let (_, both) = try global.decide(id, worldSize: 3, ranks: [0, 1])
    _ = try local.ask(payload: both) { .recordDecision(id: $0, run: testRun, save: id) }
    let void = Record.encode(DecisionCopy(DecisionRecord(run: testRun, save: id, .void(reason: "x")), rows: []))
    #expect(failureKind { _ = try local.ask(payload: void) { .recordDecision(id: $0, run: testRun, save: id) } } == .corrupt)

    let second = save(20, attempt: 1), whole = try (0..<2).map { try smallPart(second, rank: $0, worldSize: 2) }
    for part in whole { try global.put(part, count: 2); try local.put(part, count: 2) }
    let (_, own) = try global.decide(second, worldSize: 2, ranks: [0, 1])
    _ = try local.ask(payload: own) { .recordDecision(id: $0, run: testRun, save: second) }
    let newer = StepRef(run: testRun, step: 20, sequence: CommitSequence(attempt: 1, count: 2), save: second)
    #expect(try local.load(newer, [Box(name: "w", rank: 1)]) == [whole[1].bytes(of: "w")])
    // The manifest that lies here must be the one that its row names.
    let name = "1000/llama/" + Names.besideManifest(second, rank: 1, digest: Record.nameDigest(whole[1].manifest().record))
    var manifest = try Record.decode(Manifest.self, from: whole[1].manifest().record)
    manifest.node = "another"
    try Files.unlink(drive.root, name)
    try Files.writeNew(drive.root, name, Record.encode(manifest))
    let fresh = { try TierHarness([drive.path], form: .beside, tier: .local) }
    local.stop()
    #expect(failureKind { _ = try fresh().load(newer, [Box(name: "w", rank: 1)]) } == .corrupt)
}
