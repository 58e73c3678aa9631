import CairnIO
@testable import CairnKeeper
import CairnMessages
import CairnModel
import Testing

@Suite struct CommandTests {
    private func run(_ script: String, timeout: Int = 20_000, stopping: @escaping () -> Bool = { false }) -> CommandResult {
        CommandRun(order: CommandOrder(run: RunKey(uid: 5, name: "llama"), step: 7, arguments: ["/bin/sh", "-c", script], environment: ["CAIRN_STEP=7"],
                                       timeoutMilliseconds: timeout), isStopping: stopping).run()
    }

    @Test func aCommandHasItsEnvironmentAndNoInput() {
        let result = run("read line || echo \"step $CAIRN_STEP, no input\"")
        #expect(result.outcome == .ok && result.output == "step 7, no input\n")
    }

    @Test func anErrorIsToldWithTheLastOfWhatWasPrinted() {
        let result = run("yes x | head -c 100000; echo end >&2; exit 3")
        #expect(result.outcome == .failed && result.text == "exit code 3")
        #expect(result.output.hasSuffix("x\nend\n") && result.output.utf8.count <= KeeperLimits.outputBytes)
    }

    @Test func whatTakesTooLongEndsWithAllOfItsGroup() throws {
        let folder = try TemporaryFolder()
        // A grandchild, too, that ignores SIGTERM.
        let result = run("trap '' TERM; (trap '' TERM; echo $$ > \(folder.path)/pid; sleep 60) & sleep 60 & wait", timeout: 300)
        #expect(result.outcome == .timeout)
        let begin = Clock.monotonicNanoseconds()
        #expect(result.milliseconds < 20_000 && begin > 0)
    }

    @Test func aProgramThatIsNotThereIsToldAsThat() {
        let order = CommandOrder(run: RunKey(uid: 5, name: "llama"), step: 7, arguments: ["/no/such/program"], environment: [], timeoutMilliseconds: 1000)
        let result = CommandRun(order: order, isStopping: { false }).run()
        #expect(result.outcome == .failed && result.text.contains("could not be started") && result.text.contains("ENOENT"))
    }

    @Test func itEndsWithTheDaemon() {
        let result = run("sleep 60", stopping: { true })
        #expect(result.outcome == .failed && result.text.contains("the daemon stops") && result.milliseconds < 5000)
    }
}
