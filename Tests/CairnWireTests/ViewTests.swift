import CairnModel
import CairnWire
import Testing

@Suite struct ViewTests {
    private let gib = 1 << 30

    private func step(_ step: Int, count: Int, level: Level = .committed, pinned: Bool = false, superseded: Bool = false) -> Operations.Step {
        .init(step: step, sequence: CommitSequence(attempt: 17, count: count).wire, save: "17-\(step)-1", level: level, ranks: 8, worldSize: 8,
              bytes: 412 * gib, pinned: pinned, superseded: superseded, savedAt: "2026-07-31T12:00:00Z", tiers: ["memory", "global"])
    }

    @Test func stepsShowSequenceAgeAndNotes() {
        let run = Operations.Run(uid: 5, run: "llama", steps: [step(1300, count: 42), step(5, count: 41, level: .global, pinned: true, superseded: true)],
                                 newestCommitted: 1300, bytes: 824 * gib)
        let view = RunsView(now: 1_785_499_200 + 90, ownUID: 5, colour: false)
        #expect(view.steps(run) == """
            STEP  SEQUENCE  LEVEL      RANKS       SIZE  AGE  TIERS  NOTE
            1300     17-42  committed      8  412.0 GiB   1m  M-G
               5     17-41  global         8  412.0 GiB   1m  M-G    superseded, pinned

            """)
        #expect(view.runs([run]) == "RUN    STEPS  NEWEST       SIZE  AGE\nllama      2    1300  824.0 GiB   1m\n")
        #expect(view.runs([]).contains("no runs yet"))
    }

    @Test func statusShowsWhatIsDegradedAndWhatToDo() {
        let reply = Operations.Status.Reply(
            daemon: .init(version: "1", node: "n", instance: "i", pid: 3, uptimeSeconds: 60, socket: "/s", draining: true),
            pool: .init(bytes: gib, filledBytes: gib, lockedBytes: 0, hugeBytes: 0, chunks: 128, free: 128, needed: 0, cached: 0, quarantined: 0, lockNote: "not locked: raise it"),
            workers: [.init(role: "global", state: .degraded, io: "threads", direct: false, note: "again in 4 s", restarts: 2)],
            tiers: [.init(tier: "global", paths: [.init(path: "/g", totalBytes: 2 * gib, freeBytes: gib)], state: .degraded, reason: "EIO", remedy: "see dmesg",
                          queuedBytes: 0, writtenBytes: 0, compression: "none")],
            saves: [.init(uid: 6, run: "r", save: "1-2-1", step: 2, level: .staged, ranksStaged: 1, ranks: 2, worldSize: 4, totalBytes: gib, stagedBytes: gib,
                          localBytes: 0, globalBytes: 0, ageMs: 4999, missing: [2, 3], leftover: true, reason: "global tier: EIO")],
            sessions: .init(count: 0, runs: []), notes: ["said once"])
        let text = StatusView(reply: reply, ownUID: 5, colour: false).text
        for part in ["draining", "not locked: raise it", "threads, buffered", "global: EIO; see dmesg", "6/r", "1/2", "4s", "note: said once", "no rank connected",
                     "no configuration file", "left by an earlier launch, being finished; missing ranks 2, 3; global tier: EIO"] {
            #expect(text.contains(part), "\(part)")
        }
        #expect(!text.contains("\u{1B}") && StatusView(reply: reply, ownUID: 5, colour: true).text.contains("\u{1B}[31mdegraded"))
    }

    @Test func manyTensorsAreCutWithACount() {
        let tensors = (0..<5).map { Operations.Tensor(rank: 0, name: "w\($0)", dtype: "F32", shape: [2, 2], replicas: 2, isPrivate: true, bytes: 16) }
        let reply = Operations.Describe.Reply(uid: 5, run: "r", step: 2, sequence: CommitSequence(attempt: 1, count: 1).wire, save: "1-2-1",
                                              parent: CommitSequence(attempt: 1, count: 0).wire,
                                              origin: .init(run: "llama", step: 9, sequence: CommitSequence(attempt: 3, count: 4).wire), level: .committed, worldSize: 1, bytes: 80, pinned: true,
                                              superseded: false, savedAt: "?", metadata: ["k": "v\u{7}"],
                                              files: [.init(rank: 0, fileBytes: 80, tensors: 5, objects: 1, tiers: ["global"], path: "/g/f")],
                                              tensors: tensors, objects: [.init(rank: 0, name: "o", scope: .keyed, key: "a", bytes: 1)])
        let text = StepView(reply: reply, most: 2, now: 0, ownUID: 5, colour: false).text
        for part in ["w1", "and 3 more", "[2, 2]", "private, one of 2 copies", "o [a]", "k: v?", "pinned", "restored sequence 1-0",
                     "branched from run llama, step 9, sequence 3-4"] { #expect(text.contains(part), "\(part)") }
        #expect(!text.contains("w2"))
    }
}
