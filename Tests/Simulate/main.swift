// `make simulate` runs this; `cairn-simulate --help` says what it takes.
import CairnSimulation
import Foundation

let words = Array(CommandLine.arguments.dropFirst())
if words.contains("--help") || words.contains("-h") { print(Arguments.usage); exit(0) }
let arguments: Arguments
do { arguments = try Arguments(words) } catch {
    FileHandle.standardError.write(Data("cairn-simulate: \(error.text)\n\(Arguments.usage)\n".utf8))
    exit(2)
}
if arguments.isWorker {
    Worker.run(arguments)
    exit(0)
}
if let seed = arguments.one {
    var options = arguments.options(seed)
    options.recordsHistory = true
    options.isVerbose = arguments.isVerbose
    let world = World(options)
    let violation = world.run()
    if arguments.isVerbose { print(world.history.joined(separator: "\n")) }
    if arguments.showsTable { print(world.table()) }
    if !arguments.isVerbose, violation != nil { print(world.history.suffix(60).joined(separator: "\n")) }
    print("seed \(seed): \(world.commits) commits, \(world.failures) rank saves failed, \(world.events) events; \(violation ?? "all invariants held")")
    exit(violation == nil ? 0 : 1)
}
exit(Campaign(arguments).run() ? 0 : 1)
