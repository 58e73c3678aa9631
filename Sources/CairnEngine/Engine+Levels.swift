// How far saves go: a save that ended short of the committing tier may be promoted, and where that tier cannot keep up, waiting saves
// are dropped, such that those kept lie ever further apart the older they are, and the same ones on every node.
import CairnMessages
import CairnModel

extension Engine {
    // MARK: promote

    func promote(call: CallID, session token: SessionToken, step: Int, level: Level) {
        guard let session = sessions[token], let number = attempt(of: session)?.number else { return reply(call, .failed(.notOpen)) }
        guard level > .staged, level != .failed else {
            return reply(call, .failed(.invalid(name: "level", reason: "a save is promoted to local, global or committed, not to '\(level)'")))
        }
        guard let beside, isUp(beside) else { return promoteFound(call, session.run, number, level, [], step: step) }
        ask(beside, .promote(call, session.run, attempt: number, level, step: step)) { .held(id: $0, run: session.run, step: step) }
    }

    func promoteFound(_ call: CallID, _ key: RunKey, _ number: Int, _ level: Level, _ found: [FoundRankSave], step: Int) {
        let run = run(key)
        guard number >= run.newest else { return reply(call, .failed(.attemptEnded(by: run.newest))) }
        let known = saves.keys.filter { $0.run == key && $0.save.step == step && $0.save.attempt == number }.map(\.save)
        let ids = Set(known + found.map(\.key.save).filter { $0.attempt == number })
        guard let id = ids.max() else { return reply(call, .failed(.noSuchStep(step))) }
        let saveKey = SaveKey(run: key, save: id)
        // What the tier listed may be older than its decision.
        if run.decided.contains(id), saves[saveKey] == nil { return reply(call, .failed(.noSuchStep(step))) }
        if let save = saves[saveKey] {
            if save.lostReason != nil { return reply(call, .failed(.noSuchStep(step))) }
            if save.decision != nil { return reply(call, .promoted) }
        }
        let parts = saves[saveKey].map { ownParts($0).filter { $0.failure == nil } } ?? []
        func isFar(_ upto: Level) -> Bool { finalLevel(upto) >= finalLevel(level) }
        if let save = saves[saveKey], isFar(save.upto), parts.allSatisfy({ isFar($0.upto) }) { return reply(call, .promoted) }
        let here = parts.filter { $0.published(on: .local) || $0.isResident || !$0.isStaged || $0.files[.local].map { $0.phase != .failed } == true }
        // Where it was decided and a rank came late, what lies on the tier is waiting to be removed.
        let onDisk = run.decided.contains(id) ? [] : found.filter { part in
            part.key.save == id && part.decision == nil && !here.contains { $0.key.rank == part.key.rank }
        }
        // What was to go so far anyway goes by itself.
        if here.isEmpty, !onDisk.isEmpty, onDisk.allSatisfy({ isFar($0.upto) }) { return reply(call, .promoted) }
        guard !here.isEmpty || !onDisk.isEmpty else { return reply(call, .failed(.noSuchStep(step))) }
        // Every rank that saved it here must have its part; of a save that this life has forgotten, every rank that was served here.
        let members = onDisk.first.map { $0.participants ?? Array(0..<$0.worldSize) } ?? []
        let came = saves[saveKey]?.came.filter { !Copies.isCopies($0) } ?? Set(members).intersection(run.served[number] ?? [])
        guard came.isSubset(of: here.map(\.key.rank) + onDisk.map(\.key.rank)) else {
            let down = beside.flatMap { isUp($0) ? nil : tierStates[$0]?.downReason }
            return reply(call, .failed(down.map { .tierDown(tier: Tier.local.rawValue, reason: $0) } ?? .noSuchStep(step)))
        }
        run.ended.removeAll { $0 == id }
        if let save = saves[saveKey] {
            save.upto = max(save.upto, level)
            save.pollAt = now
            run.unfinished.insert(id)
        }
        for part in here {
            part.upto = max(part.upto, level)
            if !flushOrder.contains(part.handle) { flushOrder.append(part.handle) }
        }
        for part in here where part.isStaged { keep(part) }
        for part in onDisk where !isFar(part.upto) {
            var part = part
            part.upto = max(part.upto, level)
            recover(part)
        }
        log(.notice, "promoted to \(level)", save: saveKey)
        reply(call, .promoted)
    }

    // MARK: the queue of the global tier

    /// After a new save was accepted: of those that wait for their first write to the global tier, one too many is dropped, the step
    /// whose number has the fewest trailing zero bits, of equals the oldest; never the newest.
    func dropQueued(_ run: Run, attempt number: Int) {
        guard beside != nil else { return }
        var waiting = run.unfinished.filter { $0.attempt == number }.sorted().compactMap { saves[SaveKey(run: run.key, save: $0)] }.filter(waitsForGlobal)
        while waiting.count > limits.globalQueue, let newest = waiting.last,
              let victim = waiting.indices.dropLast().min(by: { waiting[$0].key.save.step.trailingZeroBitCount < waiting[$1].key.save.step.trailingZeroBitCount }) {
            supersede(waiting.remove(at: victim), "superseded: \(waiting.count + 1) saves wait for the \(committing) tier, up to step \(newest.key.save.step)")
        }
    }

    /// Its local copy stands, or cannot, and nothing of it was written to the global tier.
    private func waitsForGlobal(_ save: Save) -> Bool {
        guard finalLevel(save.upto) == .committed, save.decision == nil, save.voidReason == nil, !save.ranks.isEmpty else { return false }
        return save.ranks.values.compactMap { rankSaves[$0] }.allSatisfy { part in
            part.isStaged && !part.recovered && part.failure == nil && (part.published(on: .local) || part.fileFailed(on: .local))
                && part.files[committing].map { $0.writtenCount == 0 && $0.inFlight == 0 && !$0.mayStand } ?? true
        }
    }

    /// Nothing of it goes to the committing tier any more, so it can be told as failed once its local files are gone, also while the
    /// committing tier is down; there it is voided when that answers.
    func supersede(_ save: Save, _ reason: String) {
        save.voidReason = reason
        log(.warning, reason, save: save.key)
        for part in parts(save) { for file in part.files.values { abandon(file) } }
        save.pollAt = now
        seekDecision(save)
        guard save.decision == nil else { return }
        removeBeside(save.key, .drop(save.key))
    }

    /// No file says that this save is void, so its local files must not bring it back.
    func discard(_ key: SaveKey) { removeBeside(key, .discard) }

    private func removeBeside(_ key: SaveKey, _ what: Pending) {
        guard let beside, isUp(beside) else { return }
        // A tier beside finds it by the save's id.
        let ref = StepRef(run: key.run, step: key.save.step, sequence: CommitSequence(attempt: key.save.attempt, count: 1), save: key.save)
        ask(beside, what) { .remove(id: $0, ref: ref) }
    }

    /// Copies first: a failed part of them may be what a rank's own part waits for.
    func parts(_ save: Save) -> [RankSave] {
        copyParts(save) + ownParts(save)
    }
    func copyParts(_ save: Save) -> [RankSave] { byRank(save.copies) }
    func ownParts(_ save: Save) -> [RankSave] { byRank(save.ranks) }

    /// A dictionary's order differs from run to run, and the actions of one seed must not.
    private func byRank(_ handles: [Int: Int]) -> [RankSave] { handles.sorted { $0.key < $1.key }.compactMap { rankSaves[$0.value] } }

    func dropped(_ key: SaveKey) {
        guard let save = saves[key], let reason = save.voidReason, save.decision == nil else { return }
        for part in parts(save) where part.failure == nil {
            part.files[.local] = nil
            failRankSave(part, reason)
        }
    }

    /// Room among the unfinished: a void that the committing tier cannot take for so long is given up. Its parts here have failed, so
    /// it is committed by nobody; its other daemons void it by themselves.
    func endOldestVoid(_ run: Run) {
        guard run.unfinished.count >= 4 * limits.unfinishedPerRun else { return }
        let oldest = run.unfinished.sorted().lazy.compactMap { self.saves[SaveKey(run: run.key, save: $0)] }.first { save in
            save.voidReason != nil && save.ranks.values.allSatisfy { self.rankSaves[$0].map { $0.failure != nil } ?? true }
        }
        if let oldest { decided(oldest.key, .void(reason: oldest.voidReason ?? ""), isRead: false) }
    }
}
