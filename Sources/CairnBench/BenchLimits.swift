// Every limit of `cairn bench`, each with its reason.
import CairnModel

public enum BenchLimits {
    /// The state that is saved: less than a chunk shows nothing but fixed costs.
    public static let leastStateBytes = Sizes.chunkBytes, mostStateBytes = 1 << 40
    /// Without --size; less where memory or space are smaller.
    public static let usualStateBytes = 1 << 30
    /// State and pool take at most this share of the available memory together: 1/memoryShare.
    static let memoryShare = 2
    /// A daemon refuses a smaller pool.
    static let leastPoolBytes = 16 * Sizes.chunkBytes
    /// Beside the bytes that are measured: records, and what the filesystem needs for itself.
    static let spareBytes = 64 << 20
    /// Of each folder. No round is begun after it.
    public static let usualSeconds = 8, mostSeconds = 600
    /// Limits and a save in turns, so that a disturbance meets both.
    static let rounds = 3
    /// One way of writing or reading is measured about so long.
    static let sliceSeconds = 0.05...0.5
    /// The file that limits are measured with: longer than a drive's own cache answers for, if the slice is.
    static let fileBytes = 1 << 30
    /// Chunk and operations in flight that are tried; the first is what a tier's worker does.
    static let shapes = [(Sizes.chunkBytes, 16), (Sizes.chunkBytes, 4), (Sizes.chunkBytes, 1), (4 << 20, 8), (1 << 20, 32), (1 << 20, 8)]
    static let bufferedBytes = 1 << 20, bufferBytes = 128 << 20
    /// One operation that takes longer is a filesystem that hangs.
    static let operationMilliseconds = 120_000
    /// memcpy's buffers: far beyond any cache.
    static let copyBytes = 256 << 20, copyPasses = 5
    /// Small files, as a commit publishes them.
    static let smallFileBytes = 4 << 10, smallFiles = 5...400, smallSeconds = 0.5
    /// The state's tensors, in rows, so that a Load can ask for a part of one.
    static let tensorBytes = 64 << 20, rowBytes = 1 << 20
    /// As the Python package restores: small leases from memory, larger ones from a tier.
    static let memoryLeases = (count: 3, bytes: 8 << 20), tierLeases = (count: 2, bytes: 64 << 20)
    /// Restores from the drive, each after its file left the page cache.
    static let tierRestores = 2
    static let callMilliseconds = 30_000, saveMilliseconds = 600_000, loadMilliseconds = 150_000
    static let daemonStartMilliseconds = 20_000, daemonStopMilliseconds = 5_000, poolFillMilliseconds = 120_000
    /// What is removed while its last file is still being made is tried again so often, so much later.
    static let removeTries = 20, removeAgainMilliseconds = 50
    /// Of a daemon's log, in an error.
    static let logBytes = 2_000
    static let procBytes = 64 << 10

    // What calls for advice.
    /// Records of a save that wait for each other: its file's name, its manifest, the decision, its copy in the folder, the folder's name.
    static let recordsInTurn = 5
    /// A way that is so much faster than another is better; less is noise.
    static let clearly = 1.25
    /// More than 1/smallPagesShare of the pool in small pages is worth a word.
    static let smallPagesShare = 4
    /// Below this share of the limit something else than the limit holds Cairn up.
    static let wellReached = 0.7
    /// Drives that may answer before the platter or flash has it (power-loss protection) take far less.
    static let slowSyncSeconds = 0.02
    /// Between the rounds; more is other load, or a drive's cache that filled.
    static let variation = 2.0
    /// One channel of DDR4 copies twice as fast.
    static let slowCopyBytesPerSecond = 4e9
    /// The pool is filled by some of them, and training has the others.
    static let fewCores = 4
    /// Steps that a tier should have room for: the newest, the one that is being written, and one to spare.
    static let stepsOfRoom = 3

    /// First call of the command, and a test.
    public static func verify() {
        precondition(tensorBytes.isMultiple(of: rowBytes) && memoryLeases.bytes.isMultiple(of: rowBytes) && tierLeases.bytes.isMultiple(of: rowBytes), "whole rows")
        precondition(leastStateBytes.isMultiple(of: rowBytes), "the state is whole rows")
        precondition(shapes.allSatisfy { $0.0 * $0.1 <= bufferBytes && $0.0.isMultiple(of: Sizes.alignment) }, "every shape fits the buffer")
        precondition(fileBytes >= bufferBytes, "each buffer is written once")
    }
}
