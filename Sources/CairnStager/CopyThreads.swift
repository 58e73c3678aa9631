// The threads that copy, and the watchdog over them. Eager bytes are copied at normal priority, for `save()` waits for them; lazy
// ones with the configuration's niceness, for the rank trains meanwhile. A rank's memory can be a mapping of a hung filesystem, and
// such a copy cannot be ended: its thread is written off and replaced, its slot stays busy until it returns (if ever).
import CairnIO
import CairnMessages
import CairnModel
import Synchronization

final class CopyThreads: Sendable {
    /// One thread's place, as the watchdog sees it.
    private final class Place: Sendable {
        let number: Int
        let phase: ChunkWork.Phase
        let work = Monitor<ChunkWork?>(nil)
        /// When the last block was done.
        let progressNanoseconds = Atomic(0)
        init(_ number: Int, _ phase: ChunkWork.Phase) { self.number = number; self.phase = phase }
    }

    private let queue: StagingQueue
    private let pool: PoolMemory
    private let niceness: Int
    private let stuckNanoseconds: Int
    private let places = Monitor<[Place]>([])
    private let numbers = Atomic(0)
    /// Copies that run now: the watchdog sleeps while there are none.
    private let running = Monitor(0)
    private let stopped = Monitor(false)

    init(_ queue: StagingQueue, pool: PoolMemory, niceness: Int, stuckMilliseconds: Int) {
        self.queue = queue; self.pool = pool; self.niceness = niceness
        stuckNanoseconds = stuckMilliseconds * 1_000_000
    }

    func start(_ count: Int) throws(IOFailure) {
        for _ in 0..<max(1, count) {
            try add(.eager)
            try add(.lazy)
        }
        try Threads.spawn(name: "stage-watch") { self.watch() }
    }

    func stop() {
        stopped.update { $0 = true }
        running.update { _ in }
    }

    /// No thread is left to replace a further one that sticks.
    var isExhausted: Bool { queue.stuckThreads >= StagerLimits.stuckThreads }

    private func add(_ phase: ChunkWork.Phase) throws(IOFailure) {
        let place = Place(numbers.add(1, ordering: .relaxed).newValue, phase)
        places.update { $0.append(place) }
        switch phase {
        case .eager, .sum: try Threads.spawn(name: "eager-\(place.number)") { self.run(place) }
        case .lazy, .streamed: try Threads.spawn(name: "stage-\(place.number)", niceness: niceness, scheduling: .batch) { self.run(place) }
        }
    }

    private func run(_ place: Place) {
        defer { places.update { $0.removeAll { $0 === place } } }
        while let work = queue.take(place.phase, thread: place.number) {
            place.progressNanoseconds.store(Clock.monotonicNanoseconds(), ordering: .releasing)
            place.work.update { $0 = work }
            running.update { $0 += 1 }
            let outcome = Result { () throws(StageFailure) in try perform(work, place) }
            place.work.update { $0 = nil }
            running.update { $0 -= 1 }
            guard queue.complete(work, thread: place.number, outcome) else { return }
        }
    }

    private func perform(_ work: ChunkWork, _ place: Place) throws(StageFailure) -> [UInt32?] {
        func progress() { place.progressNanoseconds.store(Clock.monotonicNanoseconds(), ordering: .releasing) }
        guard work.phase == .sum else {
            let (map, offset) = pool.place(ofSlot: work.slot)
            if let portion = work.portion { return try ChunkCopier.copy(portion, work, into: map, at: offset, progress: progress) }
            return try ChunkCopier.copy(work, into: map, at: offset, pool: pool, progress: progress)
        }
        let scratch: MemoryMap
        do { scratch = try MemoryMap(anonymous: Sizes.blockBytes) } catch { throw .failed(.other, "\(error)") }
        return try ChunkCopier.sums(work, scratch: scratch, progress: progress)
    }

    private func watch() {
        let period = max(10, stuckNanoseconds / 4_000_000)
        while true {
            _ = running.wait { $0 > 0 || stopped.read { $0 } ? true : nil }
            if stopped.wait(timeoutMilliseconds: period, until: { $0 ? true : nil }) != nil { return }
            let now = Clock.monotonicNanoseconds()
            for place in places.read({ $0 }) {
                guard let work = place.work.read({ $0 }),
                      now - place.progressNanoseconds.load(ordering: .acquiring) > stuckNanoseconds else { continue }
                let text = "the copy of chunk \(work.chunk) made no progress for \(stuckNanoseconds / 1_000_000) ms: is the rank's memory "
                    + "a mapping of a filesystem that hangs?"
                guard queue.writeOff(work, thread: place.number, text: text), !isExhausted else { continue }
                // Without a replacement the others go on; the next finding tries again.
                try? add(place.phase)
            }
        }
    }
}
