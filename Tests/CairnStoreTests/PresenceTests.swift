// A tier's folder that goes away, or that another one replaces: what a worker notices, and what the next one makes of it.
import CairnIO
import CairnMessages
import CairnModel
import CairnStore
@testable import CairnTier
import Testing

private func start(_ path: String, isRestart: Bool = false) -> TierStart {
    TierStart(tier: .global, form: .committing, paths: [path], instance: "i", isRestart: isRestart, node: "n1", pool: PoolShape(slots: 1), bufferSlots: 1, exclusive: false,
              depth: 1, ring: .off, direct: .off, reserveBytes: 0, fileMode: 0o640, group: nil)
}

@Test func aFolderThatIsNoLongerTheOneThatWasOpenedIsAbsent() throws {
    let folder = try TierFolder()
    let path = "\(folder.path)/tier"
    let opened = try TierOpening(start(path)).folders
    #expect(opened.absence() == nil)
    #expect(try folder.names("tier").isEmpty, "looking leaves nothing")
    try Files.rename(folder.root, from: "tier", to: "moved")
    #expect(opened.absence()?.text.contains("No such file or directory") == true)
    try Files.makeFolder(folder.root, "tier")
    #expect(opened.absence()?.text == "another folder is at '\(path)' now")
    #expect(opened.absence()?.kind == .unreachable)
}

@Test func aFolderThatIsMissingIsMadeOnlyAtTheFirstStart() throws {
    let folder = try TierFolder()
    let path = "\(folder.path)/tier"
    #expect(failureKind { _ = try TierOpening(start(path, isRestart: true)) } == .missing)
    #expect(try folder.names("").isEmpty)
    _ = try TierOpening(start(path))
    _ = try TierOpening(start(path, isRestart: true))
}

@Test func whatAnEarlierWorkerLeftOfAFileIsRemovedAtTheNextTry() throws {
    let folder = try TierFolder()
    let id = save(10, attempt: 1)
    let file = try largeFile(id)
    let first = try TierHarness([folder.path], instance: "first")
    try first.create(file, number: 1)
    try first.write(file, number: 1)
    first.stop()
    #expect(try folder.names("1000/llama/.saving-\(id)").count == 1)
    let second = try TierHarness([folder.path], instance: "second")
    try second.create(file, number: 1, fileTry: 2)
    try second.write(file, number: 1)
    try second.publish(file, number: 1)
    guard case .decision(_, .committed) = try second.decide(id).0 else { Issue.record("not committed"); return }
    let left = try folder.names("1000/llama/step-10.1-1").filter { $0.hasSuffix(".part") }
    #expect(left.isEmpty)
}
