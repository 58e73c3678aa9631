// What is asked for on the command line.
import CairnSimulation

struct Arguments {
    static let usage = """
        cairn-simulate: seeded histories of Cairn's engine; each invariant is checked after every event.
          --seeds N | A..B     run these seeds (default 1..200)
          --seed N             run one; with --verbose print every event, with --table what each rank was told
          --jobs J             processes at once (default 2)
          --without KINDS      leave out kinds of faults, comma-separated: \(FaultKind.allCases.map(\.rawValue).joined(separator: ", "))
          --fault-ms N         how long faults go on, in simulated milliseconds
          --stop-at-first      end at the first violation
          --no-shrink          do not look for the smallest history that still fails
        Exit status: 0 all invariants held, 1 one was violated, 2 the command line is wrong.
        """
    var first: UInt64 = 1, last: UInt64 = 200
    var one: UInt64?
    var jobs = 2
    var options = HistoryOptions(seed: 0)
    var isVerbose = false, showsTable = false, stopsAtFirst = false, shrinks = true
    /// Set in the processes that this one starts: run the seeds and print a line for each.
    var isWorker = false
    var stride: UInt64 = 1

    init(_ words: [String]) throws(Wrong) {
        var rest = words[...]
        func value(_ name: String) throws(Wrong) -> String {
            guard let value = rest.popFirst() else { throw Wrong(text: "\(name) needs a value") }
            return value
        }
        func number(_ name: String) throws(Wrong) -> UInt64 {
            let text = try value(name)
            guard let number = UInt64(text) else { throw Wrong(text: "\(name) needs a number, not '\(text)'") }
            return number
        }
        while let word = rest.popFirst() {
            switch word {
            case "--seeds":
                let text = try value(word), ends = text.components(separatedBy: "..")
                if ends.count == 2, let low = UInt64(ends[0]), let high = UInt64(ends[1]), low <= high { (first, last) = (low, high) }
                else if let count = UInt64(text), count > 0 { (first, last) = (1, count) }
                else { throw Wrong(text: "--seeds needs N or A..B, not '\(text)'") }
            case "--seed": one = try number(word)
            case "--jobs": jobs = max(1, Int(try number(word)))
            case "--fault-ms": options.faultMs = Int(try number(word))
            case "--without":
                for name in try value(word).components(separatedBy: ",") {
                    guard let kind = FaultKind(rawValue: name) else { throw Wrong(text: "there is no fault '\(name)'") }
                    options.without.insert(kind)
                }
            case "--verbose": isVerbose = true
            case "--table": showsTable = true
            case "--stop-at-first": stopsAtFirst = true
            case "--no-shrink": shrinks = false
            case "--worker": isWorker = true; stride = try number(word)
            default: throw Wrong(text: "unknown argument '\(word)'")
            }
        }
    }

    struct Wrong: Error { var text: String }
    func options(_ seed: UInt64) -> HistoryOptions {
        var options = options
        options.seed = seed
        return options
    }
}

extension String {
    /// As Foundation's, without it.
    func components(separatedBy separator: String) -> [String] { split(separator: separator, omittingEmptySubsequences: false).map(String.init) }
}
