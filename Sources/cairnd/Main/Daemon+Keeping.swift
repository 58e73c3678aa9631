// What is kept of saves and told to others beside them: their times, the history, metrics as a file, the command after a commit. The keeper does
// what may block (CairnKeeper); nothing here is in a save's way, and where the keeper is gone or stuck, lines are dropped and counted.
import CairnConfiguration
import CairnEngine
import CairnIO
import CairnKeeper
import CairnMessages
import CairnModel
import CairnStore
import CairnWire

/// What the main process keeps of it.
struct Keeping {
    var link: WorkerLink?
    var times = SaveTimes()
    var history = History()
    var stages = StageHistograms()
    /// Lines for a keeper that is not up yet.
    var unsent: [UInt8] = []
    var droppedLines = 0, damagedLines = 0
    /// The file was read: a keeper that is started anew tells it again.
    var isLoaded = false
    /// Commands that wait, oldest first; the one that runs.
    var orders: [CommandOrder] = []
    var running: CommandOrder?
    /// Commits that a command was ordered for: a rank that asks again is told of a commit again.
    var ordered: [RunKey: [SaveID]] = [:]
    var commands: [String: Int] = [:]
    /// The save that is being handed to the engine.
    var planned: (handle: Int, plan: PlannedSave)?
}

/// One for each stage of a rank's save.
struct StageHistograms {
    var call = Histogram(), fence = Histogram(), staging = Histogram(), commit = Histogram(), save = Histogram()
    var flush: [Tier: Histogram] = [:]
    var poolWaitSeconds = 0.0

    mutating func add(_ stage: SaveTimes.Stage) {
        switch stage {
        case .call(let ns): call.observe(nanoseconds: ns)
        case .fence(let ns): fence.observe(nanoseconds: ns)
        case .staging(let ns): staging.observe(nanoseconds: ns)
        case .poolWait(let ns): poolWaitSeconds += Double(ns) / 1e9
        case .flush(let tier, let ns): flush[tier, default: Histogram()].observe(nanoseconds: ns)
        case .commit(let ns): commit.observe(nanoseconds: ns)
        case .save(let ns): save.observe(nanoseconds: ns)
        }
    }
}

extension Daemon {
    // MARK: the keeper

    /// As the configuration says, else as systemd does (StateDirectory=); nil: nothing outlives this process.
    static func stateFolder(_ configuration: Configuration) -> String? {
        configuration.state ?? ProcessFacts.environment("STATE_DIRECTORY").flatMap { $0.split(separator: ":").first.map(String.init) }
    }

    /// Only where there is something for it to do.
    func startKeeper() {
        let state = Self.stateFolder(configuration)
        guard state != nil || configuration.metrics.textfile != nil || configuration.onCommit != nil else { return }
        let link = WorkerLink(role: "keeper", loop: loop)
        keeping.link = link
        link.onStart = { [unowned self] link in
            link.send(KeeperRequest.start(KeeperStart(node: node, stateFolder: state, historyBytes: configuration.history.sizeBytes,
                                                      textfile: configuration.metrics.textfile)))
        }
        link.onFrame = { [unowned self] frame in keeperFrame(frame) }
        link.onLost = { [unowned self] reason in
            log.write(.error, "the keeper is gone: \(reason); it is started anew")
            if keeping.running != nil { commandEnded(CommandResult(outcome: .failed, text: "the keeper ended", milliseconds: 0, output: "")) }
        }
        link.onFailedStart = { [unowned self] reason in log.write(.error, "the keeper could not start: \(reason)") }
        link.start()
        guard configuration.metrics.textfile != nil else { return }
        loop.timer(afterMilliseconds: DaemonLimits.firstTextfileMilliseconds, repeatMilliseconds: configuration.metrics.intervalMs) { [unowned self] in
            guard let link = keeping.link, link.state == .up, link.queuedBytes < DaemonLimits.keeperQueueBytes else { return }
            link.send(KeeperRequest.textfile, payload: Array(metrics(of: nil).utf8))
        }
    }

    private func keeperFrame(_ frame: Frame) {
        guard let link = keeping.link else { return }
        let reply: KeeperReply
        do { reply = try MessageCoding.decode(KeeperReply.self, from: frame.json) } catch {
            log.write(.error, "the keeper sent what is no reply: \(error)")
            return link.kill()
        }
        switch reply {
        case .ready(let damaged):
            link.isUp()
            if !keeping.isLoaded { load(frame.payload, damaged) }
            if !keeping.unsent.isEmpty { link.send(KeeperRequest.append, payload: keeping.unsent) }
            keeping.unsent = []
            nextCommand()
        case .ran(let result): commandEnded(result)
        case .failed(let text): log.write(.warning, "keeper: \(text)")
        }
    }

    private func load(_ lines: [UInt8], _ damaged: Int) {
        keeping.isLoaded = true
        let found = HistoryLine.split(lines).lines
        let older = found.compactMap(HistoryLine.decode)
        keeping.damagedLines = damaged + found.count - older.count
        keeping.history.addBefore(older)
        if keeping.damagedLines > 0 { log.write(.warning, "\(keeping.damagedLines) lines of the history were torn or damaged, and are left out") }
    }

    private func keep(_ save: Operations.PastSave) {
        keeping.history.add(save)
        guard let link = keeping.link else { return }
        let line = HistoryLine.encode(save)
        if link.state == .up, link.queuedBytes < DaemonLimits.keeperQueueBytes {
            link.send(KeeperRequest.append, payload: line)
        } else if keeping.unsent.count + line.count <= KeeperLimits.unsentBytes {
            keeping.unsent += line
        } else {
            keeping.droppedLines += 1
        }
    }

    // MARK: times

    func measure(_ notice: Notice) {
        guard notice.reached else { return }
        let key = RankSaveKey(run: notice.run, save: notice.save, rank: notice.rank)
        switch notice.level {
        case .accepted:
            let known = keeping.planned.flatMap { $0.plan.run == key.run && $0.plan.save == key.save && $0.plan.rank == key.rank ? $0 : nil }
                ?? plans.first { $0.value.run == key.run && $0.value.save == key.save && $0.value.rank == key.rank }.map { ($0.key, $0.value) }
            guard let (handle, plan) = known else { return }
            keeping.times.accepted(key, worldSize: plan.worldSize, last: engine.lastLevel(engine.upto(ofHandle: handle) ?? plan.upto), at: notice.at,
                                   utcMs: Clock.utcMilliseconds())
        case .local where !plans.values.contains { $0.run == key.run && $0.save == key.save && $0.rank == key.rank }:
            // Found on the local tier by a scan; if it was timed here, it is still.
            let world = engine.saveReports(run: key.run).first { $0.save == key.save }?.worldSize ?? 0
            keeping.times.found(key, worldSize: world, at: notice.at, utcMs: Clock.utcMilliseconds())
            fallthrough
        default:
            let news = keeping.times.reached(SaveTimes.Step(key: key, level: notice.level, bytes: notice.totalBytes, at: notice.at,
                                                            poolWaitNs: notice.poolWaitNs, reason: notice.reason))
            for stage in news.stages { keeping.stages.add(stage) }
            if let save = news.ended { keep(save) }
        }
        if notice.level == .failed { counters.failures[FailureKind(reason: notice.reason ?? ""), default: 0] += 1 }
        if notice.level == .committed, notice.rank == 0 { order(notice) }
    }

    // MARK: the command after a commit

    private func order(_ notice: Notice) {
        guard let hook = configuration.onCommit, let sequence = engine.committedSequence(run: notice.run, save: notice.save),
              keeping.ordered[notice.run]?.contains(notice.save) != true else { return }
        keeping.ordered[notice.run, default: []].append(notice.save)
        if let count = keeping.ordered[notice.run]?.count, count > engine.limits.decidedPerRun { keeping.ordered[notice.run]?.removeFirst() }
        let root = configuredPaths(engine.committing).first ?? ""
        let folder = "\(root)/\(Names.runFolder(notice.run))/\(Names.stepFolder(step: notice.save.step, sequence: sequence))"
        let values = ["RUN": notice.run.name, "UID": "\(notice.run.uid)", "STEP": "\(notice.save.step)", "SEQUENCE": "\(sequence)", "SAVE": "\(notice.save)",
                      "FOLDER": folder, "NODE": node, "SOCKET": configuration.socket]
        keeping.orders.append(CommandOrder(run: notice.run, step: notice.save.step, arguments: hook.command,
                                           environment: values.sorted { $0.key < $1.key }.map { "CAIRN_\($0.key)=\($0.value)" }, timeoutMilliseconds: hook.timeoutMs))
        if keeping.orders.count > hook.queue {
            let dropped = keeping.orders.removeFirst()
            keeping.commands["dropped", default: 0] += 1
            log.write(.warning, "run \(dropped.run) step \(dropped.step): no command is run after this commit: \(hook.queue) newer ones wait for one that runs",
                      LogFields(run: dropped.run, step: dropped.step))
        }
        nextCommand()
    }

    private func nextCommand() {
        guard !stopping, keeping.running == nil, let link = keeping.link, link.state == .up, !keeping.orders.isEmpty else { return }
        let order = keeping.orders.removeFirst()
        keeping.running = order
        link.send(KeeperRequest.run(order))
    }

    private func commandEnded(_ result: CommandResult) {
        guard let order = keeping.running else { return }
        keeping.running = nil
        keeping.commands[result.outcome.rawValue, default: 0] += 1
        let printed = result.output.isEmpty ? "" : "; it printed: \(result.output)"
        log.write(result.outcome == .ok ? .info : .warning, "run \(order.run) step \(order.step): the command after the commit "
            + (result.outcome == .ok ? "ended well" : "failed: \(result.text)") + " after \(result.milliseconds) ms\(printed)", LogFields(run: order.run, step: order.step))
        nextCommand()
    }
}
