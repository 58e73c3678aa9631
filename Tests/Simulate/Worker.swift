// One process that runs seeds: a line before each and a line after it, so that a crash of the engine is known by its seed too.
import CairnSimulation
import Foundation

enum Worker {
    static func run(_ arguments: Arguments) {
        var coverage = Coverage()
        var known: Set<UInt64> = []
        var seed = arguments.first
        while seed <= arguments.last {
            print("begin \(seed)")
            fflush(nil)
            let world = World(arguments.options(seed))
            let violation = world.run()
            coverage.merge(world.coverage)
            let new = world.coverage.states.subtracting(known)
            known.formUnion(new)
            let situations = world.coverage.situations.map(\.rawValue).joined(separator: ",")
            print("end \(seed)\t\(world.events)\t\(world.commits)\t\(world.failures)\t\(situations)\t\(new.map { String($0, radix: 36) }.joined(separator: ","))\t\(violation ?? "")")
            fflush(nil)
            seed += arguments.stride
        }
    }
}
