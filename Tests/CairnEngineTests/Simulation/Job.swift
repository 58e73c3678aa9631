// One launch of the training job: what its ranks must agree on.
import CairnModel

final class Job {
    unowned let world: World
    let token: String, firstStep: Int, steps: Int
    var number = 0
    /// What its restore returned: all later commits' parent.
    private(set) var parent: CommitSequence?
    private(set) var parentStep = 0
    private(set) var ranks: [Rank] = []
    private var choices: [Int: CommitSequence?] = [:]
    private var verdicts: [Int: Bool] = [:]
    private let uptos: [Level], sizes: [Int]

    init(world: World, index: Int, firstStep: Int, steps: Int) {
        self.world = world
        token = "t\(index)"
        self.firstStep = firstStep
        self.steps = steps
        uptos = (0..<64).map { _ in world.random.once(in: 5) ? world.random.pick([Level.staged, .local, .global]) : .committed }
        sizes = (0..<8).map { _ in world.random.int(1...world.settings.largestChunks) }
    }

    func settle(parent: CommitSequence, step: Int) {
        self.parent = parent
        parentStep = step
    }

    func launch() {
        ranks = (0..<world.settings.worldSize).map { rank in
            Rank(world: world, job: self, rank: rank, daemon: world.daemons[rank % world.daemons.count], pid: world.newPid())
        }
        for rank in ranks { world.after(world.random.int(1...100) * World.ms) { rank.open() } }
    }
    func kill() { for rank in ranks { rank.die() } }

    func upto(_ step: Int) -> Level { uptos[step % uptos.count] }
    func chunks(_ rank: Int, _ step: Int) -> Int {
        let chunks = sizes[rank % sizes.count]
        // What stays in memory must fit there, with the one that it replaces and every other rank's.
        return world.settings.finalLevel(upto(step)) == .staged ? min(chunks, 2) : chunks
    }

    /// I12: all ranks are given the same step.
    func check(restore: Int, _ sequence: CommitSequence?, _ rank: Int) {
        if let known = choices[restore], known != sequence {
            world.fail("I12: restore \(restore) gives rank \(rank) \(String(describing: sequence)), another rank \(String(describing: known))")
        }
        choices[restore] = .some(sequence)
    }
    func check(verdict restore: Int, _ again: Bool, _ rank: Int) {
        if let known = verdicts[restore], known != again { world.fail("I12: rank \(rank) is told again=\(again) for restore \(restore), another rank \(known)") }
        verdicts[restore] = again
    }
}
