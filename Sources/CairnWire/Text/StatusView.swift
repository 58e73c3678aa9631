// What `cairn status` shows.
import CairnModel

/// The answer of `Status` as text.
public struct StatusView {
    let reply: Operations.Status.Reply
    let ownUID: UInt32
    let colour: Bool

    public init(reply: Operations.Status.Reply, ownUID: UInt32, colour: Bool) {
        self.reply = reply; self.ownUID = ownUID; self.colour = colour
    }

    public var text: String {
        [head, pool, workers, tiers, saves, sessions, notes].filter { !$0.isEmpty }.joined(separator: "\n")
    }

    private var head: String {
        let daemon = reply.daemon
        var line = "cairnd \(Table.printable(daemon.version)) on \(Table.printable(daemon.node)), up \(HumanAge.short(seconds: daemon.uptimeSeconds))"
        line += ", pid \(daemon.pid), socket \(Table.printable(daemon.socket)), "
        line += daemon.configuration.map { "configuration \(Table.printable($0))" } ?? "no configuration file"
        return line + "\n" + (daemon.draining ? Table.Style.yellow.apply("draining: no new saves are taken", colour: colour) + "\n" : "")
    }

    private var pool: String {
        let pool = reply.pool
        var table = Table([("POOL", .right), ("FILLED", .right), ("LOCKED", .right), ("HUGE", .right), ("CHUNKS", .right), ("FREE", .right), ("NEEDED", .right),
                           ("CACHED", .right), ("QUARANTINED", .right)])
        table.add([Table.Cell(HumanSize.short(pool.bytes)), Table.Cell(HumanSize.short(pool.filledBytes)), Table.Cell(HumanSize.short(pool.lockedBytes)), Table.Cell(HumanSize.short(pool.hugeBytes)),
                   Table.Cell(pool.chunks), Table.Cell(pool.free), Table.Cell(pool.needed), Table.Cell(pool.cached),
                   Table.Cell(String(pool.quarantined), pool.quarantined > 0 ? .yellow : .plain)])
        return table.render(colour: colour) + (pool.lockNote.map { "note: \(Table.printable($0))\n" } ?? "")
    }

    private func health(_ state: Operations.Health) -> Table.Cell {
        switch state {
        case .up: Table.Cell("up", .green)
        case .starting: Table.Cell("starting", .yellow)
        case .degraded: Table.Cell("degraded", .red)
        }
    }

    private var workers: String {
        var table = Table([("WORKER", .left), ("STATE", .left), ("PID", .right), ("RESTARTS", .right), ("I/O", .left), ("NOTE", .left)])
        for worker in reply.workers {
            let kind = [worker.io, worker.direct.map { $0 ? "O_DIRECT" : "buffered" }].compactMap { $0 }.joined(separator: ", ")
            table.add([Table.Cell(worker.role), health(worker.state), Table.Cell(worker.pid.map(String.init) ?? ""),
                       Table.Cell(worker.restarts), Table.Cell(kind), Table.Cell(worker.note ?? "")])
        }
        return table.isEmpty ? "" : table.render(colour: colour)
    }

    private var tiers: String {
        var table = Table([("TIER", .left), ("STATE", .left), ("FREE", .right), ("OF", .right), ("QUEUED", .right), ("WRITTEN", .right), ("FOLDER", .left)])
        var remarks = ""
        for tier in reply.tiers {
            for (index, folder) in tier.paths.enumerated() {
                let first = index == 0
                table.add([Table.Cell(first ? tier.tier : ""), first ? health(tier.state) : "", Table.Cell(HumanSize.short(folder.freeBytes)),
                           Table.Cell(HumanSize.short(folder.totalBytes)), Table.Cell(first ? HumanSize.short(tier.queuedBytes) : ""),
                           Table.Cell(first ? HumanSize.short(tier.writtenBytes) : ""), Table.Cell(folder.path)])
            }
            if tier.compression != "none" { remarks += "\(tier.tier): compression \(Table.printable(tier.compression))\n" }
            if let reason = tier.reason {
                remarks += "\(tier.tier): \(Table.printable(reason))\(tier.remedy.map { "; " + Table.printable($0) } ?? "")\n"
            }
        }
        return (table.isEmpty ? "" : table.render(colour: colour)) + remarks
    }

    private var saves: String {
        guard !reply.saves.isEmpty else { return "no save in flight\n" }
        var table = Table([("RUN", .left), ("STEP", .right), ("LEVEL", .left), ("RANKS", .right), ("STAGED", .right), ("LOCAL", .right),
                           ("GLOBAL", .right), ("OF", .right), ("AGE", .right), ("NOTE", .left)])
        for save in reply.saves {
            table.add([Table.Cell(RunName(save.run, uid: save.uid, ownUID: ownUID).text), Table.Cell(save.step),
                       Table.Cell(save.level.rawValue, save.level == .failed ? .red : .plain), Table.Cell("\(save.ranksStaged)/\(save.ranks)"),
                       Table.Cell(HumanSize.short(save.stagedBytes)), Table.Cell(HumanSize.short(save.localBytes)),
                       Table.Cell(HumanSize.short(save.globalBytes)), Table.Cell(HumanSize.short(save.totalBytes)),
                       Table.Cell(HumanAge.short(seconds: save.ageMs / 1000)), Table.Cell(note(save))])
        }
        return table.render(colour: colour)
    }

    /// What it waits for: the parts of other nodes as far as this one sees them, and what its own part waits for.
    private func note(_ save: Operations.SaveStatus) -> String {
        [save.leftover ? "left by an earlier launch, being finished" : nil,
         save.missing.isEmpty ? nil : "missing \(save.missing.count == 1 ? "rank" : "ranks") \(RankRanges.text(save.missing))",
         save.reason].compactMap { $0 }.joined(separator: "; ")
    }

    private var sessions: String {
        guard reply.sessions.count > 0 else { return "no rank connected\n" }
        var table = Table([("RUN", .left), ("SESSIONS", .right), ("WORLD", .right)])
        for run in reply.sessions.runs {
            table.add([Table.Cell(RunName(run.run, uid: run.uid, ownUID: ownUID).text), Table.Cell(run.sessions), Table.Cell(run.worldSize)])
        }
        return table.render(colour: colour)
    }

    private var notes: String { reply.notes.map { "note: \(Table.printable($0))\n" }.joined() }
}
