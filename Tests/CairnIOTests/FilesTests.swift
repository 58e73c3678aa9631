@testable import CairnIO
import Testing

@Suite struct FilesTests {
    let folder: TemporaryFolder
    init() throws { folder = try TemporaryFolder() }

    @Test func writtenBytesAreReadBack() throws {
        try Files.makeFolders(folder.root, "a/b/c")
        let bytes = patternBytes(10_001)
        try Files.writeNew(folder.root, "a/b/c/record", bytes)
        #expect(try Files.readAll(folder.root, "a/b/c/record", limit: 10_001) == bytes)
        let status = try Files.stat(folder.root, "a/b/c/record")
        #expect(status.isRegular && status.bytes == 10_001 && status.links == 1)
        #expect(try Files.stat(folder.root, "a").isFolder)
        #expect(try Files.makeFolder(folder.root, "a") == false)
    }

    @Test func fileBeyondTheLimitIsTooLarge() throws {
        try Files.writeNew(folder.root, "record", patternBytes(11))
        let failure = #expect(throws: IOFailure.self) { try Files.readAll(folder.root, "record", limit: 10) }
        #expect(failure?.isTooLarge == true)
    }

    @Test func takenNameIsNeverReplaced() throws {
        try Files.writeNew(folder.root, "old", [1])
        try Files.writeNew(folder.root, "new", [2])
        #expect(throws: IOFailure.self) { try Files.writeNew(folder.root, "old", [3]) }
        let failure = #expect(throws: IOFailure.self) { try Files.link(folder.root, from: "new", to: "old") }
        #expect(failure?.exists == true)
        #expect(try Files.readAll(folder.root, "old", limit: 10) == [1])
        try Files.makeFolders(folder.root, "one/x")
        try Files.link(folder.root, from: "new", to: "one/x/linked")
        #expect(try Files.stat(folder.root, "one/x/linked").links == 2)
        try Files.makeFolder(folder.root, "two")
        let refused = #expect(throws: IOFailure.self) { try Files.rename(folder.root, from: "two", to: "one") }
        #expect(refused?.isNotEmpty == true)
    }

    @Test(arguments: ["../x", "/etc/passwd", "a/../../x", "link/x", "link", ".."])
    func nothingLeavesTheFolder(path: String) throws {
        try Files.makeFolder(folder.root, "a")
        try makeSymbolicLink(to: "/etc", at: "\(folder.path)/link")
        for byComponent in [false, true] {
            #expect(throws: IOFailure.self) {
                try Files.openOnce(folder.root, path, flags: .read, mode: 0, byComponent: byComponent)
            }
        }
        #expect(throws: IOFailure.self) { try Files.writeNew(folder.root, path, [1]) }
        #expect(throws: IOFailure.self) { try Files.unlink(folder.root, path + "/passwd") }
    }

    @Test func fallbackByComponentOpensTheSame() throws {
        try Files.makeFolders(folder.root, "a/b")
        try Files.writeNew(folder.root, "a/b/x", [1, 2])
        let file = try Files.openOnce(folder.root, "a/b/x", flags: .read, mode: 0, byComponent: true)
        #expect(try PositionedIO.read(file, bytes: 10, fileOffset: 0) == [1, 2])
        #expect(try Files.stat(try Files.openOnce(folder.root, ".", flags: .read, mode: 0, byComponent: true)).isFolder)
    }

    @Test func listIsSortedAndTreesGoWithoutFollowingLinks() throws {
        try Files.makeFolders(folder.root, "tree/b/c")
        try Files.makeFolder(folder.root, "kept")
        try Files.writeNew(folder.root, "kept/file", [1])
        try Files.writeNew(folder.root, "tree/z", [1])
        try Files.writeNew(folder.root, "tree/b/c/d", [1])
        try makeSymbolicLink(to: "\(folder.path)/kept", at: "\(folder.path)/tree/a")
        #expect(try Files.list(folder.root, "tree") == [.init(name: "a", isFolder: false), .init(name: "b", isFolder: true),
                                                        .init(name: "z", isFolder: false)])
        try Files.removeTree(folder.root, "tree")
        try Files.removeTree(folder.root, "tree")
        #expect(try Files.list(folder.root, "") == [.init(name: "kept", isFolder: true)])
        #expect(try Files.list(folder.root, "kept").count == 1)
        #expect(throws: IOFailure.self) { try Files.list(folder.root, "", limit: 0) }
    }

    @Test func lockExcludesASecondHolder() throws {
        let first = try Files.open(folder.root, "lock", flags: [.read, .write, .create])
        let second = try Files.open(folder.root, "lock", flags: [.read, .write])
        #expect(try Files.tryLock(first))
        #expect(try !Files.tryLock(second))
    }

    @Test func spaceAllocationAndAlignmentAreSaid() throws {
        let file = try Files.open(folder.root, "file", flags: [.write, .create, .exclusive, .direct])
        #expect(try Files.allocate(file, bytes: 1 << 20))
        #expect(try Files.stat(file).bytes == 1 << 20)
        try Files.truncate(file, bytes: 12_345)
        try Files.syncData(file)
        #expect(try Files.stat(folder.root, "file").bytes == 12_345)
        let space = try Files.space(folder.root)
        #expect(space.totalBytes > space.freeBytes && space.freeBytes > 0)
        let alignment = Files.directAlignment(file)
        #expect([512, 1024, 2048, 4096].contains(alignment))
    }

    @Test func failureSaysOperationPathAndErrno() {
        let failure = #expect(throws: IOFailure.self) { try Files.open(folder.root, "missing", flags: .read) }
        #expect(failure?.description == "open 'missing': No such file or directory (ENOENT)")
        #expect(failure?.isMissing == true)
        #expect(IOFailure(operation: "write", errno: IOFailure.noSpace, path: "/x").description
            == "write '/x': No space left on device (ENOSPC)")
    }

    @Test func limitsHold() { IOLimits.verify() }

    private func makeSymbolicLink(to target: String, at path: String) throws {
        let child = try ChildProcess.spawn(executable: "/bin/ln", arguments: ["ln", "-s", target, path])
        #expect(child.wait(timeoutMilliseconds: 10_000) == .code(0))
    }
}
