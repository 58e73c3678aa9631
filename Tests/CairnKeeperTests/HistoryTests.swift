import CairnIO
@testable import CairnKeeper
import CairnModel
import CairnWire
import Testing

@Suite struct HistoryLineTests {
    @Test func aLineComesBackAsItWas() throws {
        let save = past(7, 1, level: .failed, reason: "superseded: \"9\" saves\nwait")
        let line = HistoryLine.encode(save)
        #expect(line.last == 0x0A && line.dropLast().allSatisfy { $0 != 0x0A })
        #expect(HistoryLine.decode(line.dropLast()) == save)
    }

    @Test func anyFlippedBitIsNoticed() {
        let line = Array(HistoryLine.encode(past(7, 1)).dropLast())
        for index in line.indices {
            var bad = line
            bad[index] ^= 0x10
            #expect(HistoryLine.decode(bad[...]) == nil, "byte \(index)")
        }
    }

    @Test func aLongReasonIsCut() throws {
        let line = HistoryLine.encode(past(7, 1, reason: String(repeating: "é", count: 5000)))
        #expect(line.count <= KeeperLimits.lineBytes)
        #expect(try #require(HistoryLine.decode(line.dropLast())?.reason).hasSuffix("…"))
    }

    @Test func whatIsNoRunOfOursIsLeftOut() {
        #expect(HistoryLine.decode(HistoryLine.encode(past(7, 1, run: "../x")).dropLast()) == nil)
        #expect(HistoryLine.decode([]) == nil)
    }
}

@Suite struct HistoryFilesTests {
    private func lines(_ range: Range<Int>) -> [UInt8] { range.flatMap { HistoryLine.encode(past($0, 0)) } }
    private func steps(_ bytes: [UInt8]) -> [Int] { HistoryLine.split(bytes).lines.compactMap { HistoryLine.decode($0)?.step } }
    private func reopened(_ folder: TemporaryFolder) throws -> HistoryFiles { try HistoryFiles(folder: folder.path, node: "n", limit: 1 << 20) }

    @Test func whatWasAppendedIsThereAfterARestart() throws {
        let folder = try TemporaryFolder()
        let first = try reopened(folder)
        #expect(try first.load().lines.isEmpty)
        try first.append(lines(0..<3))
        try first.append(lines(3..<4))
        let second = try reopened(folder)
        #expect(steps(try second.load().lines) == [0, 1, 2, 3])
        try second.append(lines(4..<5))
        #expect(steps(try reopened(folder).load().lines) == [0, 1, 2, 3, 4])
    }

    @Test func aTornTailIsDroppedWhereverItWasTorn() throws {
        let whole = lines(0..<2), third = HistoryLine.encode(past(2, 0))
        for cut in [1, 8, 9, 60, third.count - 1] {
            let folder = try TemporaryFolder()
            try folder.write("history-n", whole + third.prefix(cut))
            let files = try reopened(folder)
            let (found, damaged) = try files.load()
            #expect(found == whole && damaged == 1, "cut at \(cut)")
            try files.append(lines(5..<6))
            #expect(steps(try reopened(folder).load().lines) == [0, 1, 5], "cut at \(cut)")
        }
    }

    @Test func aDamagedLineInTheMiddleCostsOnlyItself() throws {
        let folder = try TemporaryFolder()
        var second = lines(1..<2)
        second[20] ^= 1
        try folder.write("history-n", lines(0..<1) + second + lines(2..<3))
        let (found, damaged) = try reopened(folder).load()
        #expect(damaged == 1 && steps(found) == [0, 2])
    }

    @Test func filesStayUnderTheirLimitAndKeepTheNewest() throws {
        let folder = try TemporaryFolder()
        let limit = 8 << 10
        let files = try HistoryFiles(folder: folder.path, node: "n", limit: limit)
        for step in 0..<200 { try files.append(lines(step..<step + 1)) }
        #expect(try folder.size("history-n") + folder.size("history-n.old") <= limit)
        let found = try HistoryFiles(folder: folder.path, node: "n", limit: limit).load().lines
        let steps = steps(found)
        #expect(steps.last == 199 && steps == Array((200 - steps.count)..<200) && steps.count >= 10)
    }
}

@Suite struct HistoryTests {
    @Test func lastSavesComeWholeAndOldestFirst() {
        var history = History()
        for step in 1...5 { for rank in [1, 0] { history.add(past(step, rank)) } }
        let found = history.saves(of: RunKey(uid: 5, name: "llama"), last: 2)
        #expect(found.map(\.step) == [4, 4, 5, 5] && found.map(\.rank) == [0, 1, 0, 1])
        #expect(history.saves(of: RunKey(uid: 6, name: "llama"), last: 2).isEmpty)
    }

    @Test func aRunThatSavesALotPushesNobodyOut() {
        var history = History(limit: 100)
        history.add(past(1, 0, run: "quiet"))
        for step in 1...1000 { history.add(past(step, 0, run: "loud")) }
        #expect(history.count <= 100)
        #expect(history.saves(of: RunKey(uid: 5, name: "quiet"), last: 9).count == 1)
        #expect(history.saves(of: RunKey(uid: 5, name: "loud"), last: 1).first?.step == 1000)
    }

    @Test func whatWasLoadedComesBeforeWhatIsNew() {
        var history = History()
        history.add(past(3, 0))
        history.addBefore([past(1, 0), past(2, 0)])
        #expect(history.saves(of: RunKey(uid: 5, name: "llama"), last: 9).map(\.step) == [1, 2, 3])
        #expect(history.count == 3)
    }

    @Test func theLastCommitIsNotAFailure() throws {
        var history = History()
        history.add(past(1, 0))
        history.add(past(2, 0, level: .failed))
        let (save, ms) = try #require(history.lastCommit(of: RunKey(uid: 5, name: "llama")))
        #expect(save.step == 1 && ms == save.acceptedMs + 5)
    }
}
