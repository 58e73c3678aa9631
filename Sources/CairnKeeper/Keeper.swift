// The keeper: a worker process with a thread for files and one for commands, so that a command that runs holds up no line of the history.
//   thread      owns
//   receiving   the channel's reading end
//   files       the history's files and the text for node_exporter
//   command     the command that runs; its children inherit its niceness
import CairnIO
import CairnMessages

/// The role's entry: exit code.
public func runKeeper(channel descriptor: Descriptor) -> Int32 {
    ProcessFacts.ignoreSignals()
    // Main ends its workers; a signal to the whole group must not.
    for number in [Signals.interrupt, Signals.terminate, Signals.hangUp] { ProcessFacts.ignore(signal: number) }
    let channel = BlockingFrameChannel(descriptor)
    do {
        guard let first = try channel.receive() else { return 0 }
        guard case .start(let start) = try MessageCoding.decode(KeeperRequest.self, from: first.json) else { return 1 }
        let keeper = try Keeper(start, channel)
        defer { keeper.stop() }
        while let frame = try channel.receive() {
            let request = try MessageCoding.decode(KeeperRequest.self, from: frame.json)
            if case .stop = request { return 0 }
            keeper.handle(request, frame.payload)
        }
        return 0
    } catch {
        StandardStreams.write(to: 2, "cairnd keeper: \(error)\n")
        return 1
    }
}

final class Keeper: Sendable {
    private enum FileTask: Sendable { case append([UInt8]), textfile([UInt8]) }
    private let channel: BlockingFrameChannel
    private let fileTasks = WorkQueue<FileTask>(capacity: KeeperLimits.queued)
    private let orders = WorkQueue<CommandOrder>(capacity: 1)
    private let stopping = Monitor(false)
    private let threads: [Thread]

    init(_ start: KeeperStart, _ channel: BlockingFrameChannel) throws(IOFailure) {
        self.channel = channel
        let files = try Threads.spawn(name: "files") { [fileTasks] in
            let writing = KeeperFiles(start, channel)
            while let task = fileTasks.pop() {
                switch task {
                case .append(let lines): writing.append(lines)
                case .textfile(let text): writing.write(text)
                }
            }
        }
        let commands = try Threads.spawn(name: "command", niceness: 19, scheduling: .batch) { [orders, stopping] in
            while let order = orders.pop() {
                let result = CommandRun(order: order) { stopping.read { $0 } }.run()
                Keeper.send(.ran(result), [], channel)
            }
        }
        threads = [files, commands]
    }

    func handle(_ request: KeeperRequest, _ payload: [UInt8]) {
        switch request {
        case .start, .stop: break
        // Waits where the filesystem is slow: then main's queue fills, and it drops lines.
        case .append: fileTasks.push(.append(payload))
        case .textfile: fileTasks.tryPush(.textfile(payload))
        case .run(let order): orders.push(order)
        }
    }

    func stop() {
        stopping.update { $0 = true }
        fileTasks.close()
        orders.close()
        for thread in threads { thread.join(timeoutMilliseconds: 2 * KeeperLimits.stopGraceMilliseconds) }
    }

    static func send(_ reply: KeeperReply, _ payload: [UInt8], _ channel: BlockingFrameChannel) {
        // Main is gone where this fails, and the receiving thread sees that.
        try? channel.send(Frame(json: MessageCoding.encode(reply), payload: payload))
    }
}

/// What the files thread does. Each kind of failure is told when it begins.
final class KeeperFiles {
    private let start: KeeperStart, channel: BlockingFrameChannel
    private var history: HistoryFiles?
    private var failing: Set<String> = []

    init(_ start: KeeperStart, _ channel: BlockingFrameChannel) {
        self.start = start
        self.channel = channel
        var lines: [UInt8] = [], damaged = 0
        if let folder = start.stateFolder {
            attempt("the history is kept in memory only") {
                try? Self.makeFolder(folder)
                let history = try HistoryFiles(folder: folder, node: start.node, limit: start.historyBytes)
                (lines, damaged) = try history.load()
                self.history = history
            }
        }
        Keeper.send(.ready(damaged: damaged), lines, channel)
    }

    /// Its parent must be there: a mount that is missing must not be written beside.
    private static func makeFolder(_ path: String) throws(IOFailure) {
        let parts = path.split(separator: "/")
        guard let last = parts.last else { return }
        _ = try Files.makeFolder(try Files.openRoot("/" + parts.dropLast().joined(separator: "/")), String(last), mode: 0o750)
    }

    func append(_ lines: [UInt8]) {
        guard let history else { return }
        attempt("a line of the history is lost") { try history.append(lines) }
    }

    /// node_exporter reads it at any moment, so it is renamed into its place whole.
    func write(_ text: [UInt8]) {
        guard let path = start.textfile else { return }
        attempt("the metrics' text is not written") {
            let parts = path.split(separator: "/")
            guard let name = parts.last else { return }
            let folder = try Files.openRoot("/" + parts.dropLast().joined(separator: "/"))
            // Not *.prom, or node_exporter would read it too.
            let part = ".\(name).part"
            try? Files.unlink(folder, part)
            try Files.writeNew(folder, part, text, mode: 0o644)
            try Files.rename(folder, from: part, to: String(name))
        }
    }

    private func attempt(_ consequence: String, _ body: () throws -> Void) {
        do {
            try body()
            failing.remove(consequence)
        } catch {
            if failing.insert(consequence).inserted { Keeper.send(.failed("\(consequence): \(error)"), [], channel) }
        }
    }
}
