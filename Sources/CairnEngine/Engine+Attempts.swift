// Sessions and attempts: who may speak for which rank, and which number the attempt has.
import CairnMessages
import CairnModel

extension Engine {
    func open(_ request: OpenRequest) {
        guard !draining else { return reply(request.call, .failed(.draining)) }
        guard sessions.count < limits.sessions else {
            return reply(request.call, .failed(.invalid(name: "session", reason: "this daemon serves \(limits.sessions) sessions at most")))
        }
        let run = run(request.run)
        let key = AttemptKey(run: request.run, tokenHash: request.tokenHash)
        let attempt: Attempt
        if let known = run.attempts[request.tokenHash] {
            attempt = known
            guard attempt.worldSize == request.worldSize else {
                return reply(request.call, .failed(.invalid(
                    name: "worldSize", reason: "this attempt's other ranks said \(attempt.worldSize), rank \(request.rank) says \(request.worldSize)")))
            }
        } else {
            attempt = Attempt(key: key, worldSize: request.worldSize, now: now, askInterval: limits.pollFirstMs)
            run.attempts[request.tokenHash] = attempt
        }
        if let number = attempt.number, number < run.newest {
            return reply(request.call, .failed(.attemptEnded(by: run.newest)))
        }
        if let former = attempt.sessions[request.rank], let session = sessions[former] {
            guard session.pid == request.pid else { return reply(request.call, .failed(.rankTaken(pid: session.pid))) }
            endSession(former, reason: "the same process opened a new session")
            actions.append(.endSession(former, reason: "the same process opened a new session", replaced: true))
            run.attempts[request.tokenHash] = attempt   // its last session may just have ended with it
        }
        attempt.sessions[request.rank] = request.session
        attempt.seen.insert(request.rank)
        attempt.toldNumber = attempt.toldNumber ?? request.number
        if let number = attempt.number { served(run, number, attempt) }
        if let local = request.localWorldSize { attempt.localWorldSize = local }
        attempt.openedAt = now
        sessions[request.session] = Session(token: request.session, run: request.run, rank: request.rank, pid: request.pid,
                                            attempt: key, openCall: request.call, now: now)
        if stagerUp { actions.append(.stager(.openSession(token: request.session, uid: request.run.uid, pid: request.pid))) }
        askForNumber(attempt)
    }

    /// Sessions that came while there was no stager.
    func stagerReady() {
        guard !stagerUp else { return }
        stagerUp = true
        for (token, session) in sessions.sorted(by: { $0.key < $1.key }) where session.direct == nil {
            actions.append(.stager(.openSession(token: token, uid: session.run.uid, pid: session.pid)))
        }
    }

    func sessionOpened(_ token: SessionToken, direct: Bool) {
        guard let session = sessions[token] else { return }
        session.direct = direct
        finishOpen(session)
    }

    func attempt(of session: Session) -> Attempt? { runs[session.run]?.attempts[session.attempt.tokenHash] }

    /// Rank 0's daemon numbers the attempt; the others look for it.
    func askForNumber(_ attempt: Attempt) {
        guard attempt.number == nil, let run = runs[attempt.key.run] else { return }
        let key = attempt.key
        // What the tier beside has numbered comes first, and claims before new numbers: a launch has one number, and a dead one's claim
        // must not end a live one.
        if let beside, isHealthy(beside), !attempt.isSoughtBeside {
            guard attempt.numberAsked.insert(beside).inserted else { return }
            return ask(beside, .seek(key)) { .findAttempt(id: $0, run: key.run, tokenHash: key.tokenHash) }
        }
        let waited = now - attempt.firstOpenedAt
        guard isHealthy(committing) else {
            if waited > ms(limits.numberBesideMs) { goOnWithoutNumber(attempt) }
            return
        }
        guard allScanned || waited > ms(limits.leftoverMs), run.unclaimed.isEmpty else { return }
        if attempt.sessions[0] != nil { return number(attempt, at: committing) }
        guard attempt.numberAsked.insert(committing).inserted else { return }
        ask(committing, .find(key)) { .findAttempt(id: $0, run: key.run, tokenHash: key.tokenHash) }
    }

    /// The committing tier is out.
    private func goOnWithoutNumber(_ attempt: Attempt) {
        // A rank that was told the number goes on with it; what its restores chose stands on the committing tier, and waits for that.
        if let told = attempt.toldNumber { return attemptNumber(attempt.key, told, by: committing) }
        // A job that starts again meanwhile restores from the local tier, if all of it is here.
        if attempt.servesWorld, let beside, isHealthy(beside), allScanned(beside) { number(attempt, at: beside) }
    }

    private func number(_ attempt: Attempt, at tier: Tier) {
        guard attempt.numberAsked.insert(tier).inserted else { return }
        let key = attempt.key, worldSize = attempt.worldSize, notAfter = now + ms(limits.numberMs)
        ask(tier, .number(key)) { .numberAttempt(id: $0, run: key.run, tokenHash: key.tokenHash, worldSize: worldSize, notAfter: notAfter) }
    }

    func soughtBeside(_ key: AttemptKey, _ number: Int?) {
        guard let attempt = runs[key.run]?.attempts[key.tokenHash], let beside else { return }
        attempt.isSoughtBeside = true
        guard let number, attempt.number == nil else {
            attempt.numberAsked.remove(beside)
            return askForNumber(attempt)
        }
        attemptNumber(key, number, by: beside)
    }

    func served(_ run: Run, _ number: Int, _ attempt: Attempt) {
        run.served[number, default: []].formUnion(attempt.seen)
        while run.served.count > limits.servedAttempts, let oldest = run.served.keys.min() { run.served[oldest] = nil }
    }

    func attemptNumber(_ key: AttemptKey, _ number: Int?, by tier: Tier) {
        guard let run = runs[key.run], let attempt = run.attempts[key.tokenHash] else { return }
        attempt.numberAsked.remove(tier)
        guard attempt.number == nil else { return }   // numbered beside, while this tier hung
        guard let number else {
            attempt.askAt = now + ms(attempt.askInterval)
            attempt.askInterval = min(attempt.askInterval * 2, limits.pollLongestMs)
            return
        }
        if tier != committing, number <= run.newest {   // the local tier knows less
            attempt.askAt = now + ms(attempt.askInterval)
            return
        }
        attempt.number = number
        attempt.isCleared = number == 1   // there is no older one; the next one wants to know which ranks were here
        served(run, number, attempt)
        if tier != committing {
            attempt.isProvisional = true
            run.unclaimed[number] = key.tokenHash
            log(.warning, "the \(committing) tier is down: run \(key.run) goes on as attempt \(number), numbered on the local tier")
        }
        if number > run.newest {
            begin(run, number)
        } else if number < run.newest {
            return endAttempt(attempt, by: run.newest)
        }
        resume(attempt)
    }

    func begin(_ run: Run, _ number: Int) {
        run.newest = number
        for older in run.orderedAttempts where (older.number ?? number) < number { endAttempt(older, by: number) }
    }

    /// A launch on other nodes may have begun without this one: asked for while an attempt saves.
    func askForNewest(_ run: Run) {
        guard isUp(committing), now - (run.newestAskedAt ?? Int.min / 2) > ms(limits.newestMs) else { return }
        run.newestAskedAt = now
        ask(committing, .newest(run.key)) { .newestAttempt(id: $0, run: run.key) }
    }

    func newestAttempt(_ key: RunKey, _ number: Int?) {
        guard let run = runs[key], let number, number > run.newest else { return }
        begin(run, number)
    }

    // MARK: attempts numbered beside

    /// The committing tier is back: the number becomes this launch's there, or the launch is over.
    func tickClaims(_ key: RunKey) {
        guard isUp(committing), let run = runs[key] else { return }
        for (number, token) in run.unclaimed.sorted(by: { $0.key < $1.key }) where !run.claiming.contains(number) {
            let worldSize = run.attempts[token]?.worldSize ?? saves.values.first { $0.key.run == run.key && $0.key.save.attempt == number }?.worldSize
            guard let worldSize else { run.unclaimed[number] = nil; continue }
            run.claiming.insert(number)
            ask(committing, .claim(run.key, number)) { .claimAttempt(id: $0, run: run.key, number: number, tokenHash: token, worldSize: worldSize) }
        }
    }

    func claimed(_ key: RunKey, _ number: Int, isOurs: Bool) {
        guard let run = runs[key] else { return }
        run.claiming.remove(number)
        let token = run.unclaimed.removeValue(forKey: number)
        guard let token else { return }
        let attempt = run.attempts[token]
        attempt?.isProvisional = false
        defer { for other in run.orderedAttempts { askForNumber(other) } }
        if isOurs {
            log(.notice, "the \(committing) tier is back: run \(key)'s attempt \(number) is recorded there")
            if let attempt { resume(attempt) }
            return
        }
        let reason = "another launch took attempt number \(number) while this node was cut off from the \(committing) tier"
        log(.error, "run \(key): \(reason)")
        for save in saves.values.sorted(by: { $0.key < $1.key }) where save.key.run == key && save.key.save.attempt == number && save.decision == nil {
            decided(save.key, .void(reason: reason), isRead: false)
            discard(save.key)
        }
        if let attempt { endAttempt(attempt, by: number) }
        run.newestAskedAt = nil
        askForNewest(run)
    }

    func isUnclaimed(_ key: SaveKey) -> Bool { runs[key.run]?.unclaimed[key.save.attempt] != nil }

    /// A newer launch of the job has begun: what the older one's ranks still hold in their memory is void.
    func endAttempt(_ attempt: Attempt, by number: Int) {
        for (_, token) in attempt.sessions.sorted(by: { $0.key < $1.key }) {
            if let session = sessions[token], let call = session.openCall {
                reply(call, .failed(.attemptEnded(by: number)))
                session.openCall = nil
            }
            endSession(token, reason: "attempt \(attempt.number ?? 0) was ended by attempt \(number)")
            actions.append(.endSession(token, reason: "attempt \(number) of this run has begun", replaced: false))
        }
        // Its last session has mostly ended before: a daemon that lives for months would keep every launch.
        runs[attempt.key.run]?.attempts[attempt.key.tokenHash] = nil
    }

    func finishOpen(_ session: Session) {
        guard let call = session.openCall, let direct = session.direct, let attempt = attempt(of: session), let number = attempt.number else { return }
        guard attempt.resumed else { return resume(attempt) }
        session.openCall = nil
        reply(call, .opened(session: session.token, attempt: number, needsDescriptor: !direct))
        tickLeftovers(attempt)
    }

    func endSession(_ token: SessionToken, reason: String) {
        guard let session = sessions.removeValue(forKey: token) else { return }
        if let call = session.openCall { reply(call, .failed(.notOpen)) }
        for handle in rankSaves.keys.sorted() {
            guard let rankSave = rankSaves[handle], rankSave.session == token else { continue }
            rankSave.session = nil
            rankSave.replyCall = nil
            if rankSave.isApart || rankSave.sealedBy != nil { continue }
            if rankSave.isHeld, rankSave.isStaged { failRankSave(rankSave, "rank \(session.rank)'s session ended before it was sealed: \(reason)") }
            if !rankSave.isStaged { failRankSave(rankSave, "rank \(session.rank)'s session ended before its save was staged: \(reason)") }
        }
        actions.append(.stager(.closeSession(token: token)))
        guard let run = runs[session.run], let attempt = run.attempts[session.attempt.tokenHash] else { return }
        if attempt.sessions[session.rank] == token { attempt.sessions[session.rank] = nil }
        for restore in attempt.restores.values { restore.calls.removeAll { $0.session == token } }
        // The number stays on disk; an attempt that has one is forgotten only once another one has taken over (`endAttempt`).
        if attempt.sessions.isEmpty, attempt.number == nil {
            run.attempts[session.attempt.tokenHash] = nil
        }
    }

    func tickAttempts() {
        for run in orderedRuns {
            tickClaims(run.key)
            for attempt in run.orderedAttempts { tickLeftovers(attempt) }
            for attempt in run.orderedAttempts where attempt.sessions.values.contains(where: { sessions[$0]?.openCall != nil }) {
                if now >= attempt.askAt { attempt.number == nil ? askForNumber(attempt) : resume(attempt) }
                let why = !stagerUp ? "the stager is being started again" : isUp(committing)
                    ? "rank 0's daemon has not numbered this attempt yet; start rank 0, or check that both daemons share the \(committing) tier"
                    : tierStates[committing]?.downReason ?? "it is down"
                for token in attempt.sessions.values.sorted() {
                    guard let session = sessions[token], now - session.openedAt > ms(limits.attemptTimeoutMs) else { continue }
                    refuseOpen(session, tier: stagerUp ? committing : .memory, why)
                }
            }
        }
    }

    func refuseOpen(_ session: Session, tier: Tier, _ reason: String) {
        guard let call = session.openCall else { return }
        session.openCall = nil
        reply(call, .failed(.tierDown(tier: tier.rawValue, reason: reason)))
        endSession(session.token, reason: "its attempt could not be opened: \(reason)")
    }

    func callGone(_ call: CallID) {
        waits.removeAll { $0.call == call }
        for run in runs.values {
            for attempt in run.attempts.values {
                for restore in attempt.restores.values {
                    restore.calls.removeAll { $0.call == call }
                    restore.settleCalls.removeAll { $0 == call }
                }
            }
        }
    }
}
