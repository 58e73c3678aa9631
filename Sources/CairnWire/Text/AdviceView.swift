// What `cairn advise` shows.

public struct AdviceView {
    let reply: Operations.Advise.Reply, mtbfSeconds: Int

    public init(reply: Operations.Advise.Reply, mtbfSeconds: Int) { self.reply = reply; self.mtbfSeconds = mtbfSeconds }

    public var text: String {
        var table = Table([("MEASURED", .left), ("", .right)])
        func add(_ name: String, _ ms: Int?) { if let ms { table.add([Table.Cell(name), Table.Cell(Self.time(ms))]) } }
        add("between saves", reply.intervalMs)
        table.add(["a rank is held up", Table.Cell(reply.blockedUs < 10_000 ? "\(reply.blockedUs / 1000).\(reply.blockedUs / 100 % 10) ms" : Self.time(reply.blockedUs / 1000))])
        add("staged after", reply.stagedMs)
        add("local after", reply.localMs)
        add("committed after", reply.committedMs)
        add("a restore", reply.restoreMs)
        var text = table.render() + "\(reply.saves) \(reply.saves == 1 ? "save" : "saves"), the last of \(HumanSize.short(reply.bytes)) on this node; "
            + "a failure every \(HumanAge.short(seconds: mtbfSeconds))\n\n"
        text += "save every \(Self.time(reply.bestMs)): \(Self.share(reply.usefulBestPpm)) of the time is useful"
            + (reply.usefulNowPpm.map { ", now \(Self.share($0))" } ?? "") + "\n"
        text += "(by Young \(Self.time(reply.youngMs)), by Daly \(Self.time(reply.dalyMs))"
            + (reply.bestMs > reply.dalyMs ? "; one save takes \(Self.time(reply.bestMs)) until it is committed" : "") + ")\n"
        if !reply.levers.isEmpty { text += "\nwhat would help, at best\n" }
        for lever in reply.levers {
            text += "- \(Self.names[lever.change] ?? lever.change): \(Self.share(lever.usefulPpm)) useful, saving every \(Self.time(lever.intervalMs))\n"
        }
        return text
    }

    private static let names = ["pool": "a pool that holds the state", "globalTier": "a global tier of twice the speed", "compression": "compression that saves a fifth",
                                "memory": "copies in another node's memory"]

    static func share(_ ppm: Int) -> String { let hundredths = (ppm + 50) / 100; return "\(hundredths / 100).\(hundredths % 100 < 10 ? "0" : "")\(hundredths % 100) %" }
    static func time(_ ms: Int) -> String {
        ms < 1000 ? "\(ms) ms" : ms < 60_000 ? "\(ms / 1000).\(ms / 100 % 10) s" : ms < 3_600_000 ? "\(ms / 60_000)m \(ms / 1000 % 60)s" : HumanAge.short(seconds: ms / 1000)
    }
}
