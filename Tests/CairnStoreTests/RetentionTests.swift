import CairnModel
import CairnStore
import Testing

private func step(_ step: Int, _ attempt: Int, _ count: Int, parent: (Int, Int)? = nil, pinned: Bool = false) -> StepSummary {
    StepSummary(step: step, sequence: CommitSequence(attempt: attempt, count: count), save: save(step, attempt: attempt),
                parent: parent.map { CommitSequence(attempt: $0.0, count: $0.1) }, worldSize: 1, bytes: 1, pinned: pinned, superseded: false, savedAt: "")
}

private func superseded(_ steps: [StepSummary]) -> [Int] { Lineage.markSuperseded(steps).filter(\.superseded).map(\.step).sorted() }
private func deleted(_ steps: [StepSummary], keep: Int?, period: Int? = nil, protected: Set<CommitSequence> = []) -> [Int] {
    let gone = Retention.decide(steps: steps, keep: keep, keepPeriod: period, protected: protected)
    return gone.compactMap { sequence in steps.first { $0.sequence == sequence }?.step }
}

@Test func stepsAfterTheOneRestoredAreSuperseded() {
    let line = [step(100, 1, 1), step(200, 1, 2), step(300, 1, 3), step(250, 2, 1, parent: (1, 2))]
    #expect(superseded(line) == [300])
    #expect(superseded(Array(line.dropLast())) == [])
}

@Test func stepOfTheOlderLineIsNotSupersededOnceRestored() {
    // Attempt 2 gave up 300, attempt 3 went back to it: now attempt 2's step is the one left behind.
    let line = [step(200, 1, 2), step(300, 1, 3), step(250, 2, 1, parent: (1, 2)), step(400, 3, 1, parent: (1, 3))]
    #expect(superseded(line) == [250])
}

@Test func returnsWithinOneAttemptSupersedeToo() {
    #expect(superseded([step(1, 1, 1), step(2, 1, 2), step(3, 1, 3), step(2, 1, 4, parent: (1, 1))]) == [2, 3])
}

@Test func longChainsAreFollowedThroughDeletedParents() {
    let line = [step(10, 1, 1), step(20, 1, 2), step(30, 1, 3), step(25, 2, 1, parent: (1, 2)), step(28, 2, 2, parent: (1, 2)), step(26, 3, 1, parent: (2, 1))]
    #expect(superseded(line) == [28, 30])
    #expect(superseded(line.filter { $0.step != 25 && $0.step != 20 }) == [28, 30])
}

@Test func attemptWithoutAParentLeavesOlderHistoryAlone() {
    #expect(superseded([step(100, 1, 1), step(200, 1, 2), step(50, 2, 1)]) == [])
}

@Test func newestByCommitStaysNotTheHighestStep() {
    #expect(deleted([step(1300, 1, 1), step(1200, 1, 2)], keep: 1) == [1300])
    #expect(deleted([step(1300, 1, 1), step(1200, 1, 2)], keep: 0) == [1300], "the newest stays whatever is asked")
    #expect(deleted([step(1300, 1, 1)], keep: nil) == [])
    #expect(deleted([], keep: 1) == [])
}

@Test func pinnedProtectedAndPeriodicStepsStay() {
    let steps = (1...10).map { step($0 * 100, 1, $0, pinned: $0 == 2) }
    #expect(deleted(steps, keep: 3, period: 500, protected: [CommitSequence(attempt: 1, count: 4)]) == [100, 300, 600, 700])
}

@Test func supersededStepsGoFirst() {
    let steps = [step(100, 1, 1), step(200, 1, 2), step(300, 1, 3), step(400, 1, 4), step(250, 2, 1, parent: (1, 2))]
    #expect(deleted(steps, keep: 3) == [300, 400])
    #expect(deleted(steps, keep: 4) == [300])
    #expect(deleted(steps, keep: 3, period: 400) == [300, 400], "a period keeps only the line's own steps")
}

@Test(arguments: 0..<200 as Range<UInt64>) func retentionNeverTakesTheNewestAPinnedOrAProtectedStep(seed: UInt64) {
    var generator = SeededGenerator(seed: seed)
    var steps: [StepSummary] = []
    var parent: (Int, Int)?
    for attempt in 1...Int.random(in: 1...4, using: &generator) {
        for count in 1...Int.random(in: 1...6, using: &generator) {
            steps.append(step(Int.random(in: 1...20, using: &generator) * 10, attempt, count, parent: parent, pinned: Int.random(in: 0..<6, using: &generator) == 0))
        }
        parent = steps.randomElement(using: &generator).map { ($0.sequence.attempt, $0.sequence.count) }
    }
    let protected = Set(steps.filter { _ in Int.random(in: 0..<6, using: &generator) == 0 }.map(\.sequence))
    let keep = Int.random(in: 0...5, using: &generator)
    let gone = Set(Retention.decide(steps: steps.shuffled(using: &generator), keep: keep, keepPeriod: Bool.random(using: &generator) ? 50 : nil, protected: protected))
    let newest = steps.map(\.sequence).max()
    #expect(!gone.contains { $0 == newest })
    #expect(gone.isDisjoint(with: protected))
    #expect(gone.isDisjoint(with: steps.filter(\.pinned).map(\.sequence)))
    let line = steps.filter { !Lineage.superseded(steps).contains($0.sequence) }.sorted { $0.sequence > $1.sequence }
    #expect(gone.isDisjoint(with: line.prefix(keep).map(\.sequence)), "the line's newest stay")
    #expect(steps.count - gone.count >= min(steps.count, max(1, keep)))
}
