// Where time goes: Progress of what is in flight, History of what has ended, Metrics.
import CairnEngine
import CairnIO
import CairnKeeper
import CairnMessages
import CairnModel
import CairnWire

extension Daemon {
    func history(_ run: RunKey, _ last: Int?, _ context: CallContext) {
        let last = last ?? DaemonLimits.historySaves
        guard (1...KeeperLimits.records).contains(last) else { return context.fail(.invalidParameter(parameter: "last")) }
        // At a start the keeper is still reading the file: for a moment, or as long as a worker may take to start.
        guard keeping.isLoaded || keeping.link == nil || loop.nowNanoseconds - startedAt > DaemonLimits.workerStartMilliseconds * 1_000_000 || !context.isLive else {
            loop.timer(afterMilliseconds: DaemonLimits.tickMilliseconds) { [weak self] in self?.history(run, last, context) }
            return
        }
        let saves = keeping.history.saves(of: run, last: last)
        guard !saves.isEmpty || engine.knownRuns.contains(run) else { return context.fail(.noSuchRun(run: run.name)) }
        context.reply(Operations.History.Reply(node: node, saves: saves))
    }

    func progress(_ parameters: Operations.Progress.Parameters, _ context: CallContext) {
        let all = isOperator(context)
        if let uid = parameters.uid, uid != context.uid, !all { return context.fail(.noSuchRun(run: "\(uid)/\(parameters.run ?? "")")) }
        let uid = parameters.uid ?? (all && parameters.run == nil ? nil : context.uid)
        func isMeant(_ run: RunKey) -> Bool { (uid == nil || run.uid == uid) && (parameters.run == nil || run.name == parameters.run) }
        let saves = engine.saveReports().filter { isMeant($0.run) }.map { report in
            Operations.SaveProgress(
                uid: report.run.uid, run: report.run.name, save: report.save.description, step: report.save.step, worldSize: report.worldSize,
                ageMs: report.ageNs / 1_000_000, missing: report.missing ?? [],
                ranks: engine.rankReports(run: report.run, save: report.save).map { rank in
                    let fence = keeping.times.fenceNs(RankSaveKey(run: report.run, save: report.save, rank: rank.rank), at: loop.nowNanoseconds)
                    return Operations.RankProgress(rank: rank.rank, level: rank.level, totalBytes: rank.bytes, stagedBytes: rank.stagedBytes, localBytes: rank.localBytes,
                                                   globalBytes: rank.globalBytes, fenceMs: fence.map { $0 / 1_000_000 }, poolWaitMs: rank.poolWaitNs / 1_000_000, reason: rank.reason)
                })
        }
        let perRun = Dictionary(grouping: sessions.values.filter { isMeant($0.run) }, by: \.run)
        let runs = Set(perRun.keys).union(engine.knownRuns.filter(isMeant)).sorted().map { run in
            let last = keeping.history.saves(of: run, last: 1).filter { $0.level != .failed }
            return Operations.RunProgress(uid: run.uid, run: run.name, sessions: perRun[run]?.count ?? 0, worldSize: perRun[run]?.first?.worldSize ?? 0,
                                          lastStep: lastCommit(run)?.step, ageMs: lastCommit(run).map { max(0, Clock.utcMilliseconds() - $0.ms) },
                                          commits: counters.commitsOfRun[run] ?? 0, failures: counters.failuresOfRun[run] ?? 0,
                                          fenceUs: last.compactMap(\.fenceUs).max(), committedUs: last.compactMap(\.committedUs).max())
        }
        context.reply(Operations.Progress.Reply(node: node, monotonicNs: loop.nowNanoseconds, stagedBytes: counters.stagedBytes, pool: poolStatus(),
                                                tiers: engine.tierReports.map { report in
                                                    var tier = tierStatus(report)
                                                    tier.paths = []
                                                    return tier
                                                }, runs: runs, saves: saves))
    }

    /// Of this life, else of the history: when, in milliseconds since 1970.
    private func lastCommit(_ run: RunKey) -> (step: Int, ms: Int)? {
        if let commit = engine.lastCommit(run: run) { return (commit.save.step, Clock.utcMilliseconds() - (loop.nowNanoseconds - commit.at) / 1_000_000) }
        return keeping.history.lastCommit(of: run).map { ($0.save.step, $0.ms) }
    }

    /// Prometheus' text form. `uid`: whose runs are named; nil: everyone's.
    func metrics(of uid: UInt32?) -> String {
        var text = Exposition()
        func gauge(_ name: String, _ help: String, _ samples: [(labels: Exposition.Labels, value: Double)]) { text.family(name, .gauge, help, samples) }
        func counter(_ name: String, _ help: String, _ samples: [(labels: Exposition.Labels, value: Double)]) { text.family(name, .counter, help, samples) }
        func one(_ value: Int) -> [(labels: Exposition.Labels, value: Double)] { [([], Double(value))] }
        gauge("build_info", "Always 1; the version is a label.", [([("version", CairnVersion.text)], 1)])
        gauge("start_time_seconds", "When this daemon started, in seconds since 1970.", [([], Double(Clock.utcMilliseconds() - (loop.nowNanoseconds - startedAt) / 1_000_000) / 1000)])

        let pool = engine.poolReport
        gauge("pool_bytes", "Bytes of the staging pool by state.", [("free", pool.free), ("needed", pool.needed), ("cached", pool.cached), ("quarantined", pool.quarantined)].map {
            ([("state", $0.0)], Double($0.1 * Sizes.chunkBytes))
        })
        counter("saves_total", "Rank saves by the level that they reached.", [
            ("accepted", counters.saves), ("staged", counters.staged), ("committed", counters.committed), ("failed", counters.failed)].map { ([("level", $0.0)], Double($0.1)) })
        counter("failures_total", "Rank saves that failed, by kind.", FailureKind.allCases.map { ([("kind", $0.rawValue)], Double(counters.failures[$0] ?? 0)) })
        counter("refused_calls_total", "Calls that were answered with an error, by error.",
                counters.refused.sorted { $0.key < $1.key }.map { ([("error", $0.key)], Double($0.value)) })
        counter("staged_bytes_total", "Bytes copied into the pool.", one(counters.stagedBytes))
        counter("loaded_bytes_total", "Bytes handed back to ranks, by the tier that they came from.", ([.memory] + engine.tiers).map {
            ([("tier", $0.rawValue)], Double(counters.loadedBytes[$0] ?? 0))
        })
        counter("restores_total", "Restores whose step was chosen, one for each rank.", one(counters.restores))

        let stages = keeping.stages
        text.family("save_call_seconds", "How long ranks waited for the reply to Save.", [([], stages.call)])
        text.family("fence_wait_seconds", "How long ranks stood at their fence until their save was staged; 0 where none had to.", [([], stages.fence)])
        text.family("staging_seconds", "From Save until a rank's part was in the pool.", [([], stages.staging)])
        text.family("flush_seconds", "From staged until a rank's part was durable on a tier.",
                    engine.tiers.map { ([("tier", $0.rawValue)], stages.flush[$0] ?? Histogram()) })
        text.family("commit_seconds", "From a rank's part being durable where it is committed until all ranks' were, and the step was committed.", [([], stages.commit)])
        text.family("save_seconds", "From Save until the step was committed, one for each rank.", [([], stages.save)])
        counter("pool_wait_seconds_total", "How long staging waited for room in the pool.", [([], stages.poolWaitSeconds)])

        let tiers = engine.tierReports
        func ofTiers(_ value: (TierReport) -> Double) -> [(labels: Exposition.Labels, value: Double)] { tiers.map { ([("tier", $0.tier.rawValue)], value($0)) } }
        gauge("tier_up", "Whether the tier answers.", ofTiers { $0.up && !$0.stalled ? 1 : 0 })
        gauge("tier_queued_bytes", "Bytes that wait to be written.", ofTiers { Double($0.queuedBytes) })
        counter("tier_written_bytes_total", "Bytes written.", ofTiers { Double($0.writtenBytes) })
        if tiers.contains(where: { $0.tier == .global }), configuration.tiers.global?.compression ?? .none != .none {
            counter("global_files_total", "Rank files published on the global tier, by how they are stored.",
                    [([("stored", "plain")], Double(stored.plain)), ([("stored", "zstd")], Double(stored.compressed))])
            counter("global_plain_bytes_total", "Bytes of those files before compression.", one(stored.plainBytes))
            counter("global_stored_bytes_total", "Bytes that those files take.", one(stored.storedBytes))
        }
        counter("worker_restarts_total", "Times that a worker process was started anew.", workerStatus().map { ([("worker", $0.role)], Double($0.restarts)) })
        gauge("sessions", "Ranks that are connected.", one(sessions.values.count { !$0.isReader }))
        gauge("saves_in_flight", "Saves that have not ended.", one(engine.unfinishedCount))
        let runs = Set(engine.knownRuns).union(keeping.history.knownRuns).filter { uid == nil || $0.uid == uid }.sorted().compactMap { run in lastCommit(run).map { (run, $0.ms) } }
        func ofRuns(_ value: (Int) -> Double) -> [(labels: Exposition.Labels, value: Double)] {
            runs.map { ([("uid", "\($0.uid)"), ("run", $0.name)], value($1)) }
        }
        gauge("last_commit_age_seconds", "Seconds since the last commit of a run that this daemon serves.", ofRuns { Double(max(0, Clock.utcMilliseconds() - $0)) / 1000 })
        gauge("last_commit_timestamp_seconds", "When that was, in seconds since 1970: right also in a file that was written a while ago.", ofRuns { Double($0) / 1000 })
        if configuration.onCommit != nil {
            counter("commands_total", "Commands after commits, by how they ended.",
                    (CommandResult.Outcome.allCases.map(\.rawValue) + ["dropped"]).map { ([("result", $0)], Double(keeping.commands[$0] ?? 0)) })
        }
        counter("history_dropped_lines_total", "Lines of the history that could not be written in time.", one(keeping.droppedLines))
        return text.text
    }
}
