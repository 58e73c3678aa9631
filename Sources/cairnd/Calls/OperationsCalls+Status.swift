// What an operator looks at first: status.
import CairnEngine
import CairnIO
import CairnMessages
import CairnModel
import CairnStore
import CairnWire

extension Daemon {
    func status(_ context: CallContext) {
        let tiers = engine.tiers.filter { tierLinks[$0]?.state == .up }
        var left = tiers.count
        guard left > 0 else { return replyStatus(context) }
        for tier in tiers {
            askTier(tier, seconds: DaemonLimits.spaceSeconds, { .space(id: $0) }) { [unowned self] reply, _ in
                if case .space(_, let paths) = reply { tierSpaces[tier] = paths }
                left -= 1
                if left == 0 { replyStatus(context) }
            }
        }
    }

    func replyStatus(_ context: CallContext) {
        let all = isOperator(context)
        var attempts: [RunKey: Int] = [:]
        for session in sessions.values {
            if let number = engine.attemptNumber(session: session.token) { attempts[session.run] = max(attempts[session.run] ?? 0, number) }
        }
        let saves = engine.saveReports().filter { all || $0.run.uid == context.uid }.map { report in
            Operations.SaveStatus(
                uid: report.run.uid, run: report.run.name, save: report.save.description, step: report.save.step, level: report.level,
                ranksStaged: report.stagedRanks, ranks: report.ranks.count, worldSize: report.worldSize, totalBytes: report.bytes,
                stagedBytes: report.stagedBytes, localBytes: report.localBytes, globalBytes: report.globalBytes, ageMs: report.ageNs / 1_000_000,
                missing: report.missing ?? [], leftover: report.save.attempt < attempts[report.run] ?? 0, reason: report.reason)
        }
        let visible = sessions.values.filter { !$0.isReader && (all || $0.run.uid == context.uid) }
        let perRun = Dictionary(grouping: visible, by: \.run).sorted { $0.key < $1.key }.map { run, sessions in
            Operations.RunSessions(uid: run.uid, run: run.name, sessions: sessions.count, worldSize: sessions.first?.worldSize ?? 0)
        }
        var notes = lockNote.map { [$0] } ?? []
        for tier in engine.tiers { notes += (tierLinks[tier]?.notes ?? []).map { "\(tier) tier: \($0)" } }
        context.reply(Operations.Status.Reply(
            daemon: Operations.Daemon(version: CairnVersion.text, node: node, instance: instance, pid: Int(ProcessFacts.pid),
                                      uptimeSeconds: (loop.nowNanoseconds - startedAt) / 1_000_000_000, socket: configuration.socket,
                                      configuration: configurationFile, draining: stopping),
            pool: poolStatus(), workers: workerStatus(), tiers: engine.tierReports.map(tierStatus), saves: saves,
            sessions: Operations.Sessions(count: visible.count, runs: perRun), notes: notes))
    }

    func poolStatus() -> Operations.Pool {
        let pool = engine.poolReport
        return Operations.Pool(bytes: pool.slots * Sizes.chunkBytes, filledBytes: filledSlots * Sizes.chunkBytes, lockedBytes: lockedSlots * Sizes.chunkBytes,
                               hugeBytes: hugeSlots * Sizes.chunkBytes, chunks: pool.slots, free: pool.free, needed: pool.needed, cached: pool.cached,
                               quarantined: pool.quarantined, lockNote: lockNote)
    }

    func workerStatus() -> [Operations.Worker] {
        ([stager] + engine.tiers.compactMap { tierLinks[$0] } + (keeping.link.map { [$0] } ?? [])).map { link in
            Operations.Worker(role: link.role, pid: link.child.map { Int($0.pid) },
                              state: link.state == .up ? .up : link.state == .starting ? .starting : .degraded,
                              io: link.io, direct: link.direct, note: link.notes.first, restarts: max(0, link.restarts))
        }
    }

    func tierStatus(_ report: TierReport) -> Operations.TierStatus {
        let paths = tierSpaces[report.tier] ?? configuredPaths(report.tier).map { PathSpace(path: $0, totalBytes: 0, freeBytes: 0) }
        let reason = report.stalled ? "its filesystem does not answer" : report.up ? nil : report.reason ?? "starting"
        let remedy = reason.map { _ in
            report.stalled ? "check the filesystem under \(paths.first?.path ?? "the tier") (dmesg, its servers); saves go on where they can, and resume when it answers"
                : "see the daemon's log; the worker is started again by itself"
        }
        return Operations.TierStatus(tier: report.tier.rawValue,
                                     paths: paths.map { Operations.Folder(path: $0.path, totalBytes: $0.totalBytes, freeBytes: $0.freeBytes) },
                                     state: report.stalled ? .degraded : report.up ? .up : .degraded, reason: reason, remedy: remedy,
                                     queuedBytes: report.queuedBytes, writtenBytes: report.writtenBytes, compression: compressionText(report.tier))
    }

    private func compressionText(_ tier: Tier) -> String {
        guard tier == .global, let setting = configuration.tiers.global?.compression, setting != .none else { return "none" }
        return stored.text(isAuto: setting == .auto)
    }

    func configuredPaths(_ tier: Tier) -> [String] {
        tier == .local ? configuration.tiers.local?.paths ?? [] : configuration.tiers.global.map { [$0.path] } ?? []
    }
}
