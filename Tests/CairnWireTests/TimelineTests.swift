import CairnModel
@testable import CairnWire
import FoundationEssentials
import Testing

@Suite struct TimelineTests {
    /// Eight ranks; rank 5 stages three times as long, the global tier takes most of the time; step 400 failed.
    private func history(ranks: Int = 8, saves: Int = 6) -> [Operations.PastSave] {
        (1...saves).flatMap { save in
            (0..<ranks).map { rank in
                let staged = (rank == 5 ? 300_000 : 100_000) + save * 1000, failed = save == 4
                return Operations.PastSave(
                    uid: 5, run: "llama", save: "1-\(save * 100)-1", step: save * 100, rank: rank, worldSize: ranks, acceptedMs: 1_785_499_200_000 + save * 60_000,
                    level: failed ? .failed : .committed, bytes: 1 << 30, callUs: 400, fenceUs: rank == 5 ? 200_000 : 0, poolWaitUs: save == 2 ? 50_000 : 0,
                    stagedUs: staged, localUs: failed ? nil : staged + 200_000, globalUs: failed ? nil : staged + 900_000, committedUs: failed ? nil : 1_400_000,
                    failedUs: failed ? 500_000 : nil, reason: failed ? "global tier: <ENOSPC>" : nil)
            }
        }
    }

    @Test func whatStandsOutIsSaid() {
        let findings = Timeline(run: "llama", history()).findings
        #expect(findings[0] == "1 of 6 saves failed; the last one, step 400: global tier: <ENOSPC>")
        #expect(findings[1].hasPrefix("rank 5 is slow in staging: 304 ms, the others 104 ms (2.9 times), in 6 of 6 saves"))
        #expect(findings[2] == "rank 5 is the last to be durable in 5 of 5 saves: the others wait 200 ms for it")
        #expect(findings[3].hasPrefix("a step is committed after 1.40 s (median); most of it is global tier"))
        #expect(findings.contains { $0.hasPrefix("training stood still for 0.4 ms a save (median of ranks), at most 200 ms (rank 5)") })
        #expect(findings.contains { $0.hasPrefix("staging waited for room in the pool in 1 of 6 saves, up to 50 ms") })
    }

    @Test func aRankThatSavesLateIsNamedAndMovesTheRow() {
        let records = history().filter { $0.step != 400 }.map { record in
            var record = record
            if record.rank == 2 { record.acceptedMs += 2000 }
            return record
        }
        let timeline = Timeline(run: "llama", records)
        #expect(timeline.findings.first == "rank 2 saves 2.00 s after the others, in 5 of 5 saves: it is slow before it saves")
        #expect(timeline.saves[0].last == 2 && timeline.saves[0].endUs == 3_400_000)
        #expect(TimelinePicture(timeline, subtitle: "").svg.contains("step 100: rank 2 saved 2.00 s after the first"))
    }

    @Test func equalRanksAreNotCalledSlow() {
        let findings = Timeline(run: "llama", history().filter { $0.rank != 5 && $0.step != 400 }).findings
        #expect(!findings.contains { $0.contains("slow") || $0.contains("last to be") })
    }

    @Test func thePictureIsXMLWithATooltipForEachRankAndSave() throws {
        let svg = TimelinePicture(Timeline(run: "llama", history()), subtitle: "of node <n>").svg
        #expect(svg.contains("<title>step 300, rank 5, staging: 303 ms</title>"))
        #expect(svg.contains("of node &lt;n&gt;") && svg.contains("&lt;ENOSPC&gt;") && !svg.contains("<ENOSPC>"))
        // Every element that is opened is closed.
        for name in ["svg", "text", "title"] {
            #expect(svg.components(separatedBy: "<\(name)").count == svg.components(separatedBy: "</\(name)>").count, "\(name)")
        }
        // The slow rank's cells are the darkest of the staging map.
        let dark = TimelinePicture.heat(303.0 / 306.0)
        #expect(svg.contains("fill=\"\(dark)\"><title>step 300, rank 5, staging"))
        #expect(TimelinePicture(Timeline(run: "llama", history()), subtitle: "").html.hasPrefix("<!doctype html>"))
    }

    @Test func theSameHistoryGivesTheSamePicture() {
        let (one, other) = (TimelinePicture(Timeline(run: "llama", history()), subtitle: "s").svg, TimelinePicture(Timeline(run: "llama", history().reversed()), subtitle: "s").svg)
        #expect(one == other)
    }

    @Test func anEmptyHistoryIsSaid() {
        let timeline = Timeline(run: "llama", [])
        #expect(timeline.findings.count == 1 && TimelinePicture(timeline, subtitle: "").svg.contains("no save of this run"))
        #expect(TimelineTable(timeline).text(colour: false).contains("no save of this run"))
    }

    @Test func aTableHasTheSlowestOfEachStage() {
        let text = TimelineTable(Timeline(run: "llama", history())).text(colour: false)
        let row = text.split(separator: "\n").first { $0.hasPrefix(" 300") }
        #expect(row?.split(separator: " ").joined(separator: " ") == "300 8 303 ms 200 ms 0.0 ms 200 ms 900 ms 397 ms 1.40 s 5")
    }

    @Test(arguments: [(0, "0.0 ms"), (412, "0.4 ms"), (9_960, "10 ms"), (38_400, "38 ms"), (999_600, "1.00 s"), (1_237_000, "1.24 s"), (12_420_000, "12.4 s"), (200_000_000, "3m 20s")])
    func durations(us: Int, text: String) { #expect(HumanDuration.short(microseconds: us) == text) }
}

@Suite struct WatchViewTests {
    private func reply(ranks: Int, staged: Int = 0, at: Int = 1_000_000_000) -> Operations.Progress.Reply {
        let tier = { Operations.TierStatus(tier: $0, paths: [], state: .up, queuedBytes: 1 << 30, writtenBytes: staged, compression: "none") }
        return .init(node: "n", monotonicNs: at, stagedBytes: staged,
                     pool: .init(bytes: 1 << 30, filledBytes: 1 << 30, lockedBytes: 0, hugeBytes: 0, chunks: 128, free: 64, needed: 32, cached: 32, quarantined: 0),
                     tiers: [tier("local"), tier("global")],
                     runs: [.init(uid: 5, run: "llama", sessions: ranks, worldSize: ranks, lastStep: 1100, ageMs: 61_000, commits: 3, failures: 1, fenceUs: 400_000)],
                     saves: [.init(uid: 5, run: "llama", save: "1-1200-1", step: 1200, worldSize: ranks, ageMs: 2100, missing: Array(0..<ranks), ranks: (0..<ranks).map {
                         .init(rank: $0, level: $0 == 40 ? .accepted : .staged, totalBytes: 100, stagedBytes: $0 == 40 ? 30 : 100, localBytes: $0 == 40 ? 0 : $0, globalBytes: 0,
                               fenceMs: $0 == 40 ? 412 : nil, poolWaitMs: 0)
                     })])
    }

    @Test func sixtyFourRanksFitAScreenWithTheSlowestFirst() throws {
        let text = WatchView(reply(ranks: 64, staged: 300 << 20, at: 2_000_000_000), before: reply(ranks: 64, staged: 100 << 20), order: .slowest, most: 14, ownUID: 5, colour: false).text
        let lines = text.split(separator: "\n", omittingEmptySubsequences: false)
        #expect(lines.count <= 24 && lines.allSatisfy { $0.count <= WatchView.columns })
        let head = try #require(lines.firstIndex { $0.hasPrefix("  rank") })
        #expect(lines[head - 1].contains("step 1200  2.10 s  64 of 64 ranks: 1 accepted, 63 staged; missing 0-63"))
        #expect(lines[head + 1].hasPrefix("  40    [###.......]  30%") && lines[head + 1].hasSuffix("fence 412 ms"))
        #expect(lines[head + 2].hasPrefix("  0 "))
        #expect(lines.contains { $0.hasPrefix("  +") && $0.contains("the others") })
        #expect(lines[0] == "n   staging 200.0 MiB/s" && text.contains("step 1100 committed 1m ago, fence 400 ms, 1 failed"))
    }

    @Test func ranksInTheirOrderWhereAskedFor() {
        let text = WatchView(reply(ranks: 64), before: nil, order: .rank, most: 14, ownUID: 5, colour: false).text
        let lines = text.split(separator: "\n"), head = lines.firstIndex { $0.hasPrefix("  rank") } ?? 0
        #expect(lines[head + 1].hasPrefix("  0 "))
        #expect(text.hasPrefix("n   staging -\n"), "no rate from one answer")
    }

    @Test func escapeCodesTakeNoColumn() {
        #expect(WatchView.cut("\u{1B}[31m" + String(repeating: "x", count: 90) + "\u{1B}[0m") == "\u{1B}[31m" + String(repeating: "x", count: 80) + "\u{1B}[0m")
        let coloured = WatchView(reply(ranks: 2), before: nil, order: .slowest, most: 14, ownUID: 5, colour: true).text
        let plain = WatchView(reply(ranks: 2), before: nil, order: .slowest, most: 14, ownUID: 5, colour: false).text
        #expect(coloured.contains("\u{1B}[") && !plain.contains("\u{1B}"))
    }
}
