// A new attempt loses nothing that survives of the older ones. Each daemon publishes what it holds of them (`have-NODE.json`); rank 0's
// daemon then ends them: what every participant has staged or published is finished, the rest is voided, before any restore is
// answered. Saves that were to stay in memory or on local tiers are neither: a restore may choose one where every rank finds its part.
import CairnMessages
import CairnModel

extension Engine {
    func tickLeftovers(_ attempt: Attempt) {
        guard let number = attempt.number, let run = runs[attempt.key.run], number == run.newest, !attempt.sessions.isEmpty else { return }
        listHeld(attempt, run, number)
        clear(attempt)
    }

    // MARK: what this node has

    func listHeld(_ attempt: Attempt, _ run: Run, _ number: Int) {
        guard !attempt.hasListed, !attempt.isListing, !attempt.isProvisional, isUp(committing) else { return }
        let waited = now - attempt.firstOpenedAt
        // All ranks that this node will serve: the list says so, and it is published once.
        let isComplete = attempt.sessions.count >= (attempt.localWorldSize ?? attempt.worldSize)
        guard isComplete || waited > ms(attempt.localWorldSize == nil ? limits.haveMs : limits.leftoverMs), allScanned || waited > ms(limits.leftoverMs) else { return }
        attempt.isListing = true
        if let beside, isUp(beside) {
            ask(beside, .listHeld(attempt.key)) { .held(id: $0, run: run.key, step: nil) }
        } else {
            publishHave(attempt.key, found: [])
        }
    }

    func publishHave(_ key: AttemptKey, found: [FoundRankSave]) {
        guard let run = runs[key.run], let attempt = run.attempts[key.tokenHash], let number = attempt.number else { return }
        guard isUp(committing) else { attempt.isListing = false; return }
        let held = heldHere(run, found: found).filter { $0.save.attempt < number }
        let served = run.served.filter { $0.key < number }.sorted { $0.key < $1.key }
            .map { HaveList.ServedRanks(attempt: $0.key, ranks: $0.value.sorted()) }
        let list = HaveList(serves: attempt.sessions.keys.sorted(), saves: held, served: served)
        ask(committing, .have(key)) { .have(id: $0, run: key.run, attempt: number, list: list) }
    }

    /// Saves without a decision of which this daemon holds parts, staged or published on its local tier. Level `accepted`: a part that lies
    /// nowhere whole yet.
    func heldHere(_ run: Run, found: [FoundRankSave]) -> [HeldSave] {
        var held: [SaveID: HeldSave] = [:]
        func add(_ id: SaveID, _ rank: Int, _ worldSize: Int, _ upto: Level, _ participants: [Int]?, _ level: Level, _ count: Int?) {
            var entry = held[id] ?? HeldSave(save: id, worldSize: worldSize, upto: upto, participants: participants, ranks: [], level: level, count: nil)
            guard !entry.ranks.contains(rank) else { return }
            entry.ranks.append(rank)
            entry.level = min(entry.level, level)
            entry.count = entry.count ?? count
            held[id] = entry
        }
        for save in saves.values where save.key.run == run.key && save.decision == nil && save.voidReason == nil {
            for part in ownParts(save) where part.failure == nil && part.isStaged {
                // What is staged is finished from here, also where some of it is in a file that is still being written; only what lies whole in
                // one place can be restored from it.
                let level: Level = part.published(on: .local) ? .local : part.isResident ? .staged : .accepted
                add(save.key.save, part.key.rank, save.worldSize, save.upto, save.participants, level, part.count)
            }
        }
        for part in found where part.decision == nil && saves[SaveKey(run: run.key, save: part.key.save)]?.lostReason == nil {
            add(part.key.save, part.key.rank, part.worldSize, part.upto, part.participants, .local, part.count)
        }
        return held.values.map { entry in
            var entry = entry
            entry.ranks.sort()
            return entry
        }.sorted { $0.save < $1.save }.suffix(limits.heldPerRun)
    }

    func havePublished(_ key: AttemptKey) {
        guard let attempt = runs[key.run]?.attempts[key.tokenHash] else { return }
        attempt.isListing = false
        attempt.hasListed = true
        attempt.clearAt = now
        clear(attempt)
    }

    // MARK: the end of what older attempts left

    /// By rank 0's daemon; where that is late, by any that has a restore to answer.
    func clears(_ attempt: Attempt) -> Bool {
        attempt.sessions[0] != nil || attempt.restores.values.contains { !$0.calls.isEmpty && now - $0.startedAt > ms(limits.choiceStandInMs) }
    }

    /// One step of it, when it is due.
    func clear(_ attempt: Attempt) {
        guard let number = attempt.number, attempt.hasListed, !attempt.isCleared, !attempt.isClearing, now >= attempt.clearAt, isUp(committing), clears(attempt) else { return }
        attempt.isClearing = true
        let key = attempt.key
        ask(committing, .leftovers(key)) { .leftovers(id: $0, run: key.run, attempt: number) }
    }

    func leftoversRead(_ key: AttemptKey, serving: Int, _ leftovers: [Leftover]) {
        guard let run = runs[key.run], let attempt = run.attempts[key.tokenHash] else { return }
        attempt.isClearing = false
        attempt.leftovers = leftovers
        let waited = now - attempt.firstOpenedAt, isLate = waited > ms(limits.leftoverMs)
        let isComplete = serving >= attempt.worldSize || isLate
        var isOpen = false
        for leftover in leftovers where finalLevel(leftover.upto) == .committed {
            let save = leftover.save
            if leftover.isPublished {
                isOpen = true
                askOrphan(run, save) { .decide(id: $0, run: key.run, save: save, worldSize: leftover.worldSize, participants: leftover.participants, parent: nil) }
            } else if leftover.missing.isEmpty {
                // Its daemons are finishing it. Where this one serves the whole world, it can be restored from here meanwhile.
                isOpen = isOpen || !(attempt.servesWorld && leftover.everywhere != nil)
            } else {
                isOpen = true
                guard isComplete, isLate || Set(leftover.missing).isSubset(of: leftover.absent) else { continue }
                let ranks = Self.listed(leftover.missing)
                askOrphan(run, save) { .void(id: $0, run: key.run, save: save, reason: "its attempt ended before ranks \(ranks) were durable") }
            }
        }
        // A flush that takes longer goes on: a later restore finds its commit.
        if isComplete, !isOpen || waited > ms(limits.leftoverFinishMs) {
            attempt.isCleared = true
        } else {
            attempt.clearAt = now + ms(attempt.clearInterval)
            attempt.clearInterval = min(2 * attempt.clearInterval, limits.pollLongestMs)
        }
        for (number, restore) in attempt.restores.sorted(by: { $0.key < $1.key }) { advance(attempt, number, restore) }
    }

    func leftoversFailed(_ key: AttemptKey, _ failure: TierFailure) {
        guard let attempt = runs[key.run]?.attempts[key.tokenHash] else { return }
        attempt.isListing = false
        attempt.isClearing = false
        attempt.clearAt = now + ms(limits.pollLongestMs)
        log(.warning, "what older attempts of run \(key.run) left cannot be listed: \(failure.text)")
    }

    /// A decision on a save that this daemon need not serve any rank of.
    func askOrphan(_ run: Run, _ save: SaveID, _ request: (Int) -> TierRequest) {
        guard isUp(committing), run.orphansAsked.insert(save).inserted else { return }
        ask(committing, .orphan(run.key, save), request)
    }

    func orphanDecided(_ key: RunKey, _ save: SaveID, _ outcome: DecisionOutcome?) {
        guard let run = runs[key] else { return }
        run.orphansAsked.remove(save)
        guard let outcome else { return }
        for attempt in run.attempts.values where attempt.number == run.newest && !attempt.isCleared { attempt.clearAt = now }
        decided(SaveKey(run: key, save: save), outcome)
    }

    static func listed(_ ranks: [Int]) -> String {
        let shown = ranks.prefix(16).map(String.init).joined(separator: ", ")
        return ranks.count > 16 ? "\(shown) and \(ranks.count - 16) more" : shown
    }
}
