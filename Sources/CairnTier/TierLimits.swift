// Every limit of a tier worker, each with its reason.
import CairnIO

enum TierLimits {
    /// Threads that create, sync and publish files: each mostly waits for one fsync.
    static let fileThreads = 4
    /// Threads for records, lists, decisions and housekeeping.
    static let recordThreads = 4
    /// Threads that read chunks back for the other tier: one per slot that main assigns.
    static let readBackThreads = 4
    /// Loads at once; further ones wait. Each checks CRCs at memory speed, the read buffer is the bound.
    static let loadThreads = 4
    static let verifyThreads = 1
    /// Requests that wait for a thread; beyond it the worker stops reading and main's queue bounds the rest.
    static let queuedTasks = 65_536
    /// Operations that wait for the data engine; the engine of the main process sends far fewer.
    static let queuedOperations = 4096
    /// A load waits so long for a slot that the stager empties; then it fails.
    static let slotWaitMilliseconds = 120_000
    /// After `stop` or when main is gone: what is running may finish for so long.
    static let stopMilliseconds = 2_000
    /// A killed daemon's worker has this long to end before its folder counts as another daemon's.
    static let lockMilliseconds = 2_000
    /// A renamed-away folder is deleted after this long: somebody may still be reading in it.
    static let goneSeconds = 600
    /// Temporaries of records are short-lived; one that is older is a dead worker's.
    static let temporarySeconds = 600
    /// How often a working tier's paths are looked at: whether they still name its folders.
    static let lookMilliseconds = 1_000
    /// Blocks that nobody asked for are read along if the gap is not longer: cheaper than one more read.
    static let readGapBlocks = 2
    /// A load of more runs than boxes is read into its lease where there are at most so many more, one of some rows each: of columns, whose
    /// rows are in every block, copies take less room.
    static let directRuns = 1024
    /// Steps whose index and open files are kept.
    static let cachedSteps = 4
    /// Published files kept open for reading back.
    static let cachedFiles = 64
    /// Slots of a verify's own buffer: so many reads in flight.
    static let verifySlots = 4
    /// A verify tells its progress after so many bytes.
    static let progressBytes = 64 << 20
    /// Shared objects are compared in pieces of this size.
    static let pieceBytes = 1 << 20
    /// Threads that read the ranks' records of one commit: each waits for the filesystem's answers, not for a core.
    static let commitThreads = 8
    /// Of saves that lack ranks what is there is read ahead, for so long each time that the save is asked about, which is every 2 s at most.
    static let aheadMilliseconds = 2_000
    /// Saves of which what was read is kept, and how many bytes of each: 8,192 ranks of 400 tensors take 60 MiB, and a commit needs all at once anyway.
    static let aheadSaves = 2
    static let aheadBytes = 128 << 20
    /// Threads that read ahead, one save each.
    static let aheadThreads = 1
    /// Training goes first: the same parts are read in time by the commit, if nothing is idle before.
    static let aheadNiceness = 10
    /// Threads that delete what is below a folder that was renamed away long ago.
    static let removeThreads = 8
    /// A rank file's first read when only its header is wanted: layouts of a hundred tensors fit.
    static let headerGuessBytes = 16 << 10
    /// Lists of `have-NODE.json`, and records of `settled-K-NODE.json`, that are kept: those of the attempt that begins now, one for each node.
    static let cachedLists = 65_536
    /// Names tried when several daemons number an attempt at once.
    static let attemptTries = 1000
    /// Numbers that a tier beside gives lie up to so many above what it knows: two of them meet once in so many launches during an outage.
    static let numbersBeside = 65_536
    /// zstd's level: the fastest of the ordinary ones. On trained states level 3 takes longer and saves no more (Docs/compression.md).
    static let compressionLevel = 1
    /// Of the threads that compress: training goes first. Not more, or a busy node's chunks wait so long that the tier counts as stalled.
    static let compressionNiceness = 10
    /// With `auto`: a piece of so many bytes tells of its chunk, and so many pieces, of the chunks that wait then, of a rank's first file.
    static let sampleBytes = 128 << 10
    static let samplePieces = 16
    /// A write speed is not taken from fewer bytes.
    static let measuredBytes = 1 << 20
    /// From so many writes in flight on, what they reach is what the tier can do; of fewer it may be more.
    static let measuredDepth = 4.0
    /// Ranks, of all runs, whose last file's share is remembered: a few numbers each.
    static let rememberedShares = 4096
    /// Threads that read frames and decompress them, each with a frame's buffer; a restore waits for them, so they are not nice.
    static let frameThreads = 4
    /// Buffers of frames that nobody used for so long give their memory back: beyond the pool a daemon takes next to none.
    static let frameRestMilliseconds = 1_000
    /// A frame's first bytes are read in pieces of this size when only its beginning is wanted.
    static let framePieceBytes = 32 << 10
}
