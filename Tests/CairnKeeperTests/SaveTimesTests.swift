import CairnKeeper
import CairnMessages
import CairnModel
import Testing

@Suite struct SaveTimesTests {
    private func step(_ key: RankSaveKey, _ level: Level, _ at: Int, poolWait: Int = 0, reason: String? = nil) -> SaveTimes.Step {
        SaveTimes.Step(key: key, level: level, bytes: 100, at: at * ms, poolWaitNs: poolWait * ms, reason: reason)
    }

    @Test func aCommittedSaveHasAllItsTimes() throws {
        var times = SaveTimes()
        times.accepted(key(1, 3), worldSize: 8, last: .committed, at: 100 * ms, utcMs: 77)
        #expect(times.called(key(1, 3), nanoseconds: 2 * ms) == .call(2 * ms))
        times.fenceBegan(key(1, 3), at: 130 * ms)
        #expect(times.fenceNs(key(1, 3), at: 135 * ms) == 5 * ms)
        #expect(times.reached(step(key(1, 3), .staged, 150, poolWait: 9)).stages == [.fence(20 * ms), .poolWait(9 * ms), .staging(50 * ms)])
        #expect(times.fenceNs(key(1, 3), at: 160 * ms) == nil)
        #expect(times.reached(step(key(1, 3), .local, 180)).stages == [.flush(.local, 30 * ms)])
        #expect(times.reached(step(key(1, 3), .global, 250)).stages == [.flush(.global, 100 * ms)])
        let news = times.reached(step(key(1, 3), .committed, 300))
        #expect(news.stages == [.commit(50 * ms), .save(200 * ms)])
        let save = try #require(news.ended)
        #expect(save.rank == 3 && save.worldSize == 8 && save.acceptedMs == 77 && save.callUs == 2000 && save.fenceUs == 20_000 && save.poolWaitUs == 9000)
        #expect([save.stagedUs, save.localUs, save.globalUs, save.committedUs] == [50_000, 80_000, 150_000, 200_000])
        #expect(times.count == 0)
    }

    @Test func aSaveEndsAtItsOwnLevelOrFailed() {
        var times = SaveTimes()
        times.accepted(key(1, 0), worldSize: 1, last: .local, at: 0, utcMs: 0)
        times.accepted(key(2, 0), worldSize: 1, last: .committed, at: 0, utcMs: 0)
        #expect(times.reached(step(key(1, 0), .staged, 5)).ended == nil)
        #expect(times.reached(step(key(1, 0), .local, 9)).ended?.level == .local)
        let failed = times.reached(step(key(2, 0), .failed, 7, reason: "why")).ended
        #expect(failed?.level == .failed && failed?.failedUs == 7000 && failed?.reason == "why" && failed?.stagedUs == nil)
        #expect(times.reached(step(key(2, 0), .failed, 8)).ended == nil, "told again")
    }

    @Test func aHeldSaveLeavesNoRecord() {
        var times = SaveTimes()
        times.accepted(key(1, 0, attemptTry: 0), worldSize: 1, last: .staged, at: 0, utcMs: 0)
        let news = times.reached(step(key(1, 0, attemptTry: 0), .staged, 5))
        #expect(news.ended == nil && news.stages.contains(.staging(5 * ms)) && times.count == 0)
    }

    @Test func aReplyThatComesFirstIsNotLost() {
        var times = SaveTimes()
        _ = times.called(key(1, 0), nanoseconds: 4 * ms)
        times.accepted(key(1, 0), worldSize: 1, last: .staged, at: 0, utcMs: 0)
        #expect(times.reached(step(key(1, 0), .staged, 5)).ended?.callUs == 4000)
    }

    @Test func whatWasStagedByAFormerLifeIsTimedFromWhereItWasFound() throws {
        var times = SaveTimes()
        times.found(key(1, 0), worldSize: 2, at: 10 * ms, utcMs: 5)
        #expect(times.reached(step(key(1, 0), .local, 10)).stages.isEmpty)
        let news = times.reached(step(key(1, 0), .committed, 30))
        #expect(news.stages == [.commit(20 * ms)], "no whole save: its begin was not seen")
        #expect(try #require(news.ended).stagedUs == nil)
    }

    @Test func savesThatNeverEndAreBounded() {
        var times = SaveTimes()
        for step in 0..<KeeperLimits.openRecords + 10 { times.accepted(key(step, 0), worldSize: 1, last: .committed, at: 0, utcMs: 0) }
        #expect(times.count == KeeperLimits.openRecords)
    }
}

@Suite struct FailureKindTests {
    /// The engine's and main's own words.
    @Test(arguments: [
        ("superseded: 9 saves wait for the global tier, up to step 900", FailureKind.superseded),
        ("rank 3: rank 3's session ended before its save was staged: process 7 ended", .rankGone),
        ("the rank gave up waiting for the fence, so its memory may have changed", .rankGone),
        ("rank 1 saved step 3 without saving step 2", .rankMissing),
        ("rank 1 names other participants than the ranks before it", .rankMissing),
        ("nothing was staged for 30 s: the pool is full and no tier frees it (see `cairn status`)", .notStaged),
        ("tensor 'w' was changed between save() and its copy: what is lazily saved may change after the fence only", .changed),
        ("not committed within 30 min (this daemon serves ranks [0] of 2), missing [1]", .timeout),
        ("its attempt ended before ranks [1] were durable", .attemptEnded),
        ("the stager ended while copying: signal 9", .worker),
        ("write 'rank-00000.safetensors': No space left on device (ENOSPC)", .tier),
        ("something new", .other),
    ]) func kindOfAReason(reason: String, kind: FailureKind) { #expect(FailureKind(reason: reason) == kind) }
}
