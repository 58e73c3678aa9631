// Restore by agreement: one answer for all ranks, settled by all.
import CairnEngine
import CairnMessages
import CairnModel
import Testing

@Suite struct RestoreTests {
    private let sequence = CommitSequence(attempt: 1, count: 4)

    private func choose(_ bench: Bench, _ session: SessionToken, _ restore: Int = 1) -> CallID {
        let call = bench.newCall()
        bench.tell(.choose(call: call, session: session, restore: restore, step: nil, deadline: nil))
        bench.answerBeside()
        return call
    }
    private func settle(_ bench: Bench, _ session: SessionToken, ok: Bool = true, _ restore: Int = 1) -> CallID {
        let call = bench.newCall()
        bench.tell(.settle(call: call, session: session, restore: restore, ok: ok, reason: ok ? nil : "torn"))
        return call
    }
    private func answerChoice(_ bench: Bench, step: Int?, _ sequence: CommitSequence?) {
        let id = bench.takeTier(.global) { request -> Int? in
            switch request {
            case .choose(let id, _, _, _, _, _), .readChoice(let id, _, _, _): id
            default: nil
            }
        }
        bench.tell(.tier(.global, .choice(id: id ?? 0, chosen: true, step: step, sequence: sequence, save: nil, level: nil)))
    }
    private func answerVerdict(_ bench: Bench, _ ok: Bool?) {
        var reason: String?
        if let id = bench.takeTier(.global, { if case .settled(let id, _, _, _, _, _, let said) = $0 { reason = said; return id } else { return nil } }) {
            bench.tell(.tier(.global, .done(id: id)))
        }
        if let id = bench.takeTier(.global, { if case .verdict(let id, _, _, _, _, _, _) = $0 { id } else { nil } }) {
            bench.tell(.tier(.global, .verdict(id: id, ok: ok, reason: reason)))
        }
    }
    private func two() -> Bench {
        let bench = Bench()
        bench.open("a", rank: 0, worldSize: 2)
        bench.open("b", rank: 1, worldSize: 2, pid: 8)
        return bench
    }

    @Test func allRanksAreGivenTheSameStep() {
        let bench = two()
        let first = choose(bench, "a"), second = choose(bench, "b")
        answerChoice(bench, step: 8, sequence)
        #expect(bench.answer(first) == .chosen(step: 8, sequence: sequence))
        #expect(bench.answer(second) == .chosen(step: 8, sequence: sequence))
        #expect(bench.answer(choose(bench, "b")) == .chosen(step: 8, sequence: sequence))
    }

    @Test func settleWaitsForAllRanks() {
        let bench = two()
        _ = choose(bench, "a")
        answerChoice(bench, step: 8, sequence)
        let first = settle(bench, "a")
        bench.wait(ms: 200)
        #expect(bench.answer(first) == nil)
        let second = settle(bench, "b")
        bench.wait(ms: 200)
        answerVerdict(bench, true)
        #expect(bench.answer(first) == .settled(again: false, reason: nil))
        #expect(bench.answer(second) == .settled(again: false, reason: nil))
    }

    /// A node whose ranks no launcher counted: rank 1 opens after rank 0 has settled, and what it says goes into a file of its own.
    @Test func aRankThatOpensLateIsWaitedFor() {
        let bench = Bench()
        bench.open("a", rank: 0, worldSize: 2)
        _ = choose(bench, "a")
        answerChoice(bench, step: nil, nil)
        let first = settle(bench, "a")
        func published() -> [Int]? {
            guard let (id, ranks) = bench.takeTier(.global, { if case .settled(let id, _, _, _, let ranks, _, _) = $0 { (id, ranks) } else { nil } }) else { return nil }
            bench.tell(.tier(.global, .done(id: id)))
            return ranks
        }
        #expect(published() == [0])
        answerVerdict(bench, nil)
        bench.open("b", rank: 1, worldSize: 2, pid: 8)
        #expect(bench.engine.endedRestores(session: "b") == 0, "it is under way")
        #expect(bench.answer(choose(bench, "b")) == .failed(.noSuchStep(-1)))
        let second = settle(bench, "b")
        bench.wait(ms: 3000)
        #expect(published() == [1])
        bench.wait(ms: 3000)
        answerVerdict(bench, true)
        #expect(bench.answer(first) == .settled(again: false, reason: nil))
        #expect(bench.answer(second) == .settled(again: false, reason: nil))
        #expect(bench.engine.endedRestores(session: "b") == 1)
    }

    @Test func ifOneCouldNotAllGoAgainWithTheNext() {
        let bench = two()
        _ = choose(bench, "a")
        answerChoice(bench, step: 8, sequence)
        let first = settle(bench, "b", ok: false)
        answerVerdict(bench, false)
        #expect(bench.answer(first) == .settled(again: true, reason: "rank 1: torn"))
        #expect(bench.answer(settle(bench, "a")) == .settled(again: true, reason: "rank 1: torn"))
        let again = choose(bench, "a", 2)
        answerChoice(bench, step: 6, CommitSequence(attempt: 1, count: 2))
        #expect(bench.answer(again) == .chosen(step: 6, sequence: CommitSequence(attempt: 1, count: 2)))
    }

    @Test func nothingToRestoreIsAnAnswerToo() {
        let bench = two()
        let call = choose(bench, "a")
        answerChoice(bench, step: nil, nil)
        #expect(bench.answer(call) == .failed(.noSuchStep(-1)))
    }

    @Test func nothingBesideIsNoAnswerWhileTheCommittingTierIsDown() {
        let bench = Bench()
        func takeChoose(_ tier: Tier) -> Int? { bench.takeTier(tier) { if case .choose(let id, _, _, _, _, _) = $0 { id } else { nil } } }
        bench.open("a")
        bench.tell(.tierLost(.global, reason: "gone"))
        let call = choose(bench, "a")
        bench.wait(ms: 4_000)
        bench.answerBeside()
        #expect(takeChoose(.local) == nil)
        bench.wait(ms: 2_000)
        bench.answerBeside()
        let id = takeChoose(.local)
        #expect(id != nil)
        bench.tell(.tier(.local, .choice(id: id ?? 0, chosen: true, step: nil, sequence: nil, save: nil, level: nil)))
        #expect(bench.answer(call) == .failed(.tierDown(tier: "global", reason: "gone")))
    }

    @Test func aSettleOfWhatWasNotChosenIsRefused() {
        let bench = two()
        guard case .failed(.invalid)? = bench.answer(settle(bench, "a")) else { Issue.record("not refused"); return }
    }
}
