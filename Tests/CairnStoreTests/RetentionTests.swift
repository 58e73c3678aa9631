import CairnModel
import CairnStore
import Testing

private func step(_ step: Int, _ attempt: Int, _ count: Int, parent: (Int, Int)? = nil, pinned: Bool = false) -> StepSummary {
    StepSummary(step: step, sequence: CommitSequence(attempt: attempt, count: count), save: save(step, attempt: attempt, attemptTry: count),
                parent: parent.map { CommitSequence(attempt: $0.0, count: $0.1) }, worldSize: 1, bytes: 1, pinned: pinned, superseded: false, savedAt: "")
}

private func superseded(_ steps: [StepSummary]) -> [Int] { Lineage.markSuperseded(steps).filter(\.superseded).map(\.step).sorted() }
private func facts(_ steps: [StepSummary], protected: Set<CommitSequence> = []) -> [RetentionStep] {
    steps.map { RetentionStep($0, hold: protected.contains($0.sequence) ? .restoring : nil) }
}
private func deleted(_ steps: [StepSummary], keep: Int?, period: Int? = nil, protected: Set<CommitSequence> = []) -> [Int] {
    gone(facts(steps, protected: protected), RetentionRules(keep: keep, keepPeriod: period))
}
private func gone(_ steps: [RetentionStep], _ rules: RetentionRules, _ situation: RetentionSituation = RetentionSituation()) -> [Int] {
    Retention.decide(steps, rules, situation).filter { !$0.isKept }.map(\.step)
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

/// One step an hour, an hour's number its count; `loss` by step.
private func hourly(_ count: Int, loss: [Int: String] = [:]) -> [RetentionStep] {
    (1...count).map { RetentionStep(step($0 * 100, 1, $0), savedAtSeconds: $0 * 3600, bytes: 10, metadata: loss[$0 * 100].map { ["loss": $0] } ?? [:]) }
}
private func rules(_ decisions: [RetentionDecision]) -> [Int: RetentionRule] { Dictionary(uniqueKeysWithValues: decisions.map { ($0.step, $0.rule) }) }

@Test func stepsOfAPeriodAreKeptByTheirFirst() {
    // Hours 1...23 are the first day, 24...47 the second.
    let decisions = Retention.decide(hourly(50), RetentionRules(keep: 1, keepEverySeconds: 86_400))
    #expect(decisions.filter(\.isKept).map(\.step) == [100, 2400, 4800, 5000])
    #expect(rules(decisions)[2400] == .keepEvery && rules(decisions)[5000] == .newest)
    let kept = hourly(50).filter { one in decisions.contains { $0.isKept && $0.step == one.summary.step } }
    #expect(gone(kept, RetentionRules(keep: 1, keepEverySeconds: 86_400)) == [], "what stayed stays at the next time")
}

@Test func youngStepsStayByTheirTimeNotTheClocks() {
    let within = RetentionRules(keep: 1, keepWithinSeconds: 3 * 3600)
    #expect(gone(hourly(10), within, RetentionSituation(now: 1 << 40)) == [100, 200, 300, 400, 500, 600])
    var unknown = hourly(10)
    unknown[0].savedAtSeconds = nil
    #expect(gone(unknown, RetentionRules(keep: 10, maxAgeSeconds: 1), RetentionSituation(now: 1 << 40)) == [200, 300, 400, 500, 600, 700, 800, 900], "a time that cannot be read is no age")
}

@Test func theBestByAMetricStay() {
    let steps = hourly(6, loss: [100: "0.5", 200: "0.1", 300: "nan", 400: "0.1", 500: "two"])
    let least = Retention.decide(steps, RetentionRules(keep: 1, best: .init(metric: "loss", count: 2)))
    #expect(least.filter(\.isKept).map(\.step) == [200, 400, 600])
    #expect(least.first { $0.step == 400 }?.reason == "number 1 by loss, least first: 0.1", "of equal ones the newer is first")
    #expect(gone(steps, RetentionRules(keep: 1, best: .init(metric: "loss", order: .max))) == [200, 300, 400, 500])
    #expect(gone(steps, RetentionRules(keep: 1, best: .init(metric: "accuracy"))) == [100, 200, 300, 400, 500])
}

@Test func limitsTakeTheOldestOfWhatRulesKeep() {
    #expect(gone(hourly(6), RetentionRules(keep: 5, maxBytes: 35)) == [100, 200, 300], "of 60 bytes 30 stay")
    #expect(gone(hourly(6), RetentionRules(keep: 6, maxBytes: 1)) == [100, 200, 300, 400, 500], "the newest stays, too large or not")
    #expect(gone(hourly(6), RetentionRules(keep: 6, maxAgeSeconds: 2 * 3600), RetentionSituation(now: 6 * 3600)) == [100, 200, 300])
}

@Test func evictionTakesOnlyWhatTheGlobalTierHolds() {
    func sequence(_ count: Int) -> CommitSequence { CommitSequence(attempt: 1, count: count) }
    var situation = RetentionSituation(isBeside: true, standing: sequence(6), elsewhere: [sequence(2), sequence(3), sequence(4), sequence(6)], evictBytes: 20)
    #expect(gone(hourly(6), RetentionRules(keep: 6), situation) == [200, 300], "1 is the only copy, and two are enough")
    situation.evictBytes = 1000
    #expect(gone(hourly(6), RetentionRules(keep: 6), situation) == [200, 300, 400], "the newest stays here too")
    situation.evictBytes = 20
    #expect(gone(hourly(6), RetentionRules(keep: 5), situation) == [100, 200], "what the rules take counts")
}

@Test func localCopiesStayWhileTheGlobalTierHoldsNothingAsNew() {
    let one = RetentionRules(keep: 1)
    #expect(gone(hourly(4), one, RetentionSituation(isBeside: true)) == [])
    let decisions = Retention.decide(hourly(4), one, RetentionSituation(isBeside: true, standing: CommitSequence(attempt: 1, count: 2)))
    #expect(decisions.filter { !$0.isKept }.map(\.step) == [100, 200] && rules(decisions)[300] == .onlyCopy)
}

@Test(arguments: 0..<400 as Range<UInt64>) func retentionKeepsWhatItMustAndWhatTheRulesSay(seed: UInt64) throws {
    var generator = SeededGenerator(seed: seed)
    func once(in odds: Int) -> Bool { Int.random(in: 0..<odds, using: &generator) == 0 }
    var steps: [RetentionStep] = [], parent: (Int, Int)?, time = 1_000_000
    for attempt in 1...Int.random(in: 1...4, using: &generator) {
        for count in 1...Int.random(in: 1...6, using: &generator) {
            time += Int.random(in: -5...50, using: &generator)
            let summary = step(Int.random(in: 1...20, using: &generator) * 10, attempt, count, parent: parent, pinned: once(in: 8))
            steps.append(RetentionStep(summary, isCommitted: !once(in: 4), savedAtSeconds: once(in: 9) ? nil : time, bytes: Int.random(in: 1...9, using: &generator),
                                       metadata: once(in: 3) ? [:] : ["loss": String(Int.random(in: 0...3, using: &generator))],
                                       hold: once(in: 8) ? .reading : once(in: 8) ? .restoring : nil))
        }
        parent = steps.randomElement(using: &generator).map { ($0.summary.sequence.attempt, $0.summary.sequence.count) }
    }
    let limited = once(in: 2)
    let rules = RetentionRules(keep: Int.random(in: 0...5, using: &generator), keepPeriod: once(in: 2) ? 50 : nil, keepEverySeconds: once(in: 2) ? 60 : nil,
                               keepWithinSeconds: once(in: 2) ? 40 : nil, best: once(in: 2) ? .init(metric: "loss", order: once(in: 2) ? .max : .min, count: 2) : nil,
                               maxAgeSeconds: limited && once(in: 2) ? 80 : nil, maxBytes: limited && once(in: 2) ? 20 : nil)
    let elsewhere = Set(steps.filter { _ in once(in: 2) }.map(\.summary.sequence))
    let situation = RetentionSituation(now: time, isBeside: once(in: 2), standing: steps.randomElement(using: &generator)?.summary.sequence, elsewhere: elsewhere,
                                       evictBytes: limited && once(in: 2) ? 25 : 0)
    let decisions = Retention.decide(steps.shuffled(using: &generator), rules, situation)
    #expect(decisions.map(\.save) == steps.map(\.summary.save), "one decision for each, in order")
    let taken = Set(decisions.filter { !$0.isKept }.map(\.save))
    func goes(_ step: RetentionStep) -> Bool { taken.contains(step.summary.save) }

    // What never goes, whatever the rules and limits.
    let committed = steps.filter(\.isCommitted), newest = try #require(committed.last ?? steps.last)
    #expect(!goes(newest), "I3")
    #expect(!steps.contains { goes($0) && ($0.summary.pinned || $0.hold != nil) })
    if situation.isBeside { #expect(!committed.contains { goes($0) && $0.summary.sequence > situation.standing ?? $0.summary.sequence }, "the only complete copy") }
    #expect(!steps.contains { step in goes(step) && !(step.isCommitted && elsewhere.contains(step.summary.sequence)) && decisions.contains { $0.save == step.summary.save && $0.rule == .watermark } })

    // Never less than the rules say, where no limit speaks.
    guard !limited else { return }
    let old = Lineage.superseded(committed.map(\.summary)), line = steps.filter { !($0.isCommitted && old.contains($0.summary.sequence)) }
    #expect(!line.suffix(rules.keep ?? 0).contains(where: goes))
    #expect(steps.count - taken.count >= min(steps.count, max(1, rules.keep ?? 0)))
    let own = line.filter(\.isCommitted)
    if let period = rules.keepPeriod { #expect(!own.contains { $0.summary.step.isMultiple(of: period) && goes($0) }) }
    if let seconds = rules.keepEverySeconds {
        for period in Set(own.compactMap(\.savedAtSeconds).map { $0 / seconds }) { #expect(own.contains { $0.savedAtSeconds.map { $0 / seconds } == period && !goes($0) }) }
    }
    if let seconds = rules.keepWithinSeconds, let last = line.compactMap(\.savedAtSeconds).max() { #expect(!line.contains { $0.savedAtSeconds ?? 0 >= last - seconds && goes($0) }) }
    if let best = rules.best {
        let values = own.filter { !goes($0) }.compactMap { $0.metadata["loss"] }, all = own.compactMap { $0.metadata["loss"] }.sorted()
        let wanted = best.order == .min ? all.prefix(2) : all.suffix(2)
        #expect(Set(wanted).isSubset(of: Set(values)) && values.count >= wanted.count)
    }
    // And what is left would be left again.
    let left = steps.filter { !goes($0) }
    #expect(Retention.decide(left, rules, situation).allSatisfy { decision in decision.isKept || old.contains(decision.sequence) })
}
