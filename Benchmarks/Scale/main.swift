// cairn-scale FOLDER RANKS PER-NODE TENSORS LOADING ASKING: the protocol of one job of many ranks against one real folder, by the tier workers of all
// its nodes in one process. `scale.py` runs it and counts; alone it tells seconds and sizes.
import CairnIO
import CairnModel

let usage = "cairn-scale: FOLDER RANKS RANKS-PER-NODE TENSORS LOADING-NODES NODES-PER-ASK\n"
let arguments = CommandLine.arguments.dropFirst()
let numbers = arguments.dropFirst().compactMap { Int($0) }
guard let folder = arguments.first, folder.hasPrefix("/"), numbers.count == 5, arguments.count == 6, numbers.allSatisfy({ $0 > 0 }) else {
    StandardStreams.write(to: 2, usage)
    ProcessFacts.exitProcess(2)
}
do {
    try ProcessFacts.raiseOpenFilesLimit()
    let phases = try Phases(World(ranks: numbers[0], perNode: numbers[1], tensors: numbers[2]), folder: folder, loading: numbers[3], asking: numbers[4])
    let step = try phases.save(SaveID(attempt: 1, step: 1200, attemptTry: 1))
    try phases.restore(step, attempt: 2)
    try phases.retain(step, attempt: 3)
} catch {
    StandardStreams.write(to: 2, "cairn-scale: \(error)\n")
    ProcessFacts.exitProcess(1)
}
