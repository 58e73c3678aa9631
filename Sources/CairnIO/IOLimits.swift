// Every limit of this module, each with its reason.

public enum IOLimits {
    /// One frame between the main process and a worker: room for the table of a layout with a million shards.
    public static let frameBytes = 256 << 20
    /// Bytes that may wait in one frame queue: two largest frames; enqueue refuses beyond it.
    public static let queuedFrameBytes = 512 << 20
    /// Bytes that one call of `FrameQueue.readable` takes, so that one worker cannot hold the loop.
    public static let frameReadBytes = 8 << 20
    /// Descriptors in one message: the kernel's own limit (SCM_MAX_FD); the control buffer in CLinux has this size. A worker gets the pool's in one.
    public static let messageDescriptors = 253
    /// Descriptors that a client may attach to one message to the stager.
    public static let clientDescriptors = 16
    /// Pieces in one process_vm_readv: UIO_MAXIOV.
    public static let gatheredPieces = 1024
    /// One entry of a folder is about 100 bytes here: a folder with more names is refused, not read.
    public static let folderEntries = 2_000_000
    /// Depth to which `removeTree` goes: Cairn's own trees have four levels.
    public static let treeDepth = 16
    /// One piece of a file that is copied by hand.
    public static let copyBytes = 4 << 20
    /// Opens that are tried again after ESTALE (another mount renamed the folder).
    public static let staleRetries = 5
    /// Alignment for O_DIRECT where the filesystem does not say: the largest logical block that we expect.
    public static let directAlignment = 4096
    /// The kernel's huge page with base pages of 4 KiB. Where it is another, none are had.
    public static let hugePageBytes = 2 << 20
    /// Bytes of one `crc32c` call of ISA-L, whose length is an int.
    public static let checksumBytes = 1 << 30

    /// First call of the programs, and a test: Swift has no static assertion.
    public static func verify() {
        precondition(queuedFrameBytes >= 2 * frameBytes, "a queue holds at least two frames")
        precondition(frameBytes < Int(UInt32.max), "a frame's length is a u32")
        precondition(clientDescriptors <= messageDescriptors, "a client's descriptors fit one message")
        precondition(checksumBytes <= Int(Int32.max), "ISA-L's length is an int")
    }
    /// Descriptors in one notice to the service manager (the kernel takes 253), and how long a full queue of its is waited for.
    static let storedPerNotice = 200
    static let storeMilliseconds = 2_000
    /// Handed over at start: two sockets, the pool's segments (1 GiB each), their index.
    static let listenDescriptors: Int32 = 16_384
}
