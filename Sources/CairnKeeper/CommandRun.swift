// One command: in a process group of its own, at the lowest priority, without input; the last of what it prints is kept. When its time is over
// the group gets SIGTERM, then SIGKILL. What it leaves running when it ends by itself is its own affair.
import CairnIO
import CairnMessages

struct CommandRun {
    let order: CommandOrder
    /// True when the daemon ends: the command does, too.
    let isStopping: () -> Bool

    /// On a thread that waits for it, and is nice: the command inherits that.
    func run() -> CommandResult {
        let begin = Clock.monotonicNanoseconds()
        func took() -> Int { (Clock.monotonicNanoseconds() - begin) / 1_000_000 }
        let child: ChildProcess, output: Descriptor
        do { (child, output) = try start() } catch {
            return CommandResult(outcome: .failed, text: "it could not be started: \(error)", milliseconds: took(), output: "")
        }
        var tail: [UInt8] = []
        while !PidWatch.waitUntilGone(child.pidfd, timeoutMilliseconds: KeeperLimits.lookMilliseconds) {
            Self.read(output, &tail)
            let isOver = took() > order.timeoutMilliseconds
            guard isOver || isStopping() else { continue }
            child.killGroup(Signals.terminate)
            let grace = isStopping() ? KeeperLimits.stopGraceMilliseconds : KeeperLimits.graceMilliseconds
            _ = PidWatch.waitUntilGone(child.pidfd, timeoutMilliseconds: grace)
            // Also those of its group that outlived it: it is not reaped yet, so the number is still its group's.
            child.killGroup(Signals.kill)
            _ = PidWatch.waitUntilGone(child.pidfd, timeoutMilliseconds: KeeperLimits.graceMilliseconds)
            Self.read(output, &tail)
            let exit = child.reap().map { "\($0)" } ?? "it does not end: it is stuck in the kernel"
            return result(isOver ? .timeout : .failed, isOver ? "ended after \(order.timeoutMilliseconds / 1000) s (\(exit))" : "the daemon stops (\(exit))", took(), tail)
        }
        Self.read(output, &tail)
        let exit = child.reap()
        return result(exit == .code(0) ? .ok : .failed, exit.map { "\($0)" } ?? "gone", took(), tail)
    }

    private func start() throws(IOFailure) -> (ChildProcess, Descriptor) {
        let null = try Files.open(try Files.openRoot("/dev"), "null", flags: [.read, .write])
        let (output, input) = try ChildProcess.pipe()
        let child = try ChildProcess.spawn(
            executable: order.arguments[0], arguments: order.arguments, inherit: [(null, as: 0), (input, as: 1), (input, as: 2)],
            without: Set(order.environment.map { String($0.prefix { $0 != "=" }) }), adding: order.environment, ownGroup: true)
        return (child, output)
    }

    private static func read(_ output: Descriptor, _ tail: inout [UInt8]) {
        while let bytes = ChildProcess.readAvailable(output) { tail = Array((tail + bytes).suffix(KeeperLimits.outputBytes)) }
    }

    private func result(_ outcome: CommandResult.Outcome, _ text: String, _ milliseconds: Int, _ tail: [UInt8]) -> CommandResult {
        CommandResult(outcome: outcome, text: text, milliseconds: milliseconds, output: String(decoding: tail, as: UTF8.self))
    }
}
