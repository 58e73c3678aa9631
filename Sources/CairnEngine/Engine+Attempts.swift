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
        guard attempt.number == nil, !attempt.asking, isUp(committing) else { return }
        attempt.asking = true
        let key = attempt.key
        if attempt.sessions[0] != nil {
            ask(committing, .number(key)) { .numberAttempt(id: $0, run: key.run, tokenHash: key.tokenHash, worldSize: attempt.worldSize) }
        } else {
            ask(committing, .find(key)) { .findAttempt(id: $0, run: key.run, tokenHash: key.tokenHash) }
        }
    }

    func attemptNumber(_ key: AttemptKey, _ number: Int?) {
        guard let run = runs[key.run], let attempt = run.attempts[key.tokenHash] else { return }
        attempt.asking = false
        guard let number else {
            attempt.askAt = now + ms(attempt.askInterval)
            attempt.askInterval = min(attempt.askInterval * 2, limits.pollLongestMs)
            return
        }
        attempt.number = number
        if number > run.newest {
            run.newest = number
            for older in run.attempts.values where (older.number ?? number) < number { endAttempt(older, by: number) }
        } else if number < run.newest {
            return endAttempt(attempt, by: run.newest)
        }
        resume(attempt)
    }

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
    }

    func finishOpen(_ session: Session) {
        guard let call = session.openCall, let direct = session.direct, let attempt = attempt(of: session), let number = attempt.number else { return }
        guard attempt.resumed else { return resume(attempt) }
        session.openCall = nil
        reply(call, .opened(session: session.token, attempt: number, needsDescriptor: !direct))
    }

    func endSession(_ token: SessionToken, reason: String) {
        guard let session = sessions.removeValue(forKey: token) else { return }
        if let call = session.openCall { reply(call, .failed(.notOpen)) }
        for handle in rankSaves.keys.sorted() {
            guard let rankSave = rankSaves[handle], rankSave.session == token else { continue }
            rankSave.session = nil
            rankSave.replyCall = nil
            if !rankSave.isStaged { failRankSave(rankSave, "rank \(session.rank)'s session ended before its save was staged: \(reason)") }
        }
        actions.append(.stager(.closeSession(token: token)))
        guard let run = runs[session.run], let attempt = run.attempts[session.attempt.tokenHash] else { return }
        if attempt.sessions[session.rank] == token { attempt.sessions[session.rank] = nil }
        for restore in attempt.restores.values { restore.calls.removeAll { $0.session == token } }
        // The number stays on disk; this daemon forgets an attempt without sessions only once another one has taken over.
        if attempt.sessions.isEmpty, (attempt.number ?? 0) < run.newest || attempt.number == nil {
            run.attempts[session.attempt.tokenHash] = nil
        }
    }

    func tickAttempts() {
        for run in runs.values.sorted(by: { $0.key < $1.key }) {
            for attempt in run.attempts.values.sorted(by: { $0.key.tokenHash < $1.key.tokenHash }) where attempt.sessions.values.contains(where: { sessions[$0]?.openCall != nil }) {
                if now >= attempt.askAt { attempt.number == nil ? askForNumber(attempt) : resume(attempt) }
                let why = !stagerUp ? "the stager is being started again" : isUp(committing)
                    ? "rank 0's daemon has not numbered this attempt yet; start rank 0, or check that both daemons share the \(committing) tier"
                    : tierStates[committing]?.downReason ?? "it is down"
                for token in attempt.sessions.values.sorted() {
                    guard let session = sessions[token], let call = session.openCall, now - session.openedAt > ms(limits.attemptTimeoutMs) else { continue }
                    session.openCall = nil
                    reply(call, .failed(.tierDown(tier: (stagerUp ? committing : .memory).rawValue, reason: why)))
                    endSession(token, reason: "its attempt got no answer in time")
                }
            }
        }
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
