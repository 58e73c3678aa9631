import CairnModel
import CairnWire
import Testing

/// `cairn ls RUN` over the shapes that a run's history takes.
@Suite struct LineageTests {
    /// `17-41 1200 <17-40`: sequence, step, the sequence that its launch had restored; `!` superseded, `=` pinned.
    private func step(_ text: String) -> Operations.Step {
        let words = text.split(separator: " ")
        let parent = words.first { $0.hasPrefix("<") }.flatMap { CommitSequence(String($0.dropFirst())) }
        // Malformed texts stop the test at once.
        let sequence = CommitSequence(String(words[0]))!, number = Int(words[1])!
        return .init(step: number, sequence: sequence.wire, parent: parent?.wire, save: "\(sequence.attempt)-\(number)-1", level: .committed, ranks: 1024,
                     worldSize: 1024, bytes: 412 << 30, pinned: words.contains("="), superseded: words.contains("!"), savedAt: "2026-07-31T12:00:00Z",
                     tiers: ["local", "global"])
    }

    private func list(_ steps: [String], unfinished: [Operations.Step] = [], origin: Operations.Origin? = nil) -> [String] {
        var steps = steps.map(step)
        if let origin { steps[0].origin = origin }
        let run = Operations.Run(uid: 5, run: "llama", steps: unfinished + steps.reversed(), newestCommitted: steps.last?.step, bytes: 0)
        return RunsView(now: 1_785_499_200 + 12_000, ownUID: 5, colour: false).steps(run).split(separator: "\n").map(String.init)
    }

    /// Without the columns that are the same in every row.
    private func short(_ lines: [String]) -> [String] {
        lines.map { line in
            let cut = line.replacing("  committed   1024  412.0 GiB  3h 20m  -LG  ", with: "  | ").replacing("  committed   1024  412.0 GiB  3h 20m  -LG", with: "")
            return cut.replacing("  LEVEL      RANKS       SIZE     AGE  TIERS  NOTE", with: "").replacing("  LEVEL      RANKS       SIZE     AGE  TIERS", with: "")
        }
    }

    @Test func oneLineIsAPlainList() {
        #expect(list(["1-1 100", "1-2 200", "2-1 300 <1-2", "2-2 1400 <1-2 ="]) == [
            "STEP  SEQUENCE  LEVEL      RANKS       SIZE     AGE  TIERS  NOTE",
            "1400       2-2  committed   1024  412.0 GiB  3h 20m  -LG    pinned",
            " 300       2-1  committed   1024  412.0 GiB  3h 20m  -LG",
            " 200       1-2  committed   1024  412.0 GiB  3h 20m  -LG",
            " 100       1-1  committed   1024  412.0 GiB  3h 20m  -LG",
        ])
    }

    @Test func whatWasLeftStandsBelowTheStepThatItWasLeftAt() {
        #expect(short(list(["1-1 100", "1-2 200", "1-3 300 !", "1-4 400 !", "2-1 300 <1-2", "2-2 400 <1-2"])) == [
            "STEP    SEQUENCE",
            " 400         2-2",
            " 300         2-1",
            " 200         1-2",
            "   400       1-4  |   superseded",
            "   300       1-3  |   superseded",
            " 100         1-1",
        ])
    }

    @Test func twoLinesLeftAtOneStepStandApart() {
        #expect(short(list(["1-1 100", "1-2 200 !", "2-1 200 <1-1 !", "2-2 300 <1-1 !", "3-1 200 <1-1"])) == [
            "STEP    SEQUENCE",
            " 200         3-1",
            " 100         1-1",
            "   300       2-2  |   superseded",
            "   200       2-1  |   superseded",
            "   200       1-2  |   superseded",
        ])
    }

    @Test func aLineLeftFromALeftLineIsNested() {
        let lines = short(list(["1-1 10", "1-2 20 !", "1-3 30 !", "2-1 30 <1-2 !", "2-2 40 <1-2 !", "3-1 20 <1-1", "3-2 30 <1-1"]))
        #expect(lines == [
            "STEP      SEQUENCE",
            "  30           3-2",
            "  20           3-1",
            "  10           1-1",
            "    40         2-2  |   superseded",
            "    30         2-1  |   superseded",
            "    20         1-2  |   superseded",
            "      30       1-3  |   superseded",
        ])
    }

    @Test func aParentThatIsDeletedIsNamed() {
        // 1-2, which launch 2 restored, is gone; 1-3 was left there.
        #expect(short(list(["1-1 100", "1-3 300 !", "2-1 300 <1-2"])) == [
            "STEP    SEQUENCE", " 300         2-1  |   from 1-2, deleted", " 100         1-1", "   300       1-3  |   superseded",
        ])
        // All of launch 2 is gone but a later step, which says where that launch began.
        #expect(short(list(["1-1 100", "2-2 300 <1-1", "3-1 300 <2-1"])) == [
            "STEP    SEQUENCE", " 300         3-1  |   from 2-1, deleted", " 100         1-1", "   300       2-2",
        ])
        // Nothing is left of what was before.
        #expect(short(list(["3-1 300 <2-1", "3-2 400 <2-1"])) == ["STEP  SEQUENCE", " 400       3-2", " 300       3-1  |   from 2-1, deleted"])
    }

    @Test func aLaunchThatRestoredNothingBeginsAnew() {
        #expect(short(list(["1-1 100", "1-2 200", "2-1 100", "3-1 200 <2-1"])) == [
            "STEP  SEQUENCE", " 200       3-1", " 100       2-1  |   restored nothing", " 200       1-2", " 100       1-1",
        ])
    }

    @Test func aLaunchMayGoBackTwice() {
        // One launch: 2-1 and 2-2 after 1-1, then again from 2-1.
        #expect(short(list(["1-1 10", "2-1 20 <1-1", "2-2 30 <1-1 !", "2-3 30 <2-1"])) == [
            "STEP    SEQUENCE", "  30         2-3", "  20         2-1", "    30       2-2  |   superseded", "  10         1-1",
        ])
    }

    @Test func aBranchNamesItsOrigin() {
        let origin = Operations.Origin(run: "mistral", step: 1200, sequence: CommitSequence(attempt: 17, count: 41).wire)
        #expect(short(list(["1-1 1200", "2-1 1300 <1-1"], origin: origin)) == ["STEP  SEQUENCE", "1300       2-1", "1200       1-1  |   from mistral@1200"])
    }

    @Test func whatIsNotCommittedComesFirst() {
        let saving = Operations.Step(step: 500, sequence: 0, save: "2-500-1", level: .local, ranks: 8, worldSize: 1024, bytes: 412 << 30, pinned: false,
                                     superseded: false, savedAt: "", tiers: [])
        #expect(list(["1-1 100"], unfinished: [saving]) == [
            "STEP  SEQUENCE  LEVEL       RANKS       SIZE     AGE  TIERS  NOTE",
            " 500            local      8/1024  412.0 GiB",
            " 100       1-1  committed    1024  412.0 GiB  3h 20m  -LG",
        ])
    }

    @Test func eightyColumnsAreEnoughHoweverOftenAJobGoesBack() {
        // Each launch goes back further than the one before: the deepest nesting that there is.
        let launches = 60
        var steps = (1...launches).map { "1-\($0) \(100_000 + $0 * 100) !" }
        for launch in 2...launches { steps.append("\(launch)-1 \(100_000 + (launches - launch + 2) * 100) <1-\(launches - launch + 1) !") }
        let lines = list(steps)
        #expect(lines.count == steps.count + 1)
        #expect(lines.allSatisfy { $0.count <= 80 }, "\(lines.max { $0.count < $1.count } ?? "")")
        #expect(Set(lines).count == lines.count)
    }

    @Test(arguments: 0..<50 as Range<UInt64>) func everyStepIsShownOnce(seed: UInt64) {
        var random = SplitMix(state: seed), steps: [String] = []
        for attempt in 1...12 {
            let parents = steps.map { $0.prefix { $0 != " " } } + ["\(attempt)-0"]
            let parent = random.below(4) == 0 ? "" : " <" + parents[random.below(parents.count)]
            for count in 1...(1 + random.below(5)) where random.below(5) > 0 { steps.append("\(attempt)-\(count) \(random.below(1000))\(parent)") }
        }
        guard !steps.isEmpty else { return }
        let shown = list(steps).dropFirst().compactMap { $0.split(separator: " ").dropFirst().first.map(String.init) }
        #expect(shown.sorted() == steps.map { String($0.prefix { $0 != " " }) }.sorted())
    }
}

@Suite struct RankRangesTests {
    @Test(arguments: [([], ""), ([3], "3"), ([3, 4], "3, 4"), ([0, 1, 2, 5, 9, 10, 11, 12], "0-2, 5, 9-12")] as [([Int], String)])
    func neighboursAreARange(ranks: [Int], text: String) {
        #expect(RankRanges.text(ranks) == text)
    }

    @Test func ofManyTheFirstAreNamed() {
        #expect(RankRanges.text([1, 3, 5, 7, 8, 9], most: 2) == "1, 3 and 4 more")
        #expect(RankRanges.text(Array(0..<8192)) == "0-8191")
    }
}
