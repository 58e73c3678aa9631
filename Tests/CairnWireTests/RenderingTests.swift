@testable import CairnWire
import Testing

@Suite struct RenderingTests {
    @Test(arguments: [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1_048_575, "1.0 MiB"), (8 << 20, "8.0 MiB"), (277_130_000_000, "258.1 GiB"),
                      (Int.max, "8.0 EiB"), (-5, "-5 B")])
    func sizesHaveOneDecimal(bytes: Int, text: String) {
        #expect(HumanSize.short(bytes) == text)
    }

    @Test func progressUsesTheUnitOfTheWhole() {
        #expect(HumanSize.progress(0, of: 3 << 30) == "0.0 of 3.0 GiB")
        #expect(HumanSize.progress(512 << 20, of: 3 << 30) == "0.5 of 3.0 GiB")
        #expect(HumanSize.progress(5, of: 100) == "5 of 100 B")
        #expect(HumanSize.exact(64 << 20) == "64 MiB")
        #expect(HumanSize.exact(1025) == "1025 B")
    }

    @Test(arguments: [(-3, "0s"), (4, "4s"), (720, "12m"), (12_000, "3h 20m"), (435_600, "5d 1h")])
    func agesHaveTwoUnitsAtMost(seconds: Int, text: String) {
        #expect(HumanAge.short(seconds: seconds) == text)
    }

    @Test(arguments: [("1970-01-01T00:00:00Z", 0), ("2000-02-29T12:00:00Z", 951_825_600), ("2026-07-31T23:59:59.5Z", 1_785_542_399),
                      ("2024-12-31T00:00:00Z", 1_735_603_200)])
    func timesOfTheWireBecomeSeconds(text: String, seconds: Int) {
        #expect(HumanAge.seconds(ofUTC: text) == seconds)
    }

    @Test(arguments: ["", "now", "2026-07-31 12:00:00Z", "2026-13-31T12:00:00Z", "2026-07-31T12:00:00+02:00"])
    func otherTimesAreNone(text: String) {
        #expect(HumanAge.seconds(ofUTC: text) == nil)
    }

    @Test func wordsStandLeftAndNumbersRight() {
        var table = Table([("STEP", .right), ("STATE", .left), ("RANKS", .right), ("NOTE", .left)])
        table.add([Table.Cell(1300), "flushing", "5/8", ""])
        table.add([Table.Cell(5), "local", "8/8", "pinned"])
        #expect(table.render() == "STEP  STATE     RANKS  NOTE\n1300  flushing    5/8\n   5  local       8/8  pinned\n")
    }

    @Test func coloursDoNotMoveColumns() {
        var table = Table([("A", .right), ("B", .left)])
        table.add([Table.Cell("x", .red), Table.Cell("y", .green)])
        #expect(table.render(colour: true) == "\u{1B}[1mA\u{1B}[0m  \u{1B}[1mB\u{1B}[0m\n\u{1B}[31mx\u{1B}[0m  \u{1B}[32my\u{1B}[0m\n")
        #expect(table.render(indent: 2) == "  A  B\n  x  y\n")
    }

    @Test func namesCannotSteerTheTerminal() {
        #expect(Table.printable("a\u{1B}[2Jb\nc") == "a?[2Jb?c")
        #expect(Table.printable("größe 石") == "größe 石")
    }
}

@Suite struct ProgressTests {
    @Test(arguments: [(0, 10, "[....]   0 %  0 of 10 B"), (5, 10, "[##..]  50 %  5 of 10 B"), (10, 10, "[####] 100 %  10 of 10 B"),
                      (20, 10, "[####] 100 %  20 of 10 B"), (0, 0, "[####] 100 %  0 of 0 B")])
    func barFillsWithTheShareDone(done: Int, total: Int, text: String) {
        #expect(ProgressBar.render(done: done, total: total, cells: 4) == text)
    }

    @Test(arguments: [("llama-7b", nil, "llama-7b"), ("1000/llama", 1000 as UInt32?, "llama")])
    func runsAreWrittenWithOrWithoutUID(text: String, uid: UInt32?, name: String) {
        let run = RunName(text)
        #expect(run?.uid == uid && run?.name == name && run?.text == text)
    }

    @Test(arguments: ["", "/", "a/", "/a", "a/b", "1/2/3", "-1/a", "+1/a", "4294967296/a", "..", "a b", "a\u{0}"])
    func otherNamesAreNoRuns(text: String) {
        #expect(RunName(text) == nil)
    }

    @Test func eachLevelIsSaidOnceAndProgressBetween() {
        var lines = WatchLines(ownUID: 5)
        func event(_ level: Operations.Level, _ bytes: Int, reason: String? = nil, uid: UInt32 = 5) -> Operations.Event {
            .init(uid: uid, run: "r", save: "1-2-1", step: 2, rank: 0, level: level, bytes: bytes, totalBytes: 100, monotonicNs: 1, reason: reason)
        }
        #expect(lines.line(for: event(.accepted, 0)) == .reached("r  step 2  rank 0  accepted  100 B"))
        #expect(lines.line(for: event(.accepted, 50)) == .progress("r  step 2  rank 0  " + ProgressBar.render(done: 50, total: 100)))
        #expect(lines.line(for: event(.staged, 0)) == .reached("r  step 2  rank 0  staged  100 B"))
        #expect(lines.line(for: event(.failed, 0, reason: "rank 1\u{1B} died")) == .reached("r  step 2  rank 0  failed: rank 1? died"))
        #expect(lines.line(for: event(.accepted, 0, uid: 6)) == .reached("6/r  step 2  rank 0  accepted  100 B"))
    }
}
