// Who may speak for which rank, and which number the attempt has.
import CairnEngine
import CairnMessages
import CairnModel
import Testing

@Suite struct AttemptTests {
    @Test func openWaitsForStagerNumberAndWhatAFormerLifeLeft() {
        let bench = Bench()
        let call = bench.askOpen("s")
        bench.answerNumber(3)
        bench.answerResume()
        #expect(bench.answer(call) == nil)
        bench.tell(.stager(.sessionOpened(token: "s", direct: false)))
        #expect(bench.answer(call) == .opened(session: "s", attempt: 3, needsDescriptor: true))
    }

    @Test func rankZeroNumbersTheAttemptOthersFindIt() {
        let bench = Bench()
        bench.askOpen("s1", rank: 1, worldSize: 2)
        bench.answerBeside()
        let find = bench.takeTier(.global) { if case .findAttempt(let id, _, _) = $0 { id } else { nil } }
        #expect(find != nil)
        bench.tell(.tier(.global, .attempt(id: find ?? 0, number: nil)))
        bench.askOpen("s0", rank: 0, worldSize: 2, pid: 8)
        bench.wait(ms: 100)
        #expect(bench.takeTier(.global) { if case .numberAttempt = $0 { true } else { nil } } == true)
    }

    @Test func aRankThatIsTakenIsRefusedButItsOwnProcessMayComeBack() {
        let bench = Bench()
        bench.open("a")
        #expect(bench.answer(bench.askOpen("b", pid: 8)) == .failed(.rankTaken(pid: 7)))
        #expect(bench.open("c") == .opened(session: "c", attempt: 1, needsDescriptor: false))
    }

    @Test func theSameProcessMayOpenAgainBeforeTheAttemptHasANumber() {
        let bench = Bench()
        bench.askOpen("a")
        let call = bench.askOpen("b")
        bench.tell(.stager(.sessionOpened(token: "b", direct: true)))
        bench.answerNumber(1)
        bench.answerResume()
        #expect(bench.answer(call) == .opened(session: "b", attempt: 1, needsDescriptor: false))
    }

    @Test func anotherWorldSizeIsRefused() {
        let bench = Bench()
        bench.open("a", worldSize: 2)
        guard case .failed(.invalid(let name, _))? = bench.answer(bench.askOpen("b", rank: 1, worldSize: 3, pid: 8)) else { Issue.record("not refused"); return }
        #expect(name == "worldSize")
    }

    @Test func aNewerAttemptEndsTheOlderOnesSessionsAndItsUnstagedSaves() {
        let bench = Bench()
        bench.open("old")
        let key = bench.key(5)
        bench.save("old", key)
        bench.open("new", token: "u", number: 2, pid: 9)
        #expect(bench.told(key) == [.accepted, .failed])
        #expect(bench.answer(bench.save("old", bench.key(6))) == .failed(.notOpen))
        #expect(bench.open("late", rank: 0, number: 1, pid: 10) == .failed(.attemptEnded(by: 2)))
    }

    @Test func anOpenIsAnsweredAlsoWhileTheCommittingTierIsDown() {
        let bench = Bench(start: false)
        bench.tell(.stagerReady)
        let call = bench.askOpen("s")
        bench.tell(.stager(.sessionOpened(token: "s", direct: true)))
        bench.wait(ms: 61_000)
        guard case .failed(.tierDown(let tier, _))? = bench.answer(call) else { Issue.record("hangs"); return }
        #expect(tier == "global")
    }

    @Test func aSessionThatComesWithoutAStagerIsOpenedByTheNextOne() {
        let bench = Bench(start: false)
        bench.askOpen("s")
        func opened() -> Bool { bench.take { if case .stager(.openSession(token: "s", _, _)) = $0 { true } else { nil } } ?? false }
        #expect(!opened())
        bench.tell(.stagerReady)
        #expect(opened())
    }

    @Test func aRestartedDaemonGoesOnWithTheCountOfCommits() {
        let bench = Bench()
        bench.askOpen("s")
        bench.tell(.stager(.sessionOpened(token: "s", direct: true)))
        bench.answerNumber(4)
        bench.answerResume(steps: [StepSummary(step: 9, sequence: CommitSequence(attempt: 4, count: 17), save: SaveID(attempt: 4, step: 9, attemptTry: 1),
                                               parent: nil, worldSize: 1, bytes: 1, pinned: false, superseded: false, savedAt: "")])
        let key = bench.key(10, attempt: 4)
        bench.save("s", key)
        bench.stage(key)
        bench.publish(.local)
        bench.write(.global)
        let facts = bench.take { action -> ManifestFacts? in if case .publish(.global, _, _, _, let facts) = action { facts } else { nil } }
        #expect(facts?.count == 18)
    }
}
