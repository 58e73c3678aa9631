// Saves that are staged before they have a step: held, sealed with less in them, or never.
import CairnEngine
import CairnMessages
import CairnModel
import Testing

@Suite struct HeldTests {
    /// A held save of so many chunks, staged.
    private func held(_ bench: Bench, _ number: Int = 1, chunks: Int = 4, session: String = "s") -> RankSaveKey {
        let key = bench.key(number, attemptTry: 0)
        bench.save(session, key, chunks: chunks, isHeld: true)
        bench.stage(key)
        return key
    }

    @Test func aHeldSaveIsToldStagedAndGoesNowhere() {
        let bench = Bench()
        bench.open("s")
        let key = held(bench)
        #expect(bench.told(key) == [.accepted, .staged])
        #expect(bench.takeCreate(.local) == nil && bench.takeCreate(.global) == nil)
        #expect(bench.engine.poolReport.needed == 4)
        #expect(bench.engine.resident(run: Bench.run, save: key.save).isEmpty)
    }

    @Test func aSealedSaveIsASaveLikeAnyOther() {
        let bench = Bench()
        bench.open("s")
        let hold = held(bench), key = bench.key(7)
        let call = bench.seal("s", hold, as: key, chunks: 3, given: [1, 3, 4])
        #expect(bench.answer(call) == .saved(key.save, bytes: 2 * Sizes.chunkBytes + 4096))
        bench.stage(key)
        bench.publish(.local)
        bench.publish(.global)
        bench.decide(key.save, .committed(sequence: CommitSequence(attempt: 1, count: 1)))
        #expect(bench.told(key) == [.accepted, .staged, .local, .global, .committed])
        #expect(bench.told(hold) == [.accepted, .staged])
        #expect(!bench.engine.knows(handle: bench.handle(hold)))
        #expect(bench.engine.poolReport.needed == 0)
    }

    @Test func whatIsTakenOverIsFreeChunkByChunk() {
        let bench = Bench()
        bench.open("s")
        let hold = held(bench), key = bench.key(7)
        bench.seal("s", hold, as: key, chunks: 3, given: [1, 3, 4])
        let list = bench.take { action -> [ChunkAssignment]? in if case .stager(.stage(let list)) = action { list } else { nil } } ?? []
        #expect(bench.engine.poolReport.free == 16 - 4 - 3)
        // The second before the first: nothing of what the first still needs.
        for (chunk, free) in [(1, 9), (0, 9 + 3), (2, 9 + 4)] {
            guard let one = list.first(where: { $0.chunk == chunk }) else { Issue.record("chunk \(chunk) is not staged"); return }
            bench.tell(.stager(.staged([ChunkStaged(handle: one.handle, chunk: chunk, slot: one.slot, blocks: 1)])))
            #expect(bench.engine.poolReport.free == free)
        }
    }

    @Test func aHeldSaveEndsWithItsSession() {
        let bench = Bench()
        bench.open("s")
        let hold = held(bench)
        bench.tell(.sessionEnded("s", reason: "gone"))
        #expect(bench.told(hold) == [.accepted, .staged, .failed])
        #expect(bench.engine.poolReport.free == 16)
    }

    @Test func aSealedSaveOutlivesItsRank() {
        let bench = Bench()
        bench.open("s")
        let hold = held(bench), key = bench.key(7)
        bench.seal("s", hold, as: key, chunks: 3, given: [1, 3, 4])
        bench.tell(.sessionEnded("s", reason: "gone"))
        bench.stage(key)
        bench.publish(.local)
        bench.publish(.global)
        bench.decide(key.save, .committed(sequence: CommitSequence(attempt: 1, count: 1)))
        #expect(bench.told(key) == [.accepted, .staged, .local, .global, .committed])
    }

    @Test func aSealWhoseObjectsAreNotStagedEndsWithItsRank() {
        let bench = Bench()
        bench.open("s")
        let hold = held(bench), key = bench.key(7)
        bench.seal("s", hold, as: key, chunks: 3, given: [1, 3, 4], waits: true)
        bench.tell(.sessionEnded("s", reason: "gone"))
        #expect(bench.told(key) == [.accepted, .failed])
        bench.tell(.stager(.cancelled(handle: bench.handle(key), busySlots: [])))
        #expect(bench.engine.poolReport.free == 16)
    }

    @Test func whatACopyMayStillReadRests() {
        let bench = Bench()
        bench.open("s")
        let hold = held(bench), key = bench.key(7)
        bench.seal("s", hold, as: key, chunks: 3, given: [1, 3, 4], waits: true)
        let slots = bench.take { action -> [Int]? in if case .stager(.stage(let list)) = action { list.map(\.slot) } else { nil } } ?? []
        bench.tell(.sessionEnded("s", reason: "gone"))
        bench.tell(.stager(.cancelled(handle: bench.handle(key), busySlots: [slots[0]])))
        #expect(bench.engine.poolReport.quarantined == 5)
        bench.tell(.stager(.slotFree(slot: slots[0])))
        bench.wait(ms: 31_000)
        #expect(bench.engine.poolReport.free == 16)
    }

    @Test func whatIsNotSealedInTimeIsGivenUp() {
        let bench = Bench(limits: Bench.limits { $0.commitTimeoutMs = 60_000 })
        bench.open("s")
        let hold = held(bench)
        bench.wait(ms: 59_000)
        #expect(bench.told(hold) == [.accepted, .staged])
        bench.wait(ms: 2_000)
        #expect(bench.told(hold) == [.failed])
        #expect(bench.engine.poolReport.free == 16)
    }

    @Test func aRankMayGiveItUp() {
        let bench = Bench()
        bench.open("s")
        let hold = held(bench)
        bench.tell(.discard(handle: bench.handle(hold)))
        #expect(bench.told(hold) == [.accepted, .staged, .failed])
        #expect(bench.engine.poolReport.free == 16)
    }

    @Test func itIsSealedOnceAndOnlyWhenItIsStaged() {
        let bench = Bench()
        bench.open("s")
        let hold = bench.key(1, attemptTry: 0)
        bench.save("s", hold, chunks: 4, isHeld: true)
        #expect(bench.engine.held(session: "s", save: hold.save) == nil)
        let early = bench.answer(bench.seal("s", hold, as: bench.key(7), chunks: 3, given: [1, 3, 4]))
        guard case .failed(.unknownSave)? = early else { Issue.record("\(String(describing: early))"); return }
        bench.stage(hold)
        bench.handles[bench.key(7)] = nil
        bench.seal("s", hold, as: bench.key(7), chunks: 3, given: [1, 3, 4])
        let again = bench.answer(bench.seal("s", hold, as: bench.key(8), chunks: 3, given: [1, 3, 4]))
        guard case .failed(.unknownSave)? = again else { Issue.record("\(String(describing: again))"); return }
    }

    @Test func aTryThatWasMadeIsNotMadeAgain() {
        let bench = Bench()
        bench.open("s")
        bench.save("s", bench.key(7))
        bench.stage(bench.key(7))
        let hold = held(bench)
        let answer = bench.answer(bench.seal("s", hold, as: bench.key(7), chunks: 3, given: [1, 3, 4]))
        guard case .failed(.invalid(name: "try", _))? = answer else { Issue.record("\(String(describing: answer))"); return }
        #expect(bench.engine.held(session: "s", save: hold.save) != nil)
    }

    @Test func heldSavesLeaveRoomForOthers() {
        let bench = Bench()
        bench.open("s")
        #expect(bench.answer(bench.save("s", bench.key(1, attemptTry: 0), chunks: 9, isHeld: true)) == .failed(.tooLarge(bytes: 8 * Sizes.chunkBytes + 4096, limit: 8 * Sizes.chunkBytes)))
        _ = held(bench, 2, chunks: 2)
        _ = held(bench, 3, chunks: 2)
        #expect(bench.answer(bench.save("s", bench.key(4, attemptTry: 0), chunks: 2, isHeld: true)) == .failed(.busy(step: 4)))
        // An ordinary save goes on beside them, and evicts nothing of theirs.
        let key = bench.key(1)
        bench.save("s", key, chunks: 20)
        for _ in 0..<60 where !bench.told(key).contains(.staged) {
            bench.stage(key)
            bench.write(.local)
        }
        #expect(bench.engine.held(session: "s", save: bench.key(2, attemptTry: 0).save)?.slots.count == 2)
        #expect(bench.engine.held(session: "s", save: bench.key(3, attemptTry: 0).save)?.slots.count == 2)
    }

    @Test func aWaitForItIsAnswered() {
        let bench = Bench()
        bench.open("s")
        let hold = bench.key(1, attemptTry: 0), call = bench.newCall()
        bench.save("s", hold, chunks: 2, isHeld: true)
        bench.tell(.wait(call: call, run: Bench.run, save: hold.save, rank: 0, level: .staged, deadline: nil))
        #expect(bench.answer(call) == nil)
        bench.stage(hold)
        #expect(bench.answer(call) == .waited(.staged, reason: nil))
    }
}
