// Attempts: numbers by link, what each node has of older ones, and what is left of them. The same on a tier beside, which is asked only
// while the committing one is down.
import CairnEngine
import CairnMessages
import CairnModel

extension TierModel {
    private func number(of token: String) -> Int? { all(disk.attempts).filter { $0.value.token == token }.keys.min() }

    func numberAttempt(_ id: Int, _ token: String, _ worldSize: Int, _ notAfter: Int?) {
        var number = 0
        operate(id, { [self] in
            if let known = self.number(of: token) { number = known; return .next }
            number = 1 + (all(disk.attempts).keys.max() ?? 0)
            if !isCommitting {
                // Above whatever names an attempt here: the committing tier is not there to ask.
                let named = all(disk.files).keys.map(\.save.attempt) + all(disk.decisions).keys.map(\.attempt)
                // And such as no other launch has: what is numbered beside and on the committing tier must not meet in one name.
                number = max(number, 1 + (named.max() ?? 0)) + world.random.int(0...65_535)
            }
            return .next
        }, { [self] in
            // A request that hung must not begin a launch that has died since.
            if disk.attempts[number]?.token != token, let notAfter, now > notAfter { return .failed(.ended) }
            while !link(disk.attempts, number, AttemptValue(token: token, worldSize: worldSize)), disk.attempts[number]?.token != token { number += 1 }
            return .next
        }, { [self] in
            disk.attempts.sync(number)
            world.mark(isCommitting ? .attemptNumbered : .attemptNumberedBeside)
            return .reply(.attempt(id: id, number: number))
        })
    }

    func findAttempt(_ id: Int, _ token: String) {
        operate(id) { [self] in
            let number = number(of: token)
            if let number { disk.attempts.sync(number); world.mark(.attemptFound) }
            return .reply(.attempt(id: id, number: number))
        }
    }

    func newestAttempt(_ id: Int) {
        operate(id) { [self] in .reply(.attempt(id: id, number: all(disk.attempts).keys.max())) }
    }

    func claimAttempt(_ id: Int, _ number: Int, _ token: String, _ worldSize: Int) {
        operate(id) { [self] in
            let isHigherAnothers = all(disk.attempts).contains { $0.key > number && $0.value.token != token }
            // Claimed before, by a former life: it stays ours whatever was launched since.
            let isOurs = see(disk.attempts, number)?.token == token || !isHigherAnothers && (link(disk.attempts, number, AttemptValue(token: token, worldSize: worldSize)) || disk.attempts[number]?.token == token)
            if isOurs { disk.attempts.sync(number) }
            world.mark(isOurs ? .attemptClaimed : .claimLost)
            return .reply(.attempt(id: id, number: isOurs ? number : nil))
        }
    }

    func have(_ id: Int, _ attempt: Int, _ list: HaveList) {
        let name = NodeName(attempt: attempt, restore: 0, node: node)
        operate(id, { [self] in
            if link(disk.haves, name, list), !list.saves.isEmpty { world.mark(.haveListed) }
            return .next
        }, { [self] in
            disk.haves.sync(name)
            return .reply(.done(id: id))
        })
    }

    func leftovers(_ id: Int, _ attempt: Int) {
        operate(id) { [self] in
            let haves = all(disk.haves).filter { $0.key.attempt == attempt }.sorted { $0.key.node < $1.key.node }.map(\.value)
            let manifests = all(disk.files)
            var saves = Set(haves.flatMap { $0.saves.map(\.save) }).filter { $0.attempt < attempt }
            for key in manifests.keys where key.save.attempt < attempt { saves.insert(key.save) }
            let worldSize = see(disk.attempts, attempt)?.worldSize ?? 0
            var left: [Leftover] = []
            for save in saves.sorted() {
                if isUnreadable(save) { continue }
                if let decision = see(disk.decisions, save) { complete(save, decision); continue }
                left.append(leftover(save, haves, manifests, attemptWorld: worldSize))
            }
            let serving = Set(haves.flatMap(\.serves)).count
            return .reply(.leftovers(id: id, serving: serving, left))
        }
    }

    private func leftover(_ save: SaveID, _ haves: [HaveList], _ manifests: [RankSaveKey: PublishedFile], attemptWorld: Int) -> Leftover {
        let held = haves.flatMap { $0.saves.filter { $0.save == save } }
        let published = manifests.filter { $0.key.save == save }
        let worldSize = held.first?.worldSize ?? published.first?.value.worldSize ?? 0
        let participants = held.first?.participants ?? published.first?.value.participants
        let unpublished = held.filter { !Set($0.ranks).isSubset(of: published.keys.map(\.rank)) }
        let upto = unpublished.map(\.upto).min() ?? published.first?.value.upto ?? held.first?.upto ?? .committed
        let members = participants ?? Array(0..<worldSize)
        let standing = Set(published.keys.map(\.rank)), heldRanks = Set(held.flatMap(\.ranks))
        let missing = members.filter { !standing.contains($0) && !heldRanks.contains($0) }
        let served = Set(haves.flatMap { $0.served.filter { $0.attempt == save.attempt }.flatMap(\.ranks) })
        let absent = missing.filter(served.contains)
        var everywhere: Candidate?
        let counts = held.compactMap(\.count)
        if worldSize == attemptWorld, participants == nil, let count = counts.first {
            // Each node that serves ranks of the new attempt holds the same ranks' parts.
            let here = haves.flatMap { have in have.serves.filter { rank in have.saves.contains { $0.save == save && $0.ranks.contains(rank) } } }
            if Set(here).count == worldSize {
                everywhere = Candidate(step: save.step, sequence: CommitSequence(attempt: save.attempt, count: count), save: save, level: held.map(\.level).min() ?? .staged)
            }
        }
        if Set(members).isSubset(of: standing) { world.mark(.leftoverPublished) }
        if !absent.isEmpty { world.mark(.leftoverAbsent) }
        if everywhere != nil { world.mark(.leftoverEverywhere) }
        return Leftover(save: save, worldSize: worldSize, upto: upto, participants: participants, missing: missing, absent: absent,
                        isPublished: Set(members).isSubset(of: standing), everywhere: everywhere)
    }
}
