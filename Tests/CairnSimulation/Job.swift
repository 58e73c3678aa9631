// One launch of the training job: where its ranks run, what they save, and what they must agree on.
import CairnEngine
import CairnModel

final class Job {
    unowned let world: World
    let index: Int, token: String, worldSize: Int, steps: Int
    private(set) var number = 0
    /// What its restore returned: all later commits' parent.
    private(set) var parent: CommitSequence?
    private(set) var startStep: Int
    private(set) var ranks: [Rank] = []
    /// It asks for this step at first, else for the newest.
    let restoreStep: Int?
    /// After a restore: goes on at that step, or some further.
    let jump: Int
    /// A rank that refuses to save for as long as faults go on.
    let refuser: Int?
    let retries: Bool
    /// Launched again in the part without faults.
    var isLast = false
    /// The rank that misses the last step of the last launch: only time ends that save.
    private let missesLast: Int?
    func missesLastSave(_ rank: Int) -> Bool { !world.faults && missesLast == rank }
    private var choices: [Int: CommitSequence?] = [:]
    private var verdicts: [Int: Bool] = [:]
    private let uptos: [Level], sizes: [Int], members: [[Int]?], promotions: [Bool]
    /// What each rank was told, for the table: restores' answers, then the levels of each save.
    var restores: [Int: [String]] = [:]
    var levels: [SaveID: [Int: [String]]] = [:]

    init(world: World, index: Int, worldSize: Int, places: [Daemon], steps: Int, restoreStep: Int?) {
        self.world = world; self.index = index; self.worldSize = worldSize; self.steps = steps; self.restoreStep = restoreStep
        token = "t\(index)"
        startStep = index * 3
        jump = world.random.once(in: 2) ? 0 : world.random.int(1...5)
        let refuses = world.random.once(in: 8), refused = world.random.int(0...worldSize - 1)
        refuser = refuses && world.may(.refusal) ? refused : nil
        let retrying = world.random.once(in: 2)
        retries = retrying && world.may(.retry)
        let misses = world.random.once(in: 3), missing = world.random.int(0...worldSize - 1)
        missesLast = misses && worldSize > 1 ? missing : nil
        let isMixed = world.random.once(in: 2)
        uptos = (0..<64).map { _ in
            let level = world.random.once(in: isMixed ? 2 : 8) ? world.random.pick([Level.staged, .local, .local, .global]) : .committed
            return world.may(.lowerLevels) || !world.faults ? level : .committed
        }
        sizes = (0..<8).map { _ in world.random.int(1...world.settings.largestChunks) }
        members = (0..<32).map { _ in
            let isPart = world.random.once(in: 6)
            let part = [0] + (1..<max(1, worldSize)).filter { _ in world.random.once(in: 2) }
            return isPart && worldSize > 1 && world.may(.participants) ? part.filter { $0 < worldSize } : nil
        }
        promotions = (0..<32).map { _ in world.random.once(in: 2) && world.may(.promotion) }
        ranks = (0..<worldSize).map { Rank(world: world, job: self, rank: $0, daemon: places[$0], pid: world.newPid()) }
    }

    private(set) var launchedAt = 0
    func launch() {
        launchedAt = world.now
        for rank in ranks { world.after(world.random.int(1...100) * World.ms) { rank.open() } }
    }
    func kill() { for rank in ranks { rank.die() } }
    func ranksHere(_ daemon: Daemon) -> Int { ranks.count { $0.daemon === daemon } }

    /// One launch has one number, unless its daemon starts again without the committing tier: that may know no other. Its ranks must be
    /// given the same answers all the same.
    func opened(_ number: Int) {
        if self.number != 0, self.number != number {
            world.mark(.renumbered)
            if number < self.number || !world.settings.hasBeside { world.fail("I12: launch \(token) is attempt \(self.number) and then attempt \(number)") }
        }
        self.number = number
    }
    func settle(parent: CommitSequence, step: Int) {
        self.parent = parent
        startStep = step + jump
    }

    func upto(_ step: Int) -> Level { uptos[step % uptos.count] }
    func participants(_ step: Int) -> [Int]? { members[step % members.count] }
    func promotes(_ step: Int) -> Bool { promotions[step % promotions.count] }
    func chunks(_ rank: Int, _ step: Int) -> Int {
        let chunks = sizes[rank % sizes.count]
        // What stays in memory must fit there, with the one that it replaces and every other rank's.
        return world.settings.finalLevel(upto(step)) == .staged ? min(chunks, 16 / (2 * Settings.largestWorld)) : chunks
    }

    /// I12: all ranks are given the same step.
    func check(restore: Int, _ sequence: CommitSequence?, _ rank: Int) {
        if let known = choices[restore], known != sequence {
            world.fail("I12: restore \(restore) gives rank \(rank) \(String(describing: sequence)), another rank \(String(describing: known))")
        }
        choices[restore] = .some(sequence)
        restores[rank, default: []].append("\(restore): \(sequence.map { "\($0)" } ?? "nothing")")
    }
    func check(verdict restore: Int, _ again: Bool, _ rank: Int) {
        if let known = verdicts[restore], known != again { world.fail("I12: rank \(rank) is told again=\(again) for restore \(restore), another rank \(known)") }
        verdicts[restore] = again
        if again { restores[rank, default: []].append("again") }
    }
}
