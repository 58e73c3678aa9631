// A run that begins at a step of another run.
import CairnIO
import CairnMessages
import CairnModel
import CairnStore
import Testing
@testable import CairnTier

private let other = RunKey(uid: 1000, name: "branch"), third = RunKey(uid: 1000, name: "third")
private let first = CommitSequence(attempt: 0, count: 1)

private func branch(_ tier: TierHarness, _ run: RunKey = other, from: RunKey = testRun, step: Int? = nil, sequence: CommitSequence? = nil) throws -> Int? {
    guard case .branched(_, let step, first) = try tier.ask({ .branch(id: $0, run: run, from: from, step: step, sequence: sequence) }).0 else { return nil }
    return step
}

private func ref(_ run: RunKey, _ step: Int) -> StepRef { StepRef(run: run, step: step, sequence: first, save: nil) }

/// Two ranks, several chunks, committed as step `step` of the test's run.
private func commitLarge(_ tier: TierHarness, step: Int, count: Int) throws -> [StagedFile] {
    let files = try (0..<2).map { try largeFile(save(step, attempt: 1), rank: $0, worldSize: 2) }
    for file in files { try tier.put(file, count: count) }
    guard case .decision(_, .committed) = try tier.decide(files[0].key.save, worldSize: 2).0 else { throw TierFailure(kind: .other, text: "not committed") }
    return files
}

@Test func branchSharesTheStepsBytesAndIsReadLikeAnyStep() throws {
    let folder = try TierFolder()
    let tier = try TierHarness([folder.path])
    let files = try commitLarge(tier, step: 100, count: 1)
    try tier.commit(step: 200, count: 2)
    #expect(try branch(tier, step: 100) == 100)
    let steps = try tier.steps(other)
    #expect(steps.map(\.step) == [100] && steps[0].sequence == first && steps[0].parent == nil && steps[0].worldSize == 2)
    #expect(steps[0].origin == StepOrigin(run: "llama", step: 100, sequence: CommitSequence(attempt: 1, count: 1), save: save(100, attempt: 1)))
    #expect(try tier.steps().allSatisfy { $0.origin == nil })
    let at = "1000/branch/step-100.0-1"
    for name in try folder.names(at) where name != Names.checkpoint {
        #expect(try Files.stat(folder.root, "\(at)/\(name)").inode == Files.stat(folder.root, "1000/llama/step-100.1-1/\(name)").inode, "\(name) is not shared")
    }
    #expect(try folder.names("1000/branch").sorted() == ["attempts", "step-100.0-1"])
    // Restore, in another sharding too, verify, and what a choice is.
    let whole = try #require(files[0].bytes(of: "big")) + #require(files[1].bytes(of: "big"))
    #expect(try tier.load(ref(other, 100), [Box(name: "big", offsets: [2999, 0], shape: [2, 1000]), Box(name: "rng", rank: 1)])
            == [Array(whole[2999 * 4000..<3001 * 4000]), files[1].bytes(of: "rng")])
    #expect(try tier.verify(ref(other, 100)).isEmpty)
    guard case .choice(_, true, 100?, first, let chosen, _) = try tier.ask({
        .choose(id: $0, run: other, attempt: 1, restore: 1, step: nil, candidate: nil) }).0 else { Issue.record("not chosen"); return }
    #expect(chosen == SaveID(attempt: 0, step: 100, attemptTry: 1))
    // It sorts before the branch's own attempts, whatever their steps.
    let own = try smallPart(save(50, attempt: 1), run: other)
    try tier.put(own)
    _ = try tier.ask { .decide(id: $0, run: other, save: own.key.save, worldSize: 1, participants: nil, parent: first) }
    #expect(try tier.steps(other).max { $0.sequence < $1.sequence }?.step == 50)
    #expect(try tier.steps(other).filter(\.superseded).isEmpty)

    // The origin's step goes; the branch keeps its bytes, and a repeated call still has its answer.
    _ = try tier.ask { .remove(id: $0, ref: StepRef(run: testRun, step: 100, sequence: CommitSequence(attempt: 1, count: 1), save: nil)) }
    for name in try folder.names("1000/llama") where name.hasPrefix(".gone-") { try Files.removeTree(folder.root, "1000/llama/\(name)") }
    let fresh = try TierHarness([folder.path])
    #expect(try fresh.verify(ref(other, 100)).isEmpty)
    #expect(try fresh.load(ref(other, 100), [Box(name: "big")]) == [whole])
    #expect(try branch(fresh, step: 100) == 100 && branch(fresh) == 100)
}

@Test func branchesThatCannotBeAreRefusedWithAReason() throws {
    let folder = try TierFolder()
    let tier = try TierHarness([folder.path])
    #expect(failureKind { _ = try branch(tier) } == .noSuchStep)
    try tier.commit(step: 100, count: 1)
    try tier.commit(step: 200, count: 2)
    #expect(failureKind { _ = try branch(tier, step: 150) } == .noSuchStep)
    #expect(failureKind { _ = try branch(tier, step: 100, sequence: CommitSequence(attempt: 1, count: 2)) } == .noSuchStep)
    #expect(failureKind { _ = try branch(tier, testRun, from: testRun) } == .invalid)
    #expect(failureKind { _ = try branch(tier, RunKey(uid: 1001, name: "x"), from: testRun) } == .invalid, "I8: another user's")
    #expect(try !folder.names("1000").contains("branch"), "a refusal leaves nothing")
    #expect(try branch(tier) == 200, "the newest")
    for ask in [{ try branch(tier, step: 100) }, { try branch(tier, from: third) }] {
        do {
            _ = try ask()
            Issue.record("I2: a run began twice")
        } catch let failure as TierFailure { #expect(failure.kind == .invalid && failure.text.contains("llama at step 200")) }
    }
    // A run that has begun by itself.
    let own = try smallPart(save(7, attempt: 1), run: third)
    try tier.put(own)
    _ = try tier.ask { .decide(id: $0, run: third, save: own.key.save, worldSize: 1, participants: nil, parent: nil) }
    #expect(failureKind { _ = try branch(tier, third, step: 100) } == .invalid)
}

@Test func branchOfABranchNamesItsOriginAndWhoWroteTheFiles() throws {
    let folder = try TierFolder()
    let tier = try TierHarness([folder.path])
    let file = try tier.commit(step: 100, count: 1)
    #expect(try branch(tier) == 100 && branch(tier, third, from: other) == 100)
    let origin = try #require(try tier.steps(third).first?.origin)
    #expect(origin.run == "branch" && origin.sequence == first)
    #expect(try tier.load(ref(third, 100), [Box(name: "w")]) == [file.bytes(of: "w")])
    #expect(try branch(tier, third, from: other) == 100)
    #expect(failureKind { _ = try branch(tier, third, from: testRun) } == .invalid)
    // A manifest of something else does not pass for it.
    let at = "1000/third/step-100.0-1", record = try Files.readAll(folder.root, "\(at)/\(Names.checkpoint)", limit: 1 << 20)
    guard case .commit(var commit) = try Record.decode(DecisionRecord.self, from: record).decision else { Issue.record("no commit"); return }
    commit.writtenAs = Commit.WrittenAs(run: "llama", save: save(99, attempt: 1))
    try Files.unlink(folder.root, "\(at)/\(Names.checkpoint)")
    try Files.writeNew(folder.root, "\(at)/\(Names.checkpoint)", Record.encode(DecisionRecord(run: third, save: commit.save, .commit(commit))))
    #expect(failureKind { _ = try TierHarness([folder.path]).load(ref(third, 100), [Box(name: "w")]) } == .corrupt)
}

@Test func branchGoesOnFromWhereverACrashLeftIt() throws {
    for stage in 0..<4 {
        let folder = try TierFolder()
        let tier = try TierHarness([folder.path])
        let files = try commitLarge(tier, step: 100, count: 1)
        #expect(try branch(tier) == 100)
        // Back to: decided and not renamed; without the record in the folder; not decided; with some of the files only.
        let run = "1000/branch", saving = "\(run)/.saving-0-100-1"
        try Files.rename(folder.root, from: "\(run)/step-100.0-1", to: saving)
        if stage >= 1 { try Files.unlink(folder.root, "\(saving)/checkpoint.json") }
        if stage >= 2 { try Files.unlink(folder.root, "\(run)/attempts/000000/branch.json") }
        if stage >= 3 { for name in try folder.names(saving) where name.hasPrefix("rank-00001") { try Files.unlink(folder.root, "\(saving)/\(name)") } }
        let fresh = try TierHarness([folder.path])
        if stage >= 2 { #expect(try fresh.steps(other).isEmpty, "I2: nothing is visible before the decision") }
        guard case .scanned(_, let found) = try fresh.ask({ .scan(id: $0) }).0 else { return }
        #expect(found.isEmpty, "no save of the branch's own")
        guard case .leftovers(_, _, let left) = try fresh.ask({ .leftovers(id: $0, run: other, attempt: 1) }).0 else { return }
        #expect(left.isEmpty, "no attempt's leftover, which would be voided")
        if stage < 2 { #expect(try fresh.steps(other).map(\.step) == [100], "everything follows from the decision") }
        #expect(try branch(fresh) == 100)
        #expect(try folder.names(run).sorted() == ["attempts", "step-100.0-1"])
        #expect(try fresh.verify(ref(other, 100)).isEmpty && fresh.load(ref(other, 100), [Box(name: "rng", rank: 1)]) == [files[1].bytes(of: "rng")])
    }
}

@Test(arguments: 0..<10) func twoBranchingsAtOnceGiveOne(_ round: Int) throws {
    let folder = try TierFolder()
    let left = try TierHarness([folder.path], node: "a"), right = try TierHarness([folder.path], node: "b")
    try left.commit(step: 100, count: 1)
    try left.commit(step: 200, count: 2)
    // The same step, or two different ones of which one is refused.
    let steps = round.isMultiple(of: 2) ? [100, 100] : [100, 200]
    try left.send(.branch(id: 500, run: other, from: testRun, step: steps[0], sequence: nil))
    try right.send(.branch(id: 501, run: other, from: testRun, step: steps[1], sequence: nil))
    let answers = [try left.next().0, try right.next().0].map { reply -> Int? in
        switch reply {
        case .branched(_, let step, first): return step
        case .failed(_, let failure):
            #expect(failure.kind == .invalid, "\(failure)")
            return nil
        default: return nil
        }
    }
    let standing = try left.steps(other)
    #expect(standing.count == 1 && answers.compactMap { $0 }.allSatisfy { $0 == standing[0].step })
    #expect(answers.compactMap { $0 }.count == (steps[0] == steps[1] ? 2 : 1))
    #expect(try right.verify(ref(other, standing[0].step)).isEmpty)
    let names = try folder.names("1000/branch")
    #expect(!names.contains { $0.hasPrefix(".saving") } && names.filter { $0.hasPrefix("step-") }.count == 1)
}

@Test func branchCopiesWhereLinksAreRefused() throws {
    let folder = try TierFolder()
    let tier = try TierHarness([folder.path])
    let files = try commitLarge(tier, step: 100, count: 1)
    let start = TierStart(tier: .global, form: .committing, paths: [folder.path], instance: "copy", node: "n1", pool: PoolShape(slots: 1), bufferSlots: 1, exclusive: false,
                          depth: 1, ring: .off, direct: .off, reserveBytes: 0, fileMode: 0o640, group: nil)
    let folders = try TierOpening(start).folders
    let branching = Branching(folders, steps: StepFolders(folders), decisions: Decisions(folders), usesLinks: false)
    #expect(try branching.branch(other, from: testRun, step: nil, sequence: nil).step == 100)
    let at = "1000/branch/step-100.0-1/rank-00001.safetensors"
    #expect(try Files.stat(folder.root, at).inode != Files.stat(folder.root, "1000/llama/step-100.1-1/rank-00001.safetensors").inode)
    #expect(try Files.readAll(folder.root, at, limit: 1 << 30) == files[1].bytes)
    #expect(try tier.verify(ref(other, 100)).isEmpty)
    #expect(try !folder.names("1000/branch/step-100.0-1").contains { $0.hasSuffix(".part") })
}

/// The first step's copy answers for a record that is damaged, and brings back one that is lost.
@Test(arguments: [true, false]) func aBranchsRecordIsReadFromItsCopy(_ isLost: Bool) throws {
    let folder = try TierFolder(), record = "1000/branch/attempts/000000/branch.json"
    let tier = try TierHarness([folder.path])
    try tier.commit(step: 100, count: 1)
    try tier.commit(step: 200, count: 2)
    #expect(try branch(tier, step: 100) == 100)
    let written = try Files.readAll(folder.root, record, limit: StoreLimits.recordBytes)
    try Files.unlink(folder.root, record)
    if !isLost { try Files.writeNew(folder.root, record, Array(written.dropLast(2)), mode: 0o600) }
    #expect(try tier.verify(ref(other, 100)).compactMap(\.badPath) == ["\(folder.path)/\(record)"])
    #expect(try branch(tier, step: 100) == 100)
    #expect(failureKind { _ = try branch(tier, step: 200) } == .invalid)
    #expect(try tier.steps(other).map(\.step) == [100])
    if isLost { #expect(try Files.readAll(folder.root, record, limit: StoreLimits.recordBytes) == written) }
}
