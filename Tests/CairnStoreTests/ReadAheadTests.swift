// What is read of a save before all its ranks are there. That something was not read again is seen by damaging it after it was read.
import CairnIO
import CairnMessages
import CairnModel
import CairnStore
import Testing
@testable import CairnTier

private func decisions(_ folder: TierFolder) throws -> Decisions {
    let start = TierStart(tier: .global, form: .committing, paths: [folder.path], instance: "i", node: "n", pool: PoolShape(slots: 1), bufferSlots: 1, exclusive: false,
                          depth: 1, ring: .off, direct: .off, reserveBytes: 0, fileMode: 0o640, group: nil)
    return Decisions(try TierFolders(start, roots: [TierRoot(path: folder.path, folder: folder.root, direct: false)]))
}

private let world = 40
private let id = save(10, attempt: 1)

private func undecided(_ looked: Looked) -> [Int]? {
    if case .undecided(let missing) = looked { missing } else { nil }
}

private func isCommitted(_ looked: Looked) -> Bool {
    guard case .decided(let standing) = looked, case .committed = standing.outcome else { return false }
    return true
}

@Test func commitReadsOnlyWhatWasNotReadAhead() throws {
    let folder = try TierFolder(on: "/dev/shm"), decisions = try decisions(folder)
    try publishWorld(folder, id, ranks: 0..<32, worldSize: world)
    func decide() throws -> Looked { try decisions.decide(testRun, id, worldSize: world, participants: nil, parent: nil) }
    #expect(undecided(try decide()) == Array(32..<world) && decisions.ahead.count(testRun, id) == 0, "the answer comes first")
    ReadAhead.read(decisions.check(testRun, id, world, nil))
    #expect(decisions.ahead.count(testRun, id) == 32)
    try folder.flip("1000/llama/.saving-\(id)/\(Names.checksums(rank: 3))", at: 17)
    try publishWorld(folder, id, ranks: 32..<world, worldSize: world)
    #expect(isCommitted(try decide()))
    #expect(decisions.ahead.count(testRun, id) == 0, "kept no longer than the save")
}

@Test func whatIsUnsoundIsNotKeptAndVoidsTheSave() throws {
    let folder = try TierFolder(on: "/dev/shm"), decisions = try decisions(folder)
    try publishWorld(folder, id, ranks: 0..<32, worldSize: world)
    try folder.flip("1000/llama/.saving-\(id)/\(Names.checksums(rank: 3))", at: 17)
    ReadAhead.read(decisions.check(testRun, id, world, nil))
    #expect(decisions.ahead.count(testRun, id) == 31)
    try publishWorld(folder, id, ranks: 32..<world, worldSize: world)
    guard case .decided(let standing) = try decisions.decide(testRun, id, worldSize: world, participants: nil, parent: nil),
          case .void(let reason) = standing.outcome else { Issue.record("committed"); return }
    #expect(reason.contains("rank 3") && decisions.ahead.count(testRun, id) == 0)
}

/// What was sound for one set of participants is not for another.
@Test func whatWasReadAheadIsOfTheSameParticipants() throws {
    let folder = try TierFolder(on: "/dev/shm"), decisions = try decisions(folder)
    try publishWorld(folder, id, ranks: 0..<2, worldSize: 2)
    ReadAhead.read(decisions.check(testRun, id, 2, nil))
    #expect(decisions.ahead.count(testRun, id) == 2)
    guard case .decided(let standing) = try decisions.decide(testRun, id, worldSize: 3, participants: [0, 1], parent: nil),
          case .void = standing.outcome else { Issue.record("committed"); return }
}

@Test func whatIsKeptIsBounded() throws {
    let folder = try TierFolder(on: "/dev/shm"), decisions = try decisions(folder)
    try publishWorld(folder, id, ranks: 0..<8, worldSize: world)
    let check = decisions.check(testRun, id, world, nil), root = try check.opened(), names = try check.manifestNames().names
    let part = try check.part(0, try #require(names[0]), root), few = KnownParts()
    for _ in 0..<3 { few.keep(part, bytesLimit: 2 * part.memoryBytes) }
    #expect(few.count == 1, "the same again takes nothing")
    few.keep(try check.part(1, try #require(names[1]), root), bytesLimit: part.memoryBytes)
    #expect(few.count == 1)
    // Of many saves those asked for last are kept, and of an attempt that has ended none.
    for step in 0..<3 * TierLimits.aheadSaves { _ = decisions.check(testRun, save(100 + step, attempt: 1), world, nil) }
    #expect(decisions.ahead.count(testRun, id) == 0)
    ReadAhead.read(decisions.check(testRun, id, world, nil))
    #expect(decisions.ahead.count(testRun, id) == 8)
    _ = decisions.check(testRun, save(10, attempt: 2), world, nil)
    #expect(decisions.ahead.count(testRun, id) == 0)
}

@Test func onlyOneReadsAheadAndNobodyWhileACommitIsMade() {
    let known = KnownParts()
    #expect(known.beginReading() && !known.beginReading())
    known.endReading()
    known.setEnough(true)
    #expect(!known.beginReading())
    known.setEnough(false)
    #expect(known.beginReading())
}

/// By the worker, behind its answers: how long that takes is the machine's, so later rounds wait longer.
@Test func workerReadsAheadBehindItsAnswer() throws {
    var isRead = false
    for round in 1...6 where !isRead {
        let folder = try TierFolder(on: "/dev/shm"), tier = try TierHarness([folder.path])
        try publishWorld(folder, id, ranks: 0..<8, worldSize: 9)
        guard case .missing(_, [8]) = try tier.decide(id, worldSize: 9).0 else { Issue.record("decided early"); return }
        Clock.sleep(milliseconds: 50 << round)
        try folder.flip("1000/llama/.saving-\(id)/\(Names.checksums(rank: 3))", at: 17)
        try publishWorld(folder, id, ranks: 8..<9, worldSize: 9)
        if case .decision(_, .committed) = try tier.decide(id, worldSize: 9).0 { isRead = true }
    }
    #expect(isRead)
}
