// A local tier beside a global one: what it keeps, and how it numbers attempts and chooses steps while the global one is down.
import CairnIO
import CairnMessages
import CairnModel
import CairnStore
import Testing
@testable import CairnTier

private struct Pair {
    let drive: TierFolder, remote: TierFolder
    let local: TierHarness, global: TierHarness

    init() throws {
        drive = try TierFolder()
        remote = try TierFolder()
        local = try TierHarness([drive.path], form: .beside, tier: .local)
        global = try TierHarness([remote.path])
    }

    /// Published on both tiers, decided on the global one, the decision's copy kept.
    func commit(_ id: SaveID, count: Int, worldSize: Int = 1, localRanks: [Int]? = nil) throws {
        for rank in 0..<worldSize {
            let part = try smallPart(id, rank: rank, worldSize: worldSize)
            if localRanks?.contains(rank) ?? true { try local.put(part, count: count) }
            try global.put(part, count: count)
        }
        let (_, record) = try global.decide(id, worldSize: worldSize, ranks: localRanks ?? Array(0..<worldSize))
        _ = try local.ask(payload: record) { .recordDecision(id: $0, run: testRun, save: id) }
    }

    func void(_ id: SaveID) throws {
        let (_, record) = try global.ask { .void(id: $0, run: testRun, save: id, reason: "x") }
        _ = try local.ask(payload: record) { .recordDecision(id: $0, run: testRun, save: id) }
    }

    func retain(keep: Int, protected: [SaveID] = []) throws {
        var given = RetentionGiven(protectedSaves: protected, protectedSequences: [])
        given.standing = CommitSequence(attempt: 1 << 20, count: 1)
        _ = try local.ask { .retain(id: $0, run: testRun, rules: RetentionRules(keep: keep), given: given) }
    }

    func scan() throws -> [FoundRankSave] {
        guard case .scanned(_, let found) = try local.ask({ .scan(id: $0) }).0 else { return [] }
        return found
    }

    func copies() throws -> [String] { try drive.names("1000/llama/decisions") }
}

@Test func localRetentionCountsCommittedAndLocalSavesTogether() throws {
    let pair = try Pair()
    for step in [1, 3, 4] { try pair.commit(save(step, attempt: 1), count: step) }
    try pair.local.put(smallPart(save(5, attempt: 1)), count: 5)
    for step in [6, 7, 8] { try pair.local.put(smallPart(save(step, attempt: 1), upto: .local), count: step) }
    try pair.retain(keep: 2)
    #expect(try besideSteps(pair.drive) == [3, 4, 5, 6, 7, 8], "no undecided save is dropped, nor counted, before main has been told of it")
    _ = try pair.scan()
    try pair.retain(keep: 4)
    #expect(try besideSteps(pair.drive) == [4, 5, 6, 7, 8], "5 is to be committed and counts for nothing")
    try pair.retain(keep: 2, protected: [save(6, attempt: 1)])
    #expect(try besideSteps(pair.drive) == [4, 5, 6, 7, 8], "what is in use stays")
    try pair.retain(keep: 2)
    #expect(try besideSteps(pair.drive) == [4, 5, 7, 8], "I3: the newest committed one stays whatever is newer")
    try pair.commit(save(9, attempt: 1), count: 9)
    try pair.retain(keep: 2)
    #expect(try besideSteps(pair.drive) == [5, 8, 9])
}

/// Rank 0's count orders saves; a node without rank 0 has only their ids, and drops the same.
@Test func nodesWithoutRankZeroKeepTheSameSaves() throws {
    let drive = try TierFolder()
    let local = try TierHarness([drive.path], form: .beside, tier: .local)
    for step in [10, 20, 30, 40] { try local.put(smallPart(save(step, attempt: 1), rank: 1, worldSize: 2, upto: .local)) }
    _ = try local.ask { .scan(id: $0) }
    _ = try local.ask { .retain(id: $0, run: testRun, rules: RetentionRules(keep: 2), given: nothingGiven) }
    #expect(try besideSteps(drive) == [30, 40])
}

@Test func voidSavesFilesGoAndTheirCopiesStayForAWhile() throws {
    let pair = try Pair()
    let old = save(10, attempt: 1), id = save(20, attempt: 2)
    for id in [old, id] {
        try pair.local.put(smallPart(id))
        try pair.void(id)
    }
    #expect(try besideSteps(pair.drive).isEmpty && pair.copies() == ["1-10-1.json", "2-20-1.json"])
    #expect(try pair.scan().isEmpty)
    // A file of it that was still being written is void when a scan finds it, and goes.
    try pair.local.put(smallPart(id))
    #expect(try pair.scan().map(\.decision) == [.void(reason: "x")])
    guard case .scanned(_, let held) = try pair.local.ask({ .held(id: $0, run: testRun, step: nil) }).0 else { return }
    #expect(held.isEmpty)
    try pair.retain(keep: 2)
    #expect(try besideSteps(pair.drive).isEmpty && pair.copies() == ["1-10-1.json", "2-20-1.json"])
    try pair.commit(save(30, attempt: 3), count: 1)
    try pair.retain(keep: 2)
    #expect(try pair.copies() == ["2-20-1.json", "3-30-1.json"])
}

@Test func heldAreThePartsThatMayBeRestoredOrPromoted() throws {
    let pair = try Pair()
    try pair.commit(save(10, attempt: 1), count: 1)
    try pair.local.put(smallPart(save(20, attempt: 1), participants: [0], upto: .local), count: 2)
    try pair.local.put(smallPart(SaveID(attempt: 1, step: 20, attemptTry: 2), upto: .local), count: 3)
    try pair.local.put(smallPart(save(30, attempt: 1)), count: 4)
    try pair.void(save(30, attempt: 1))
    func held(_ step: Int?) throws -> [FoundRankSave] {
        guard case .scanned(_, let found) = try pair.local.ask({ .held(id: $0, run: testRun, step: step) }).0 else { return [] }
        return found
    }
    let all = try held(nil)
    #expect(all.map(\.step) == [10, 20, 20] && all.map(\.upto) == [.committed, .local, .local] && all.map(\.count) == [1, 2, 3])
    #expect(all.map(\.participants) == [nil, [0], nil])
    #expect(all[0].decision == .committed(sequence: CommitSequence(attempt: 1, count: 1)) && all[1].decision == nil)
    #expect(try held(20).map(\.key.save.attemptTry) == [1, 2] && held(30).isEmpty && held(40).isEmpty)
    #expect(failureKind { _ = try pair.global.ask { .held(id: $0, run: testRun, step: nil) } } == .invalid)
}

@Test func attemptsAreNumberedBesideAndClaimedLater() throws {
    let pair = try Pair()
    func number(_ tier: TierHarness, _ token: String) throws -> Int? {
        guard case .attempt(_, let number) = try tier.ask({ .numberAttempt(id: $0, run: testRun, tokenHash: token, worldSize: 1) }).0 else { return nil }
        return number
    }
    func claim(_ token: String, _ number: Int) throws -> Int? {
        guard case .attempt(_, let number) = try pair.global.ask({
            .claimAttempt(id: $0, run: testRun, number: number, tokenHash: token, worldSize: 1) }).0 else { return nil }
        return number
    }
    for token in ["t1", "t2"] { _ = try number(pair.global, token) }
    try pair.local.put(smallPart(save(10, attempt: 3)))                       // nothing else tells of attempt 3 here
    let beside = try #require(try number(pair.local, "t4"))
    #expect((4..<4 + TierLimits.numbersBeside).contains(beside), "above all that is here, and hardly a number that the other tier gave")
    #expect(try number(pair.local, "t4") == beside)
    guard case .attempt(_, beside) = try pair.local.ask({ .findAttempt(id: $0, run: testRun, tokenHash: "t4") }).0,
          case .attempt(_, beside) = try pair.local.ask({ .newestAttempt(id: $0, run: testRun) }).0 else { Issue.record("not found"); return }
    #expect(try claim("t4", beside) == beside)
    #expect(try claim("t4", beside) == beside, "again, after a lost reply")
    #expect(try claim("other", beside) == nil, "it is another launch's")
    #expect(try claim("t3", 3) == nil, "a higher number is")
    let above = beside + 7
    try pair.void(save(20, attempt: above))
    let next = try #require(try number(pair.local, "t8"))
    #expect(next > above, "above a decision's copy, too")
    try pair.local.put(smallPart(save(40, attempt: next)))
    #expect(try pair.scan().map(\.tokenHash) == [nil, "t8"])

    #expect(try number(pair.global, "t5") == above + 1, "the folder of that attempt is there")
    #expect(try claim("t9", above) == nil)
    #expect(try claim("t9", above + 2) == above + 2)
    #expect(try claim("t4", beside) == beside, "what has begun since changes nothing of a claim that stands")
    #expect(failureKind { _ = try claim("t9", 0) } == .invalid)
    // A request that comes after its time makes nothing.
    #expect(failureKind { _ = try pair.global.ask { .numberAttempt(id: $0, run: testRun, tokenHash: "late", worldSize: 1, notAfter: 1) } } == .io)
    guard case .attempt(_, nil) = try pair.global.ask({ .findAttempt(id: $0, run: testRun, tokenHash: "late") }).0 else { Issue.record("was made"); return }
}

@Test func twoClaimsOfOneNumberGiveItToOne() throws {
    for round in 1...10 {
        let folder = try TierFolder()
        let first = try TierHarness([folder.path], node: "a"), second = try TierHarness([folder.path], node: "b")
        try first.send(.claimAttempt(id: 700, run: testRun, number: round, tokenHash: "x", worldSize: 1))
        try second.send(.claimAttempt(id: 701, run: testRun, number: round, tokenHash: "y", worldSize: 1))
        guard case .attempt(_, let left) = try first.next().0, case .attempt(_, let right) = try second.next().0 else { Issue.record("no number"); return }
        #expect([left, right].compactMap { $0 } == [round])
    }
}

@Test func restoresAreAgreedBesideWhileTheCommittingTierIsDown() throws {
    let pair = try Pair()
    try pair.commit(save(10, attempt: 1), count: 1, worldSize: 2)
    try pair.commit(save(20, attempt: 1), count: 2, worldSize: 2)
    try pair.commit(save(30, attempt: 1), count: 3, worldSize: 2, localRanks: [1])
    func choose(_ restore: Int, step: Int? = nil, candidate: Candidate? = nil) throws -> Int? {
        guard case .choice(_, true, let step, _, _, _) = try pair.local.ask({
            .choose(id: $0, run: testRun, attempt: 2, restore: restore, step: step, candidate: candidate) }).0 else { throw TierFailure(kind: .other, text: "no choice") }
        return step
    }
    func verdict(_ restore: Int) throws -> Bool? {
        guard case .verdict(_, let ok, _) = try pair.local.ask({
            .verdict(id: $0, run: testRun, attempt: 2, restore: restore, worldSize: 2, publish: true, force: false) }).0 else { return nil }
        return ok
    }
    #expect(try choose(1) == 20, "of 30 only one rank's part is here")
    guard case .choice(_, true, 20?, _, _, _) = try pair.local.ask({ .readChoice(id: $0, run: testRun, attempt: 2, restore: 1) }).0 else { Issue.record("no choice"); return }
    _ = try pair.local.ask { .settled(id: $0, run: testRun, attempt: 2, restore: 1, ranks: [0, 1], ok: false, reason: "corrupt") }
    #expect(try verdict(1) == false)
    #expect(try choose(2) == 10)
    _ = try pair.local.ask { .settled(id: $0, run: testRun, attempt: 2, restore: 2, ranks: [0, 1], ok: true, reason: nil) }
    #expect(try verdict(2) == true)
    // What it names may be loaded at this moment, so it stays.
    _ = try pair.scan()
    try pair.retain(keep: 1)
    #expect(try besideSteps(pair.drive) == [10, 20, 30])
    let candidate = Candidate(step: 40, sequence: CommitSequence(attempt: 1, count: 4), save: save(40, attempt: 1), level: .local)
    #expect(try choose(3, candidate: candidate) == 40)
}
