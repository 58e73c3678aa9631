// Files on tiers: order, errors, late replies, lost workers.
import CairnEngine
import CairnMessages
import CairnModel
import Testing

@Suite struct FlushTests {
    private func staged(_ bench: Bench, _ step: Int = 1) -> RankSaveKey {
        bench.open("s")
        let key = bench.key(step)
        bench.save("s", key)
        bench.stage(key)
        _ = bench.told(key)
        return key
    }

    @Test func theGlobalTiersTurnComesAfterTheLocalOne() {
        let bench = Bench()
        let key = staged(bench)
        #expect(bench.takeCreate(.global) == nil)
        bench.publish(.local)
        #expect(bench.told(key) == [.local])
        #expect(bench.publish(.global))
        #expect(bench.told(key) == [.global])
    }

    @Test func anErrorVoidsTheFileAndTheNextTryIsANewOne() {
        let bench = Bench()
        _ = staged(bench)
        let first = bench.takeCreate(.local)
        bench.fail(.local, first?.id ?? 0)
        bench.wait(ms: 600)
        let second = bench.takeCreate(.local)
        #expect(second != nil && second?.file != first?.file)
    }

    @Test func aLateReplyAboutAnEarlierTrySaysNothing() {
        let bench = Bench()
        let key = staged(bench)
        bench.tell(.tier(.local, .done(id: bench.takeCreate(.local)?.id ?? 0)))
        let writes = bench.takeWrites(.local) ?? []
        #expect(writes.count == 2)
        bench.fail(.local, writes[0].id)
        bench.wait(ms: 600)
        bench.tell(.tier(.local, .done(id: bench.takeCreate(.local)?.id ?? 0)))
        let again = bench.takeWrites(.local) ?? []
        #expect(again.count == 2)
        // The first try's second write ends now, as one and the other: neither counts for the second try.
        bench.tell(.tier(.local, .done(id: writes[1].id)))
        bench.tell(.tier(.local, .done(id: again[0].id)))
        #expect(bench.takePublish(.local) == nil)
        bench.tell(.tier(.local, .done(id: again[1].id)))
        #expect(bench.takePublish(.local) != nil)
        #expect(bench.told(key) == [])
    }

    @Test func whenTheLocalTierIsGivenUpTheGlobalOneTakesItFromMemory() {
        let bench = Bench()
        let key = staged(bench)
        for _ in 0..<3 {
            bench.fail(.local, bench.takeCreate(.local)?.id ?? 0)
            bench.wait(ms: 2_000)
        }
        #expect(bench.takeCreate(.local) == nil)
        #expect(bench.publish(.global))
        #expect(bench.told(key) == [.global])
    }

    @Test(arguments: [TierFailureKind.noSpace, .io]) func aGlobalTierThatIsFullOrFailsIsWaitedForWhileTheLocalCopyStands(_ kind: TierFailureKind) {
        let bench = Bench()
        let key = staged(bench)
        bench.publish(.local)
        for _ in 0..<6 {
            bench.fail(.global, bench.takeCreate(.global)?.id ?? 0, kind)
            bench.wait(ms: 10_000)
        }
        #expect(bench.publish(.global))
        #expect(bench.told(key) == [.local, .global])
    }

    @Test func aFullTierThatIsTheOnlyOneFailsTheSave() {
        let bench = Bench(tiers: [.global])
        let key = staged(bench)
        for _ in 0..<3 {
            bench.fail(.global, bench.takeCreate(.global)?.id ?? 0, .noSpace)
            bench.wait(ms: 2_000)
        }
        #expect(bench.told(key) == [.failed])
    }

    @Test func aCommittingTierThatFailsEachTryFailsTheSave() {
        let bench = Bench(tiers: [.global])
        let key = staged(bench)
        for _ in 0..<3 {
            bench.fail(.global, bench.takeCreate(.global)?.id ?? 0)
            bench.wait(ms: 2_000)
        }
        #expect(bench.told(key) == [.failed])
        #expect(bench.takeDecisionRequest(key.save)?.kind == "void")
    }

    @Test func aPublishOfUnknownEndIsToldOnlyByTheDecision() {
        let bench = Bench(tiers: [.global])
        let key = staged(bench)
        for _ in 0..<3 {
            bench.write(.global)
            bench.fail(.global, bench.takePublish(.global) ?? 0)
            bench.wait(ms: 2_000)
        }
        #expect(bench.told(key) == [])
        bench.decide(key.save, .committed(sequence: CommitSequence(attempt: 1, count: 1)))
        #expect(bench.told(key).last == .committed)
    }

    @Test func slotsUnderADeadWorkersWritesRest() {
        let bench = Bench(tiers: [.global])
        let key = staged(bench)
        bench.tell(.tier(.global, .done(id: bench.takeCreate(.global)?.id ?? 0)))
        #expect(bench.takeWrites(.global)?.count == 2)
        bench.tell(.tierLost(.global, reason: "killed"))
        #expect(bench.engine.poolReport.quarantined == 2)
        bench.ready(.global)
        bench.wait(ms: 1_000)
        #expect(bench.publish(.global))
        bench.decide(key.save, .committed(sequence: CommitSequence(attempt: 1, count: 1)))
        bench.wait(ms: 30_000)
        #expect(bench.engine.poolReport.quarantined == 0)
    }

    @Test func aHungLocalTierIsPassedBy() {
        let bench = Bench()
        let key = staged(bench)
        bench.wait(ms: 11_000)
        #expect(bench.engine.tierReports.first { $0.tier == .local }?.stalled == true)
        #expect(bench.publish(.global))
        #expect(bench.told(key).last == .global)
    }

    @Test func memoryOnlyAndLocalOnlySavesEndThere() {
        let bench = Bench()
        bench.open("s")
        let memory = bench.key(1), local = bench.key(2)
        bench.save("s", memory, upto: .staged)
        bench.stage(memory)
        bench.save("s", local, upto: .local)
        bench.stage(local)
        bench.publish(.local)
        #expect(bench.told(memory) == [.accepted, .staged])
        #expect(bench.told(local) == [.accepted, .staged, .local])
        #expect(bench.takeCreate(.global) == nil)
        #expect(bench.engine.unfinishedCount == 0)
    }

    @Test func ranksOfAMemoryOnlySaveMayComeOneAfterAnother() {
        let bench = Bench()
        bench.open("a", rank: 0, worldSize: 2)
        bench.open("b", rank: 1, worldSize: 2, pid: 8)
        bench.save("a", bench.key(1), upto: .staged)
        bench.stage(bench.key(1))
        bench.save("b", bench.key(1, rank: 1), upto: .staged)
        bench.stage(bench.key(1, rank: 1))
        #expect(bench.told(bench.key(1, rank: 1)) == [.accepted, .staged])
        #expect(bench.engine.resident(run: Bench.run, save: bench.key(1).save).map(\.rank) == [0, 1])
    }
}
