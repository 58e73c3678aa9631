// What older attempts left, as a new one finds it from all nodes' lists and the manifests that stand.
import CairnIO
import CairnMessages
import CairnModel
import CairnStore
import Testing

private struct Nodes {
    let folder: TierFolder
    let first: TierHarness, second: TierHarness
    init() throws {
        folder = try TierFolder()
        first = try TierHarness([folder.path], node: "a")
        second = try TierHarness([folder.path], node: "b")
    }

    /// Launches 1…18, the last with this world.
    func launch(worldSize: Int = 2) throws {
        for number in 1...18 { _ = try first.ask { .numberAttempt(id: $0, run: testRun, tokenHash: "t\(number)", worldSize: worldSize) } }
    }

    func have(_ tier: TierHarness, serves: [Int], _ saves: [HeldSave] = [], served: [Int] = [], attempt: Int = 17) throws {
        let list = HaveList(serves: serves, saves: saves, served: served.isEmpty ? [] : [.init(attempt: attempt, ranks: served)])
        _ = try tier.ask { .have(id: $0, run: testRun, attempt: 18, list: list) }
    }

    func leftovers(_ tier: TierHarness? = nil) throws -> (serving: Int, [Leftover]) {
        guard case .leftovers(_, let serving, let found) = try (tier ?? first).ask({ .leftovers(id: $0, run: testRun, attempt: 18) }).0 else {
            throw TierFailure(kind: .other, text: "no leftovers")
        }
        return (serving, found)
    }
}

private func held(_ id: SaveID, _ ranks: [Int], worldSize: Int = 2, upto: Level = .committed, participants: [Int]? = nil, level: Level = .staged, count: Int? = nil) -> HeldSave {
    HeldSave(save: id, worldSize: worldSize, upto: upto, participants: participants, ranks: ranks, level: level, count: count)
}

@Test func leftoversComeFromAllNodesListsAndFromManifests() throws {
    let nodes = try Nodes()
    try nodes.launch()
    // 100: half on disk, half held in node b's memory. 200: held by both, each by the node that serves its rank. 300: rank 1 was lost.
    // 400: published whole. 500: held by the other node each. 600: only a folder without a manifest.
    let ids = (1...6).map { save($0 * 100) }
    try nodes.first.put(smallPart(ids[0], rank: 0, worldSize: 2), count: 1)
    for rank in 0..<2 { try nodes.first.put(smallPart(ids[3], rank: rank, worldSize: 2), count: 4) }
    try Files.makeFolder(nodes.folder.root, "1000/llama/.saving-\(ids[5])")
    #expect(try nodes.leftovers().serving == 0, "nobody has said anything yet")
    try nodes.have(nodes.first, serves: [0], [held(ids[1], [0], level: .local, count: 2), held(ids[2], [0], count: 3), held(ids[4], [1])], served: [0])
    #expect(try nodes.leftovers().serving == 1)
    try nodes.have(nodes.second, serves: [1], [held(ids[0], [1]), held(ids[1], [1]), held(ids[4], [0], count: 5)], served: [1])
    let (serving, found) = try nodes.leftovers(nodes.second)
    #expect(serving == 2 && found.map(\.save) == ids)
    #expect(found.map(\.missing) == [[], [], [1], [], [], [0, 1]])
    #expect(found.map(\.absent) == [[], [], [1], [], [], [0, 1]], "both ranks were served, and are nowhere")
    #expect(found.map(\.isPublished) == [false, false, false, true, false, false])
    #expect(found.map(\.everywhere) == [nil, Candidate(step: 200, sequence: CommitSequence(attempt: 17, count: 2), save: ids[1], level: .staged), nil, nil, nil, nil])
    #expect(found.allSatisfy { $0.worldSize == 2 && $0.upto == .committed })

    // What is decided is left out, and a commit that stands is completed; whoever asks.
    _ = try nodes.first.decide(ids[3], worldSize: 2)
    try Files.rename(nodes.folder.root, from: "1000/llama/step-400.17-4", to: "1000/llama/.saving-\(ids[3])")
    for id in [ids[2], ids[5]] { _ = try nodes.second.ask { .void(id: $0, run: testRun, save: id, reason: "lost") } }
    for tier in [nodes.first, nodes.second, nodes.first] { #expect(try nodes.leftovers(tier).1.map(\.save) == [ids[0], ids[1], ids[4]]) }
    #expect(try nodes.folder.names("1000/llama").contains("step-400.17-4"))
}

@Test func whatANodeSaidFirstStands() throws {
    let nodes = try Nodes()
    try nodes.launch()
    try nodes.have(nodes.first, serves: [0], [held(save(100), [0], count: 1)])
    try nodes.have(nodes.first, serves: [0, 1])
    let (serving, found) = try nodes.leftovers()
    #expect(serving == 1 && found.map(\.save) == [save(100)] && found[0].missing == [1])
    #expect(found[0].absent.isEmpty, "its daemon may not have said what it has yet")
    #expect(failureKind { try nodes.have(nodes.second, serves: [1, 0]) } == .invalid)
    #expect(failureKind { try nodes.have(nodes.second, serves: [1], [held(save(100, attempt: 18), [1])]) } == .invalid)
}

@Test func saveOfSomeRanksOrOfAnotherWorldIsNowhereWhole() throws {
    let nodes = try Nodes()
    try nodes.launch(worldSize: 3)
    let some = save(100), smaller = save(200)
    try nodes.have(nodes.first, serves: [0, 1, 2], [held(some, [0, 2], worldSize: 3, participants: [0, 2], count: 1), held(smaller, [0, 1], worldSize: 2, count: 2)])
    let found = try nodes.leftovers().1
    #expect(found.map(\.participants) == [[0, 2], nil] && found.map(\.missing) == [[], []])
    #expect(found.map(\.everywhere) == [nil, nil], "rank 1 finds nothing of the one, and the other has no part for rank 2")
}

@Test func damagedListsAndDecisionsStopNobody() throws {
    let nodes = try Nodes()
    try nodes.launch()
    try nodes.have(nodes.first, serves: [0], [held(save(100), [0], count: 1)])
    try nodes.have(nodes.second, serves: [1], [held(save(200), [1])])
    let attempt = "1000/llama/attempts/000018"
    try nodes.folder.flip("\(attempt)/have-b.json", at: 40)
    _ = try nodes.first.ask { .void(id: $0, run: testRun, save: save(100), reason: "x") }
    try nodes.folder.flip("1000/llama/attempts/000017/17-100-1.json", at: 40)
    let (serving, found) = try nodes.leftovers()
    #expect(serving == 1 && found.isEmpty)
}

/// The cost that grows with ranks x nodes would be a listing or a file for each pair: every list is opened once, by each worker.
@Test func listsAreReadOnce() throws {
    let nodes = try Nodes()
    try nodes.launch()
    try nodes.have(nodes.second, serves: [1], [held(save(100), [1])])
    #expect(try nodes.leftovers().1.count == 1)
    // Not readable any more: the workers that have read or written it still know it, another one does not.
    try nodes.folder.flip("1000/llama/attempts/000018/have-b.json", at: 40)
    #expect(try nodes.leftovers(nodes.first).1.count == 1)
    #expect(try nodes.leftovers(nodes.second).1.count == 1)
    #expect(try nodes.leftovers(TierHarness([nodes.folder.path], node: "c")).1.isEmpty)
}
