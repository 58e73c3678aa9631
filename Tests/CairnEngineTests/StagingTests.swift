// From `save()` to staged: replies, refusals, the fence, and the pool.
import CairnEngine
import CairnMessages
import CairnModel
import Testing

@Suite struct StagingTests {
    @Test func theReplyWaitsForEagerBytesOnlyWhereThereAreSome() {
        let bench = Bench()
        bench.open("s")
        #expect(bench.answer(bench.save("s", bench.key(1))) == .saved(bench.key(1).save, bytes: Sizes.chunkBytes + 4096))
        let call = bench.save("s", bench.key(2), waits: true)
        #expect(bench.answer(call) == nil)
        bench.tell(.stager(.eagerStaged(handle: bench.handle(bench.key(2)))))
        #expect(bench.answer(call) == .saved(bench.key(2).save, bytes: Sizes.chunkBytes + 4096))
    }

    @Test func oneSaveMoreThanTheLimitIsBusy() {
        let bench = Bench()
        bench.open("s")
        bench.save("s", bench.key(1))
        bench.save("s", bench.key(2))
        #expect(bench.answer(bench.save("s", bench.key(3))) == .failed(.busy(step: 3)))
        bench.stage(bench.key(1))
        #expect(bench.answer(bench.save("s", bench.key(4))) != .failed(.busy(step: 4)))
    }

    @Test func aRepeatedSaveIsStagedOnce() {
        let bench = Bench()
        bench.open("s")
        let key = bench.key(1)
        bench.save("s", key)
        #expect(bench.answer(bench.save("s", key)) == .saved(key.save, bytes: Sizes.chunkBytes + 4096))
        var begins = 0
        while bench.take({ if case .stager(.begin) = $0 { true } else { nil } }) == true { begins += 1 }
        #expect(begins == 1)
    }

    @Test func aSaveFailsWhenNothingWasStagedForTheFencesTime() {
        let bench = Bench()
        bench.open("s")
        let key = bench.key(1)
        bench.save("s", key)
        bench.wait(ms: 29_000)
        #expect(bench.told(key) == [.accepted])
        bench.wait(ms: 2_000)
        #expect(bench.told(key) == [.failed])
        #expect(bench.take { if case .stager(.cancel) = $0 { true } else { nil } } == true)
    }

    @Test func chunksOfStreamedBytesGetSlotsAsTheyArePut() {
        let bench = Bench()
        bench.open("s")
        let key = bench.key(1), chunk = Sizes.chunkBytes
        func assigned() -> [Int] {
            var chunks: [Int] = []
            while let list = bench.take({ action -> [ChunkAssignment]? in if case .stager(.stage(let list)) = action { list } else { nil } }) { chunks += list.map(\.chunk) }
            return chunks
        }
        // Chunk 1 ends with streamed bytes; chunk 4 has eager ones as well.
        bench.save("s", key, chunks: 6, eager: [0, 4], streamedFrom: 2 * chunk - 100)
        #expect(assigned() == [0, 4])
        bench.tell(.put(handle: bench.handle(key), streamedFrom: 2 * chunk))
        #expect(assigned() == [1])
        bench.tell(.put(handle: bench.handle(key), streamedFrom: 2 * chunk + 1))
        #expect(assigned() == [2])
        bench.tell(.put(handle: bench.handle(key), streamedFrom: nil))
        #expect(assigned() == [3, 5])
    }

    @Test func savesThatWaitForPutsLeaveRoomToOthers() {
        let bench = Bench()
        for number in 0..<9 {
            bench.open("s\(number)", rank: number, worldSize: 10)
            bench.save("s\(number)", bench.key(1, rank: number), chunks: 3, eager: [0, 2], streamedFrom: 4096)
        }
        #expect(bench.engine.poolReport.free == 4)
        bench.open("t", rank: 9, worldSize: 10)
        bench.save("t", bench.key(1, rank: 9), chunks: 3)
        #expect(bench.engine.poolReport.free == 1)
    }

    @Test func aSaveWhoseRankPutsNothingFailsAndHoldsNoSlotsBefore() {
        let bench = Bench()
        bench.open("s")
        bench.save("s", bench.key(1), chunks: 16, eager: [], streamedFrom: 4096)
        #expect(bench.engine.poolReport.free == 16)
        #expect(bench.engine.saving(session: "s", save: bench.key(1).save)?.failure == nil)
        bench.wait(ms: 31_000)
        #expect(bench.take { if case .tell(let notice) = $0, notice.level == .failed { notice.reason } else { nil } }?.contains("put nothing more") == true)
        #expect(bench.engine.saving(session: "s", save: bench.key(1).save)?.failure?.contains("put nothing more") == true)
        #expect(bench.engine.saving(session: "t", save: bench.key(1).save) == nil)
    }

    @Test func aRankThatHungUpBeforeStagedHasFailed() {
        let bench = Bench()
        bench.open("s")
        let key = bench.key(1)
        bench.save("s", key)
        bench.tell(.hungUp("s"))
        bench.stage(key)
        #expect(bench.told(key) == [.accepted, .failed])
    }

    @Test func aRankThatDiesAfterStagedLosesNothing() {
        let bench = Bench()
        bench.open("s")
        let key = bench.key(1)
        bench.save("s", key)
        bench.stage(key)
        bench.tell(.sessionEnded("s", reason: "gone"))
        bench.publish(.local)
        bench.publish(.global)
        bench.decide(key.save, .committed(sequence: CommitSequence(attempt: 1, count: 1)))
        #expect(bench.told(key) == [.accepted, .staged, .local, .global, .committed])
    }

    @Test func aBusySlotOfACancelledSaveRestsUntilItIsFree() {
        let bench = Bench()
        bench.open("s")
        let key = bench.key(1)
        bench.save("s", key)
        let slots = bench.take { action -> [Int]? in if case .stager(.stage(let list)) = action { list.map(\.slot) } else { nil } } ?? []
        bench.tell(.hungUp("s"))
        #expect(bench.engine.poolReport.free == 14)
        bench.tell(.stager(.cancelled(handle: bench.handle(key), busySlots: [slots[0]])))
        #expect(bench.engine.poolReport.free == 15)
        #expect(bench.engine.poolReport.quarantined == 1)
        bench.tell(.stager(.slotFree(slot: slots[0])))
        #expect(bench.engine.poolReport.free == 16)
    }

    @Test func aLostStagerFailsWhatItCopiedAndFreesItsSlots() {
        let bench = Bench()
        bench.open("s")
        let staged = bench.key(1), copied = bench.key(2)
        bench.save("s", staged)
        bench.stage(staged)
        bench.save("s", copied)
        bench.tell(.stagerLost(reason: "killed"))
        #expect(bench.told(staged) == [.accepted, .staged])
        #expect(bench.told(copied) == [.accepted, .failed])
        #expect(bench.engine.poolReport.free == 14)
        #expect(bench.engine.sessionTotal == 0)
    }

    @Test func aRankThatJoinsAVoidSaveIsRefused() {
        let bench = Bench()
        bench.open("a", rank: 0, worldSize: 2)
        bench.open("b", rank: 1, worldSize: 2, pid: 8)
        bench.save("a", bench.key(1))
        bench.tell(.hungUp("a"))
        guard case .failed(.invalid)? = bench.answer(bench.save("b", bench.key(1, rank: 1))) else { Issue.record("accepted"); return }
        #expect(bench.told(bench.key(1, rank: 1)) == [])
    }

    @Test func aStateLargerThanThePoolIsStagedAtTheDisksSpeed() {
        let bench = Bench()
        bench.open("s")
        let key = bench.key(1)
        bench.save("s", key, chunks: 40)
        var rounds = 0
        while !bench.told(key).contains(.staged), rounds < 200 {
            bench.stage(key)
            bench.write(.local)
            rounds += 1
        }
        #expect(rounds < 200)
        bench.publish(.local)
        // What has left the pool is read back from the local copy.
        var reads = 0
        for _ in 0..<200 {
            guard bench.takePublish(.global) == nil else { break }
            if let id = bench.takeTier(.local, { if case .readBack(let id, _, _, _, _) = $0 { id } else { nil } }) {
                reads += 1
                bench.tell(.tier(.local, .done(id: id)))
            }
            bench.write(.global)
        }
        #expect(reads >= 24)
        #expect(bench.told(key) == [.local])
    }
}
