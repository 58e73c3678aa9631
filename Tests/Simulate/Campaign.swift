// Many seeds over several processes. A process that ends in a seed has found a violation: a precondition of the engine.
import CairnSimulation
import Foundation

final class Campaign {
    let arguments: Arguments
    private var coverage = Coverage()
    private var histories = 0, events = 0, commits = 0, failures = 0
    private(set) var failed: [(seed: UInt64, violation: String)] = []

    init(_ arguments: Arguments) { self.arguments = arguments }

    func run() -> Bool {
        let start = Date()
        let jobs = UInt64(min(arguments.jobs, Int(arguments.last - arguments.first + 1)))
        let lock = NSLock()
        let group = DispatchGroup()
        for job in 0..<jobs {
            group.enter()
            // One thread for each process; what they share is behind the lock.
            let lane = Lane(first: arguments.first + job, stride: jobs, lock: lock, campaign: self)
            Thread.detachNewThread { lane.run(); group.leave() }
        }
        group.wait()
        report(seconds: Date().timeIntervalSince(start))
        return failed.isEmpty
    }

    func took(_ line: String) {
        let fields = line.components(separatedBy: "\t")
        guard fields.count == 7 else { return }
        histories += 1
        events += Int(fields[1]) ?? 0
        commits += Int(fields[2]) ?? 0
        failures += Int(fields[3]) ?? 0
        for name in fields[4].components(separatedBy: ",") { if let situation = Situation(rawValue: name) { coverage.situations.insert(situation) } }
        for state in fields[5].components(separatedBy: ",") { if let number = UInt64(state, radix: 36) { coverage.states.insert(number) } }
        let seed = UInt64(fields[0].dropFirst(4)) ?? 0
        if !fields[6].isEmpty { violated(seed, fields[6]) }
    }
    func violated(_ seed: UInt64, _ violation: String) {
        failed.append((seed, violation))
        print("seed \(seed): \(violation)")
        fflush(nil)
    }
    var isOver: Bool { arguments.stopsAtFirst && !failed.isEmpty }

    private func report(seconds: Double) {
        let rate = Double(histories) / max(seconds, 0.001), eventRate = Double(events) / max(seconds, 0.001)
        print("\(histories) histories, \(events) events, \(commits) commits, \(failures) rank saves failed")
        print(String(format: "%.1f s: %.1f histories/s, %.0f events/s", seconds, rate, eventRate))
        print("\(coverage.states.count) distinct states; \(coverage.situations.count) of \(Situation.allCases.count) declared situations reached")
        if !coverage.missing.isEmpty { print("never reached: \(coverage.missing.map(\.rawValue).joined(separator: ", "))") }
        guard let first = failed.min(by: { $0.seed < $1.seed }) else { return print("all invariants held") }
        print("\(failed.count) seeds violate an invariant: \(failed.map { "\($0.seed)" }.sorted().prefix(40).joined(separator: " "))")
        guard arguments.shrinks else { return }
        // In processes of their own: the engine may end itself.
        if let smallest = Shrink.smallest(arguments.options(first.seed), fails: Self.violation) {
            print("seed \(first.seed), the smallest of \(smallest.tried) histories that fails: \(smallest.violation)\n  \(Shrink.replay(smallest.options)) --verbose")
        }
    }

    static func violation(_ options: HistoryOptions) -> String? {
        var words = ["--seeds", "\(options.seed)..\(options.seed)", "--fault-ms", "\(options.faultMs)", "--worker", "1"]
        if !options.without.isEmpty { words += ["--without", options.without.map(\.rawValue).sorted().joined(separator: ",")] }
        var violation: String?
        let ended = Child.run(words) { line in
            if line.hasPrefix("end ") { violation = line.components(separatedBy: "\t").last.flatMap { $0.isEmpty ? nil : $0 } }
        }
        return violation ?? ended
    }
}

/// The seeds of one process after another, until all of them are done.
final class Lane: @unchecked Sendable {   // used by its own thread only; the campaign behind the lock
    private var next: UInt64
    private let stride: UInt64, lock: NSLock, campaign: Campaign
    init(first: UInt64, stride: UInt64, lock: NSLock, campaign: Campaign) { next = first; self.stride = stride; self.lock = lock; self.campaign = campaign }

    func run() {
        let options = campaign.arguments.options
        while next <= campaign.arguments.last {
            var words = ["--seeds", "\(next)..\(campaign.arguments.last)", "--fault-ms", "\(options.faultMs)", "--worker", "\(stride)"]
            if !options.without.isEmpty { words += ["--without", options.without.map(\.rawValue).sorted().joined(separator: ",")] }
            var begun: UInt64?
            let reason = Child.run(words, stop: { self.lock.withLock { self.campaign.isOver } }) { line in
                if line.hasPrefix("begin ") { begun = UInt64(line.dropFirst(6)) }
                if line.hasPrefix("end ") { self.lock.withLock { self.campaign.took(line) }; begun = nil }
            }
            if lock.withLock({ campaign.isOver }) { return }
            guard let reason else { return }
            guard let begun else { lock.withLock { campaign.violated(next, "the simulation ended between two seeds: \(reason)") }; return }
            lock.withLock { campaign.violated(begun, reason) }
            next = begun + stride
        }
    }
}

enum Child {
    /// Runs this executable; nil if it ended well, else the last line of what it said on its error output.
    static func run(_ words: [String], stop: @escaping () -> Bool = { false }, _ line: (String) -> Void) -> String? {
        let process = Process(), output = Pipe(), errors = FileManager.default.temporaryDirectory.appendingPathComponent("cairn-simulate-\(UUID().uuidString)")
        do { try Data().write(to: errors) } catch { return "cannot write '\(errors.path)': \(error)" }
        defer { try? FileManager.default.removeItem(at: errors) }   // a file of a few lines in the temporary folder
        process.executableURL = URL(fileURLWithPath: CommandLine.arguments[0])
        process.arguments = words
        process.standardOutput = output
        process.standardError = FileHandle(forWritingAtPath: errors.path) ?? FileHandle.nullDevice
        // The runtime's backtrace takes seconds and says nothing that the seed does not.
        process.environment = ProcessInfo.processInfo.environment.merging(["SWIFT_BACKTRACE": "enable=no"]) { $1 }
        do { try process.run() } catch { return "cannot start '\(CommandLine.arguments[0])': \(error)" }
        var text = Data()
        while true {
            let data = output.fileHandleForReading.availableData
            if data.isEmpty { break }
            text.append(data)
            while let end = text.firstIndex(of: 10) {
                line(String(decoding: text[text.startIndex..<end], as: UTF8.self))
                text.removeSubrange(text.startIndex...end)
            }
            if stop() { process.terminate() }
        }
        process.waitUntilExit()
        guard process.terminationReason == .uncaughtSignal || process.terminationStatus != 0 else { return nil }
        let said = (try? String(contentsOf: errors, encoding: .utf8)) ?? ""   // said only to be shown
        let fatal = said.components(separatedBy: "\n").first { $0.contains("Fatal error: ") }
        return fatal.map { "the engine ends itself: " + ($0.components(separatedBy: "Fatal error: ").last ?? $0) } ?? "the engine ends itself (status \(process.terminationStatus))"
    }
}
