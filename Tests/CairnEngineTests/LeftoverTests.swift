// What older attempts left, before a restore is answered: finished, voided, waited for, or chosen from.
import CairnEngine
import CairnMessages
import CairnModel
import Testing

@Suite struct LeftoverTests {
    /// An older attempt's save of a world of two, of which rank 0's part is published and no more is known here; then a new attempt
    /// whose rank 1 is served elsewhere, and its restore.
    private func restarted(worldSize: Int = 2) -> (Bench, RankSaveKey, CallID) {
        let bench = Bench()
        bench.open("old", worldSize: worldSize)
        let key = bench.key(1)
        bench.save("old", key)
        bench.stage(key)
        bench.publish(.local)
        bench.publish(.global)
        bench.open("new", worldSize: worldSize, token: "u", number: 2, pid: 9)
        let call = bench.newCall()
        bench.tell(.choose(call: call, session: "new", restore: 1, step: nil, deadline: nil))
        bench.wait(ms: 1_100)
        return (bench, key, call)
    }
    private func leftover(_ key: RankSaveKey, upto: Level = .committed, missing: [Int] = [], absent: [Int] = [], isPublished: Bool = false, everywhere: Candidate? = nil) -> Leftover {
        Leftover(save: key.save, worldSize: 2, upto: upto, participants: nil, missing: missing, absent: absent, isPublished: isPublished, everywhere: everywhere)
    }
    private func chooses(_ bench: Bench) -> Candidate?? {
        bench.answerBeside()
        return bench.takeTier(.global) { if case .choose(_, _, _, _, _, let candidate) = $0 { .some(candidate) } else { nil } }
    }
    private func asked(_ bench: Bench, _ save: SaveID) -> [String] {
        var kinds: [String] = []
        while let (id, kind) = bench.takeDecisionRequest(save) {
            kinds.append(kind)
            bench.tell(.tier(.global, kind == "void" ? .decision(id: id, .void(reason: "ended")) : .missing(id: id, ranks: [1])))
        }
        return kinds
    }

    @Test func eachNodeSaysWhatItHas() {
        let (bench, key, _) = restarted()
        bench.answerBeside()
        let list = bench.takeTier(.global) { if case .have(_, _, 2, let list) = $0 { list } else { nil } }
        #expect(list?.serves == [0])
        #expect(list?.saves.map(\.save) == [key.save])
        #expect(list?.saves.first?.ranks == [0])
        #expect(list?.saves.first?.level == .local)
        #expect(list?.served == [HaveList.ServedRanks(attempt: 1, ranks: [0])])
    }

    @Test func whatIsStagedButLiesNowhereWholeYetIsToBeFinished() {
        let bench = Bench()
        bench.open("old")
        let key = bench.key(1)
        bench.save("old", key, chunks: 24)
        // More chunks than the pool has slots: what is written is synced and leaves it.
        for _ in 0..<12 { bench.stage(key); bench.write(.local) }
        #expect(bench.told(key).last == .staged)
        #expect(bench.engine.resident(run: Bench.run, save: key.save).isEmpty)
        bench.open("new", token: "u", number: 2, pid: 9)
        bench.answerBeside()
        let list = bench.takeTier(.global) { if case .have(_, _, 2, let list) = $0 { list } else { nil } }
        #expect(list?.saves.map(\.ranks) == [[0]])
        #expect(list?.saves.map(\.level) == [.accepted])
    }

    @Test func whatNobodyCanFinishIsVoidedAtOnce() {
        let (bench, key, _) = restarted()
        _ = asked(bench, key.save)
        bench.answerLeftovers(serving: 2, [leftover(key, missing: [1], absent: [1])])
        #expect(asked(bench, key.save).contains("void"))
        #expect(chooses(bench) == nil)
        bench.wait(ms: 1_000)
        bench.answerLeftovers(serving: 2, [])
        bench.wait(ms: 100)
        #expect(chooses(bench) == .some(nil))
        #expect(bench.told(key).last == .failed)
    }

    @Test func aNodeThatIsSlowIsWaitedForAWhile() {
        let (bench, key, _) = restarted()
        _ = asked(bench, key.save)
        for _ in 0..<13 {
            bench.answerLeftovers(serving: 1, [leftover(key, missing: [1])])
            #expect(!asked(bench, key.save).contains("void"))
            #expect(chooses(bench) == nil)
            bench.wait(ms: 1_000)
        }
        bench.wait(ms: 2_000)
        bench.answerLeftovers(serving: 1, [leftover(key, missing: [1])])
        #expect(asked(bench, key.save).contains("void"))
    }

    @Test func whatItsDaemonsFinishIsWaitedForButNotForEver() {
        let (bench, key, _) = restarted()
        for _ in 0..<30 {
            bench.answerLeftovers(serving: 2, [leftover(key)])
            #expect(!asked(bench, key.save).contains("void"))
            #expect(chooses(bench) == nil)
            bench.wait(ms: 1_000)
        }
        bench.wait(ms: 32_000)
        _ = asked(bench, key.save)
        bench.answerLeftovers(serving: 2, [leftover(key)])
        bench.wait(ms: 1_000)
        #expect(chooses(bench) != nil)
    }

    @Test func allManifestsButNoDecisionIsDecided() {
        let (bench, key, _) = restarted()
        _ = asked(bench, key.save)
        bench.answerLeftovers(serving: 2, [leftover(key, isPublished: true)])
        let id = bench.takeDecisionRequest(key.save)
        #expect(id?.kind == "decide")
        bench.tell(.tier(.global, .decision(id: id?.id ?? 0, .committed(sequence: CommitSequence(attempt: 1, count: 1)))))
        #expect(bench.told(key).last == .committed)
    }

    @Test func aStepThatStayedLocalMayBeChosenWhereEveryRankFindsItsOwn() {
        let (bench, key, _) = restarted()
        _ = asked(bench, key.save)
        let candidate = Candidate(step: 7, sequence: CommitSequence(attempt: 1, count: 7), save: bench.key(7).save, level: .local)
        bench.answerLeftovers(serving: 2, [leftover(bench.key(7), upto: .local, everywhere: candidate)])
        bench.wait(ms: 100)
        #expect(chooses(bench) == .some(candidate))
        #expect(asked(bench, candidate.save).isEmpty)
    }

    @Test func oneDaemonOfAWholeWorldRestoresFromItsPoolWhileItFinishes() {
        let bench = Bench()
        bench.open("old")
        let key = bench.key(1)
        bench.save("old", key)
        bench.stage(key)
        bench.open("new", token: "u", number: 2, pid: 9)
        bench.tell(.choose(call: bench.newCall(), session: "new", restore: 1, step: nil, deadline: nil))
        let candidate = Candidate(step: 1, sequence: CommitSequence(attempt: 1, count: 1), save: key.save, level: .staged)
        bench.answerLeftovers(serving: 1, [Leftover(save: key.save, worldSize: 1, upto: .committed, participants: nil, missing: [], absent: [], isPublished: false,
                                                    everywhere: candidate)])
        #expect(chooses(bench) == .some(candidate))
    }
}
