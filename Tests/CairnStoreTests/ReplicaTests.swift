// Who writes what: whole tensors by one owner, declared copies, private ones, and what is pointed out.
import CairnIO
import CairnMessages
import CairnModel
import CairnStore
import Testing
@testable import CairnTier

private func outcome(_ parts: [StagedFile], _ tier: TierHarness) throws -> DecisionOutcome? {
    for part in parts { try tier.put(part) }
    guard case .decision(_, let outcome) = try tier.decide(parts[0].key.save, worldSize: parts.count).0 else { return nil }
    return outcome
}

@Test func replicatedTensorsAreWrittenByTheirOwnersAlone() throws {
    let folder = try TierFolder()
    let tier = try TierHarness([folder.path])
    let id = save(10, attempt: 1)
    // Each rank owns one of two replicated tensors; a third has two declared copies.
    let copies = (0..<2).map { Shard(name: "c", dtype: "U8", shape: [10], replica: $0, replicas: 2) }
    let parts = try [
        StagedFile([Shard(name: "a", dtype: "U8", shape: [1000]), copies[0]], save: id, rank: 0, worldSize: 2),
        StagedFile([Shard(name: "b", dtype: "U8", shape: [2000]), copies[1]], save: id, rank: 1, worldSize: 2),
    ]
    #expect(try outcome(parts, tier) == .committed(sequence: CommitSequence(attempt: 1, count: 1)))
    let ref = StepRef(run: testRun, step: 10, sequence: CommitSequence(attempt: 1, count: 1), save: id)
    #expect(try tier.load(ref, [Box(name: "b"), Box(name: "a", offsets: [1], shape: [2])]) == [parts[1].bytes(of: "b"), Array(try #require(parts[0].bytes(of: "a"))[1..<3])])
}

@Test func undeclaredCopiesAreVoidedNamingTensorAndRanks() throws {
    let folder = try TierFolder()
    let tier = try TierHarness([folder.path])
    let worldSize = 20, id = save(10, attempt: 1)
    let parts = try (0..<worldSize).map { rank in
        try StagedFile([Shard(name: "w", dtype: "U8", shape: [10])], save: id, rank: rank, worldSize: worldSize)
    }
    guard case .void(let reason)? = try outcome(parts, tier) else { Issue.record("I11: committed what two ranks wrote"); return }
    #expect(reason.contains("'w'") && reason.contains("[0, 1, 2,") && reason.contains("and 4 more") && reason.contains("replicas"))
}

@Test func equalPrivateCopiesArePointedOut() throws {
    let folder = try TierFolder()
    let id = save(10, attempt: 1)
    func parts(seeds: [UInt64]) throws -> [StagedFile] {
        try seeds.enumerated().map { rank, seed in
            // `StagedFile` adds 1000 per rank to the seed.
            try StagedFile([Shard(name: "same", dtype: "U8", shape: [1 << 20], isPrivate: true), Shard(name: "small", dtype: "U8", shape: [100], isPrivate: true)],
                           save: id, rank: rank, worldSize: 2, seed: seed &- UInt64(rank) &* 1000)
        }
    }
    func note(_ run: RunKey, _ parts: [StagedFile]) throws -> String? {
        let at = "\(run.uid)/\(run.name)"
        try Files.makeFolders(folder.root, at)
        for part in parts { try Files.writeNew(folder.root, "\(at)/\(Names.checksums(rank: part.key.rank))", BlockChecksums.encode(part.crcs)) }
        let start = TierStart(tier: .global, form: .committing, paths: [folder.path], instance: "i", node: "n1", pool: PoolShape(slots: 1), bufferSlots: 1, exclusive: false,
                              depth: 1, ring: .off, direct: .off, reserveBytes: 0, fileMode: 0o640, group: nil)
        return try EqualCopies(folders: try TierOpening(start).folders, folder: at).note(parts.map(\.plan.table))
    }
    let found = try #require(try note(RunKey(uid: 1, name: "equal"), parts(seeds: [5, 5])))
    #expect(found.contains("'same' (1 MiB)") && found.contains("ranks 0 and 1") && found.contains("replicated="))
    #expect(try note(RunKey(uid: 1, name: "differ"), parts(seeds: [5, 6])) == nil)
    #expect(try note(RunKey(uid: 1, name: "alone"), [parts(seeds: [5])[0]]) == nil)
}

@Test func stepIndexComesThroughAsItWas() throws {
    let tables = try (0..<2).map { try fixturePlan(rank: $0).table }
    let index = StepIndex(step: 1200, sequence: CommitSequence(attempt: 17, count: 41), save: save(), worldSize: 2, metadata: ["note": "a\nb \"c\""], ranks: tables)
    let bytes = StepIndexFile.encode(StepCatalog(index))
    #expect(try StepIndexFile.decode(bytes) == index)
    #expect(throws: RecordError.self) { try StepIndexFile.decode(Array(bytes.dropLast())) }
    #expect(throws: RecordError.self) { try StepIndexFile.decode([]) }
}
