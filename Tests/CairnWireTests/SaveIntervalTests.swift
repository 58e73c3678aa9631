// The interval between saves: Daly's against a search of his own formula, Young's as its limit, and what advice is made of.
import CairnModel
@testable import CairnWire
import Testing

private let cases: [(blocked: Double, mtbf: Double)] = [(0.001, 86_400), (0.2, 3600), (5, 21_600), (60, 7200), (900, 3600), (3600, 3600)]

@Test(arguments: cases) func dalysIntervalIsTheBestOfHisFormula(blocked: Double, mtbf: Double) {
    let best = SaveInterval.daly(blocked: blocked, mtbf: mtbf)
    func useful(_ interval: Double) -> Double { SaveInterval.useful(interval: interval, blocked: blocked, lost: 30, mtbf: mtbf) }
    for factor in [0.5, 0.8, 0.95, 1.05, 1.2, 2] { #expect(useful(best) >= useful(best * factor)) }
    #expect(best < mtbf && best > 0)
    #expect(useful(best) < 1 && useful(best) > 0)
    // Young's is the limit of small costs: Daly's own series says that they differ by about a third of the square root.
    let young = SaveInterval.young(blocked: blocked, mtbf: mtbf)
    #expect(abs(best / young - 1) < 0.5 * (2 * blocked / mtbf).squareRoot() + 0.001)
}

@Test func knownValues() {
    #expect(SaveInterval.young(blocked: 50, mtbf: 10_000) == 1000)
    // M (1 + W0(-exp(-1 - 0.005))), by an independent evaluation of Lambert's W.
    #expect(abs(SaveInterval.daly(blocked: 50, mtbf: 10_000) - 966.948) < 0.001)
}

@Test func adviceRanksWhatHelps() {
    let times = RunTimes(saves: 10, bytes: 1 << 30, intervalSeconds: 600, blockedSeconds: 20, stagedSeconds: 22, localSeconds: 25, committedSeconds: 120, restoreSeconds: 90)
    let advice = SaveInterval(times, mtbfSeconds: 3600)
    #expect(advice.bestSeconds == advice.dalySeconds && advice.bestSeconds > 300 && advice.bestSeconds < 400)
    #expect(advice.usefulNow! < advice.usefulBest)
    #expect(advice.levers.first?.change == .pool, "who waits 20 s for a drive wants a pool")
    #expect(advice.levers.map(\.usefulShare) == advice.levers.map(\.usefulShare).sorted(by: >))
    #expect(advice.levers.allSatisfy { $0.usefulShare > advice.usefulBest })

    // Nothing is held up, and a save takes long: the interval is as long as the save, and the pool would not help.
    let slow = SaveInterval(RunTimes(saves: 3, blockedSeconds: 0, stagedSeconds: 1, localSeconds: 2, committedSeconds: 300, restoreSeconds: 1), mtbfSeconds: 3600)
    #expect(slow.bestSeconds == 300 && slow.usefulNow == nil)
    #expect(!slow.levers.contains { $0.change == .pool })
    #expect(slow.levers.first?.change == .memory)
}

@Test func adviceIsShown() {
    let times = RunTimes(saves: 10, bytes: 1 << 30, intervalSeconds: 600, blockedSeconds: 0.0021, stagedSeconds: 2.2, localSeconds: 2.5, committedSeconds: 12, restoreSeconds: 9)
    let text = AdviceView(reply: .init(times, SaveInterval(times, mtbfSeconds: 21_600)), mtbfSeconds: 21_600).text
    let rows = text.split(separator: "\n").map { $0.split(separator: " ").joined(separator: " ") }
    #expect(rows.contains("between saves 10m 0s") && rows.contains("a rank is held up 2.1 ms"))
    #expect(text.contains("save every 12.0 s:") && text.contains("one save takes 12.0 s until it is committed"))
    #expect(text.split(separator: "\n").allSatisfy { $0.count <= 80 })
}
