// `auto`: whether a file is stored as frames, by what was measured.
//
//   share   what frames take of the plain bytes: of this rank's file before, of which every chunk was looked at; of its first file, of pieces
//           of the chunks that wait when it begins
//   speed   plain bytes a second that the threads compress, nice as they are, beside whatever else runs
//   write   bytes a second that the tier takes, its fsync counted
//
// Plain takes 1 / write a byte. Frames take 1 / speed or share / write, whichever is longer, since a chunk is compressed while others are
// written. They are chosen where that is less, and where they save at least a tenth: a file that stock tools read as it is is worth that.
// (1) While nothing was written yet, `write` is not known: the first files of a worker's life are plain, and measure it at full depth.
// (2) Few writes in flight do not reach what a tier can do: they raise the estimate, and never lower it.
import CairnIO
import CairnModel

enum CompressionChoice {
    /// Frames that take more are not worth a file that must be unpacked first.
    static let mostShare = 0.9

    static func pays(share: Double, compressedPerSecond speed: Double, writtenPerSecond write: Double?) -> Bool {
        guard share <= mostShare, speed > 0, let write, write > 0 else { return false }
        return max(1 / speed, share / write) < 1 / write
    }
}

/// What a tier's writes reach, as they come by.
final class WriteSpeed: Sendable {
    private struct State: Sendable {
        var inFlight = 0, changedAt = 0
        /// Since the last estimate: bytes, time with something in flight, and that times how many were.
        var bytes = 0, busy = 0, area = 0
        var estimate: Double?

        mutating func advance(to now: Int) {
            if inFlight > 0 {
                busy += now - changedAt
                area += (now - changedAt) * inFlight
            }
            changedAt = now
        }
    }
    private let state = Monitor(State())

    func begin() {
        let now = Clock.monotonicNanoseconds()
        state.withLock { state in
            state.advance(to: now)
            state.inFlight += 1
        }
    }

    func end(bytes: Int) {
        let now = Clock.monotonicNanoseconds()
        state.withLock { state in
            state.advance(to: now)
            state.inFlight -= 1
            state.bytes += bytes
        }
    }

    /// Bytes a second; after each file, so that its fsync is counted with its writes.
    func estimate() {
        let now = Clock.monotonicNanoseconds()
        state.withLock { state in
            state.advance(to: now)
            guard state.bytes >= TierLimits.measuredBytes, state.busy > 0 else { return }
            let found = Double(state.bytes) * 1e9 / Double(state.busy), depth = Double(state.area) / Double(state.busy)
            if depth >= TierLimits.measuredDepth {
                state.estimate = state.estimate.map { ($0 + found) / 2 } ?? found
            } else {
                state.estimate = max(state.estimate ?? 0, found)
            }
            (state.bytes, state.busy, state.area) = (0, 0, 0)
        }
    }

    var bytesPerSecond: Double? { state.withLock(\.estimate) }
}

/// What compressing reaches, and how much of each rank's file it leaves.
final class CompressionMeasure: Sendable {
    private struct State: Sendable {
        var perThread: Double?
        var shares: [RankOfRun: Double] = [:]
    }
    private struct RankOfRun: Hashable, Sendable { let run: RunKey, rank: Int }
    private let state = Monitor(State())

    /// Of one thread's work.
    func compressed(plain: Int, nanoseconds: Int) {
        guard plain > 0, nanoseconds > 0 else { return }
        let found = Double(plain) * 1e9 / Double(nanoseconds)
        // One in eight: a chunk that is all zeros says little of the next.
        state.withLock { $0.perThread = $0.perThread.map { $0 + (found - $0) / 8 } ?? found }
    }

    var perThread: Double? { state.withLock(\.perThread) }

    func share(_ run: RunKey, rank: Int) -> Double? { state.withLock { $0.shares[RankOfRun(run: run, rank: rank)] } }

    func keep(_ share: Double, _ run: RunKey, rank: Int) {
        state.withLock { state in
            if state.shares.count >= TierLimits.rememberedShares { state.shares.removeAll() }
            state.shares[RankOfRun(run: run, rank: rank)] = share
        }
    }
}
