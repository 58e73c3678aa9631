# ruff: noqa: E501  (the replaced texts are lines of the code, as long as they are there)
"""Mistakes that the simulation must catch. Each replaces one text, found exactly once, in a file of the engine (or of what it shares with
the workers) or, where the engine cannot make the mistake, of the simulation's tier worker. `invariant`: what the report of the violation must begin with (one of them).
"""

from dataclasses import dataclass

ENGINE, MODEL, SIMULATION = "CairnEngine", "CairnModel", "CairnSimulation"


@dataclass(frozen=True)
class Mutation:
    name: str
    invariant: tuple[str, ...]
    module: str
    file: str
    old: str
    new: str
    first: int = 1
    """The seed from which it is looked for, where few histories show it."""


MUTATIONS = [
    # Levels that were told too early.
    Mutation("skip an fsync: what is written counts as synced", ("I1",), ENGINE, "Engine+Evict.swift",
             "$0.retryAt == nil && $0.chunks[chunk] == .synced }",
             "$0.retryAt == nil && ($0.chunks[chunk] == .synced || $0.chunks[chunk] == .written) }"),
    Mutation("skip the folder's fsync after a publish", ("I1",), SIMULATION, "TierModel+Files.swift",
             "            disk.files.sync(key)\n", ""),
    Mutation("tell local when the publish is asked for", ("I1",), ENGINE, "Engine+Flush.swift",
             "        file.phase = .publishing\n", "        file.phase = .publishing\n        if rankSave.level < .local { tell(rankSave, .local) }\n"),
    Mutation("tell committed before the decision", ("I1",), ENGINE, "Engine+Flush.swift",
             "            if rankSave.level < .global { tell(rankSave, .global) }\n            if let save",
             "            if rankSave.level < .global { tell(rankSave, .global) }\n            tell(rankSave, .committed)\n            if let save"),
    Mutation("the fence lies: staged is told with one chunk missing", ("I1", "I5", "I4", "the engine ends itself"), ENGINE, "Engine+Staging.swift",
             "        guard rankSave.isStaged else { return }\n        eagerStaged", "        guard rankSave.stagedChunks + 1 >= rankSave.chunkCount else { return }\n        eagerStaged"),
    Mutation("a hang-up is ignored", ("I13",), ENGINE, "Engine+Staging.swift",
             "rankSave.session == token, !rankSave.isStaged else { continue }", "rankSave.session == token, rankSave.failure != nil else { continue }"),
    Mutation("save() is answered before eager bytes are staged", ("I13",), ENGINE, "Engine+Staging.swift",
             "        if request.waitsForEager {\n", "        if request.waitsForEager, rankSave.chunkCount == 0 {\n"),
    Mutation("what is staged dies with its rank", ("I1",), ENGINE, "Engine+Attempts.swift",
             "            if !rankSave.isStaged { failRankSave(", "            if !isEnded(rankSave), rankSave.files.values.allSatisfy({ !$0.mayStand }) { failRankSave("),

    # Slots of the pool.
    Mutation("a chunk is not held while it is written", ("I5", "I1", "the engine ends itself"), ENGINE, "Engine+Flush.swift",
             "                pool.hold(slot)\n                writes.append(chunkWrite(rankSave, file, chunk, source: .pool(slot: slot), slot: slot, readBack: nil))",
             "                writes.append(chunkWrite(rankSave, file, chunk, source: .pool(slot: slot), slot: nil, readBack: nil))"),
    Mutation("a slot under a dead worker's write is free at once", ("I5",), ENGINE, "Engine+Recovery.swift",
             "resting.append((slot, handle, now + ms(limits.quarantineMs)))", "resting.append((slot, handle, now))"),
    Mutation("a slot of a busy copy is free at once", ("I5",), ENGINE, "Engine+Staging.swift",
             "            if busySlots.contains(slot) {\n", "            if busySlots.contains(slot), rankSave.failure == nil {\n"),
    Mutation("an unsealed chunk is written to a tier", ("I5",), ENGINE, "Engine+Flush.swift",
             "                guard pool.isSealed(slot) else { continue }\n", ""),
    Mutation("a read-back slot of a replaced worker is used again", ("I5", "I7", "I1"), ENGINE, "Engine+Flush.swift",
             "local.up, local.generation == readBack.generation {", "local.up {", first=1600),
    Mutation("memory-only chunks are given away though no newer save is staged", ("I1",), ENGINE, "Engine+Evict.swift",
             "        guard targets(rankSave.upto).isEmpty, rankSave.isStaged else { return false }\n",
             "        guard targets(rankSave.upto).isEmpty, rankSave.isStaged else { return false }\n        if rankSave.failure == nil { return true }\n"),

    # Saves that are held until their Seal.
    Mutation("a held save's chunks are given away", ("I1", "I5"), ENGINE, "Engine+Evict.swift",
             "        if rankSave.isHeld { return false }\n", ""),
    Mutation("a held chunk is free as soon as a seal begins with it", ("I5",), ENGINE, "Engine+Held.swift",
             "        if sealing.prefix > 0 { giveBack(held, upTo: min(sealing.given[sealing.prefix - 1], held.chunkCount), isResting: false) }\n",
             "        giveBack(held, upTo: min((sealing.given.last ?? 0), held.chunkCount), isResting: false)\n"),
    Mutation("a held save that was sealed dies with its rank", ("I1",), ENGINE, "Engine+Attempts.swift",
             "            if rankSave.isApart || rankSave.sealedBy != nil { continue }\n", ""),

    # Memory.
    Mutation("a launch that is over is remembered", ("I6",), ENGINE, "Engine+Attempts.swift",
             "        runs[attempt.key.run]?.attempts[attempt.key.tokenHash] = nil\n", ""),

    # Names.
    Mutation("a file number is used twice", ("no name is used twice",), ENGINE, "Engine+Flush.swift",
             "FileState(tier: tier, file: newID(), fileTry: fileTry", "FileState(tier: tier, file: rankSave.files[tier]?.file ?? newID(), fileTry: fileTry"),
    Mutation("two attempts' saves share an id", ("I11", "I4", "I1", "I2", "the engine ends itself"), ENGINE, "Engine+Staging.swift",
             "let id = SaveID(attempt: number, step:", "let id = SaveID(attempt: min(number, 2), step:"),
    Mutation("two saves share a sequence: the count is not resumed", ("I11",), ENGINE, "Engine+Resume.swift",
             "attempt.count = max(attempt.count, committed, run.foundCounts[number] ?? 0)", "attempt.count = max(attempt.count, 0)"),

    # Commit and void.
    Mutation("commit with a manifest missing", ("I2",), SIMULATION, "TierModel+Decisions.swift",
             "        let members = participants ?? Array(0..<worldSize)\n        operate(id, {",
             "        let members = participants ?? Array(0..<max(1, worldSize - 1))\n        operate(id, {"),
    Mutation("void is told without the decision file", ("I11",), ENGINE, "Engine+Commit.swift",
             "        save.pollAt = now\n        seekDecision(save)\n    }", "        decided(save.key, .void(reason: reason), isRead: false)\n    }"),
    Mutation("failed is told of a part that may be committed", ("I11",), ENGINE, "Engine+Staging.swift",
             "           rankSave.files.values.contains(where: \\.mayStand) {", "           rankSave.files.values.contains(where: \\.mayStand), rankSave.level == .committed {"),
    Mutation("failed is told twice", ("I4",), ENGINE, "Engine+Staging.swift",
             "        guard rankSave.failure == nil else { return }\n        if !rankSave.isCopies, let save",
             "        if !rankSave.isCopies, let save"),
    Mutation("a commit is told before its folder has its name", ("I2",), SIMULATION, "TierModel+Decisions.swift",
             "        _ = link(disk.steps, sequence, save)\n", "        if world.random.once(in: 2) { _ = link(disk.steps, sequence, save) }\n"),
    Mutation("a decision that stands is replaced", ("I11", "I2", "I4"), SIMULATION, "TierModel+Decisions.swift",
             "            if link(disk.decisions, save, decision) { world.linked(decision, save, by: daemon) }\n",
             "            disk.decisions.remove(save)\n            if link(disk.decisions, save, decision) { world.linked(decision, save, by: daemon) }\n"),
    Mutation("a damaged decision is asked for without a bound", ("I4", "I10"), ENGINE, "Engine+Commit.swift",
             "guard save.decision == nil, save.damagedAnswers >= limits.decisionTries else {", "guard save.decision == nil, save.damagedAnswers < 0 else {"),
    Mutation("no commit timeout", ("I4", "I10"), ENGINE, "Engine+Commit.swift",
             "if save.voidReason == nil, now - save.acceptedAt > ms(limits.commitTimeoutMs) {", "if save.voidReason == nil, now < 0 {"),

    # Restores and what older attempts left.
    Mutation("restore without agreement: each daemon answers its own best", ("I12", "I1"), ENGINE, "Engine+Restore.swift",
             "        for (call, _, _) in restore.calls { answerChoice(call, restore) }\n",
             "        let own = restore.step == nil ? candidate(attempt, number, restore) : nil\n"
             "        for (call, _, _) in restore.calls {\n"
             "            if let own { reply(call, .chosen(step: own.step, sequence: own.sequence)) } else { answerChoice(call, restore) }\n"
             "        }\n"),
    Mutation("a verdict from one daemon only", ("I12",), ENGINE, "Engine+Restore.swift",
             "        restore.publishedRanks.formUnion(ranks)\n",
             "        restore.publishedRanks.formUnion(ranks)\n        return conclude(attempt, restore, ok: restore.settled.values.allSatisfy(\\.ok), reason: nil)\n"),
    Mutation("the newest is the highest step number", ("I1", "I12"), SIMULATION, "TierModel+Restore.swift",
             "summaries().filter { step == nil ? !$0.superseded : $0.step == step }\n"
             "            .map { Candidate(step: $0.step, sequence: $0.sequence, save: $0.save, level: .committed) } + (candidate.map { [$0] } ?? [])\n"
             "        return known.filter { one in tried.map { one.sequence < $0 } ?? true }.max { $0.sequence < $1.sequence }",
             "summaries().filter { step == nil || $0.step == step }\n"
             "            .map { Candidate(step: $0.step, sequence: $0.sequence, save: $0.save, level: .committed) } + (candidate.map { [$0] } ?? [])\n"
             "        return known.filter { one in tried.map { one.sequence < $0 } ?? true }.max { $0.step < $1.step }"),
    Mutation("a step that a later line has left behind is chosen", ("I12",), SIMULATION, "TierModel+Restore.swift",
             "step == nil ? !$0.superseded : $0.step == step }", "step == nil ? $0.sequence.count > 0 : $0.step == step }", first=401),
    Mutation("leftovers are voided though they can be finished", ("I1",), ENGINE, "Engine+Leftovers.swift",
             "            } else if leftover.missing.isEmpty {\n", "            } else if leftover.missing.isEmpty, serving < 0 {\n"),
    Mutation("a restore does not wait for what older attempts left", ("I1", "I4"), ENGINE, "Engine+Restore.swift",
             "        if place == committing, !attempt.isCleared, now - restore.startedAt < bound { return clear(attempt) }\n", "        _ = bound\n"),

    # Retention.
    Mutation("retention takes the oldest for the newest", ("I3", "I1"), MODEL, "Retention.swift",
             "isOrdered ? ($0.sequence, $0.summary.save) < ($1.sequence, $1.summary.save)",
             "isOrdered ? ($0.sequence, $0.summary.save) > ($1.sequence, $1.summary.save)"),
    Mutation("retention ignores what a restore names", ("I3",), ENGINE, "Engine+Commit.swift",
             "protectedSaves: protected, protectedSequences: sequences)", "protectedSaves: protected, protectedSequences: sequences.filter { _ in false })"),
    Mutation("retention takes what is unfinished", ("I1",), ENGINE, "Engine+Commit.swift",
             "protectedSaves: protected, protectedSequences: sequences)", "protectedSaves: protected.filter { _ in false }, protectedSequences: sequences)"),
]
