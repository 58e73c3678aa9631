import CairnIO
import CairnMessages
import CairnModel
import CairnStore
import Testing

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

    // A node's ranks that settle one after the other, its daemon started anew in between: each is told once.
    func files() throws -> Int { try folder.names("\(Names.runFolder(testRun))/\(Names.attemptFolder(6))").count }
    #expect(try choose(first, 1, attempt: 6).step == 1250)
    let before = try files()
    for ranks in [[0], [0], [1], [0, 1], [2]] {
        _ = try first.ask { .settled(id: $0, run: testRun, attempt: 6, restore: 1, ranks: ranks, ok: true, reason: nil) }
    }
    #expect(try files() == before + 3)
    guard case .verdict(_, let ok, _) = try second.ask({ .verdict(id: $0, run: testRun, attempt: 6, restore: 1, worldSize: 3, publish: true, force: false) }).0 else { return }
    #expect(ok == true)
}
