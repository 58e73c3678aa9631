// What a commit of many ranks costs and how large its records are. The figures of whole worlds are measured in Benchmarks/Scale.
import CairnIO
import CairnMessages
import CairnModel
import CairnStore
import Testing
@testable import CairnTier

/// Rank files as a worker publishes them, without its syncs.
func publishWorld(_ folder: TierFolder, _ id: SaveID, ranks: Range<Int>? = nil, worldSize: Int) throws {
    let at = "1000/llama/.saving-\(id)"
    try Files.makeFolders(folder.root, at)
    let saving = try Files.openFolder(folder.root, at)
    func write(_ name: String, _ bytes: [UInt8]) throws {
        try PositionedIO.write(try Files.open(saving, name, flags: [.write, .create, .exclusive]), bytes, fileOffset: 0)
    }
    for rank in ranks ?? 0..<worldSize {
        let file = try StagedFile((0..<2).map { Shard(name: "layers.\($0).weight", dtype: "U8", shape: [4], globalShape: [4 * worldSize], offsets: [4 * rank]) },
                                  objects: [(ObjectInfo(name: "epoch", scope: .shared, bytes: 1), [7])], save: id, rank: rank, worldSize: worldSize)
        let manifest = file.manifest()
        try write(Names.data(rank: rank), file.bytes)
        try write(Names.checksums(rank: rank), BlockChecksums.encode(file.crcs))
        try write(manifest.name, manifest.record)
    }
}

@Test func commitOfAThousandRanksIsSmallAndQuick() throws {
    let folder = try TierFolder(on: "/dev/shm")
    let tier = try TierHarness([folder.path])
    let id = save(10, attempt: 1), worldSize = 1024
    try publishWorld(folder, id, worldSize: worldSize)
    let begin = Clock.monotonicNanoseconds()
    let (reply, record) = try tier.decide(id, worldSize: worldSize, ranks: Array(8..<16))
    let seconds = Double(Clock.monotonicNanoseconds() - begin) / 1e9
    guard case .decision(_, .committed) = reply else { Issue.record("\(reply)"); return }
    print("commit of \(worldSize) ranks: \(seconds) seconds, \(record.count) bytes are told of it")
    #expect(seconds < 20, "a debug build on a busy machine takes two or three")
    #expect(record.count < 4096, "a node is told its own ranks' rows")
    let committed = try Files.stat(folder.root, "1000/llama/step-10.1-1/\(Names.checkpoint)").bytes
    #expect(committed < 600, "the commit does not grow with the world: \(committed) bytes")
    #expect(try Record.decode(DecisionCopy.self, from: record).rows.map(\.rank) == Array(8..<16))
    let names = try folder.names("1000/llama/step-10.1-1")
    let layout = try #require(names.first { Names.layoutDigest($0) != nil })
    #expect(try Files.stat(folder.root, "1000/llama/step-10.1-1/\(layout)").bytes < 250 * 2 * worldSize)
    #expect(names.count == 3 * worldSize + 3, "nothing per rank is added by a commit")
    let ref = StepRef(run: testRun, step: 10, sequence: CommitSequence(attempt: 1, count: 1), save: id)
    #expect(try tier.load(ref, [Box(name: "layers.1.weight", offsets: [4000], shape: [8])])[0].count == 8)
}

@Test func manyPiecesGiveTheirResultsInOrderOrTheFirstFailure() throws {
    #expect(try concurrently(1000, threads: 8) { $0 * 2 } == (0..<1000).map { $0 * 2 })
    #expect(try concurrently(0, threads: 8) { $0 } == [])
    struct Failed: Error { let index: Int }
    for _ in 0..<20 {
        do {
            _ = try concurrently(1000, threads: 8) { index in
                if index >= 300 && index.isMultiple(of: 100) { throw Failed(index: index) }
                return index
            }
            Issue.record("a failure was lost")
        } catch let failure as Failed { #expect(failure.index == 300, "equal folders give equal answers") }
    }
}
