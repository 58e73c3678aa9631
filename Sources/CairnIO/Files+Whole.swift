// Whole small files, whole folders, and what is durable.
import CLinux
import Glibc

extension Files {
    /// The names in a folder, sorted. Names that are not UTF-8 are none of ours and left out.
    public static func list(_ base: Descriptor, _ path: String,
                            limit: Int = IOLimits.folderEntries) throws(IOFailure) -> [DirectoryEntry] {
        try retryingStale { () throws(IOFailure) in try listOnce(base, path, limit: limit) }
    }

    private static func listOnce(_ base: Descriptor, _ path: String, limit: Int) throws(IOFailure) -> [DirectoryEntry] {
        let folder = try openFolder(base, path)
        let raw = try syscall("list", path) { cairn_duplicate(folder.raw) }     // fdopendir takes the descriptor over
        guard let stream = unsafe fdopendir(raw) else {
            let code = errno
            _ = Glibc.close(raw)
            throw IOFailure(operation: "list", errno: code, path: path)
        }
        defer { unsafe closedir(stream) }
        var entries: [DirectoryEntry] = []
        while true {
            errno = 0
            guard let entry = unsafe readdir(stream) else {
                let code = errno
                if code != 0 { throw IOFailure(operation: "list", errno: code, path: path) }
                break
            }
            let text = unsafe withUnsafePointer(to: &entry.pointee.d_name) {
                unsafe $0.withMemoryRebound(to: CChar.self, capacity: 256) { unsafe String(validatingCString: $0) }
            }
            guard let name = text, name != ".", name != ".." else { continue }
            guard entries.count < limit else { throw IOFailure(operation: "list", errno: EOVERFLOW, path: path) }
            let kind = unsafe Int(entry.pointee.d_type)
            var isFolder = kind == Int(DT_DIR)
            if kind == Int(DT_UNKNOWN) { isFolder = try statIfPresent(folder, name)?.isFolder ?? false }
            entries.append(DirectoryEntry(name: name, isFolder: isFolder))
        }
        return entries.sorted { $0.name < $1.name }
    }

    /// A folder and all below it, or one file; a symlink is removed, never followed. Missing is fine.
    public static func removeTree(_ base: Descriptor, _ path: String) throws(IOFailure) {
        try removeTree(base, path, depth: IOLimits.treeDepth)
    }

    private static func removeTree(_ base: Descriptor, _ path: String, depth: Int) throws(IOFailure) {
        guard let found = try statIfPresent(base, path) else { return }
        guard found.isFolder else { return try ignoringMissing { () throws(IOFailure) in try unlink(base, path) } }
        guard depth > 0 else { throw IOFailure(operation: "remove tree", errno: ELOOP, path: path) }
        let folder: Descriptor
        do { folder = try openFolder(base, path) } catch {
            if error.isMissing { return }
            throw error
        }
        for entry in try list(folder, ".") {
            if entry.isFolder {
                try removeTree(folder, entry.name, depth: depth - 1)
            } else {
                try ignoringMissing { () throws(IOFailure) in try unlink(folder, entry.name) }
            }
        }
        try ignoringMissing { () throws(IOFailure) in try removeFolder(base, path) }
    }

    /// Two workers may delete the same tree.
    private static func ignoringMissing(_ body: () throws(IOFailure) -> Void) throws(IOFailure) {
        do { try body() } catch {
            if !error.isMissing { throw error }
        }
    }

    /// A whole small file; larger than `limit` fails with `isTooLarge`, before or after it is read.
    public static func readAll(_ base: Descriptor, _ path: String, limit: Int) throws(IOFailure) -> [UInt8] {
        try retryingStale { () throws(IOFailure) in try readAllOnce(base, path, limit: limit) }
    }

    private static func readAllOnce(_ base: Descriptor, _ path: String, limit: Int) throws(IOFailure) -> [UInt8] {
        let file = try open(base, path, flags: .read)
        let size = try stat(file, "").bytes
        guard size <= limit else { throw IOFailure(operation: "read", errno: EOVERFLOW, path: path) }
        var bytes = [UInt8](repeating: 0, count: size + 1)      // one more: a file that grew is noticed
        var filled = 0
        while filled < bytes.count {
            let got = try syscall("read", path) {
                unsafe bytes.withUnsafeMutableBytes { unsafe pread(file.raw, $0.baseAddress! + filled, $0.count - filled, off_t(filled)) }
            }
            if got == 0 { break }
            filled += got
            if filled == bytes.count {
                guard filled <= limit else { throw IOFailure(operation: "read", errno: EOVERFLOW, path: path) }
                bytes.append(contentsOf: [UInt8](repeating: 0, count: min(filled, limit + 1 - filled)))
            }
        }
        bytes.removeLast(bytes.count - filled)
        return bytes
    }

    /// Makes a file that must not exist yet, writes all of it and syncs it. After an error the file is void.
    public static func writeNew(_ base: Descriptor, _ path: String, _ bytes: [UInt8], mode: UInt32 = 0o640) throws(IOFailure) {
        let file = try open(base, path, flags: [.write, .create, .exclusive], mode: mode)
        var written = 0
        while written < bytes.count {
            written += try syscall("write", path) {
                unsafe bytes.withUnsafeBytes { unsafe pwrite(file.raw, $0.baseAddress! + written, $0.count - written, off_t(written)) }
            }
        }
        try sync(file, path)
    }

    /// Never called twice for the same bytes: an fsync that failed once may succeed the second time and mean nothing.
    public static func sync(_ file: Descriptor, _ path: String = "") throws(IOFailure) {
        try syscall("fsync", path) { fsync(file.raw) }
    }

    public static func syncData(_ file: Descriptor, _ path: String = "") throws(IOFailure) {
        try syscall("fdatasync", path) { fdatasync(file.raw) }
    }

    /// Of a synced file: what is read next comes from its drive.
    public static func dropCache(_ file: Descriptor) throws(IOFailure) {
        // It gives the error itself, not by errno.
        let code = posix_fadvise(file.raw, 0, 0, POSIX_FADV_DONTNEED)
        guard code == 0 else { throw IOFailure(operation: "drop cache", errno: code) }
    }

    /// Once XFS has shut down, as after an error of its drive, it answers fsync of a folder with success though the folder's new
    /// names are lost (a file's fsync fails). Its stat fails from that moment on: only one that comes after the fsync makes it true.
    public static func syncFolder(_ base: Descriptor, _ path: String) throws(IOFailure) {
        let folder = try openFolder(base, path)
        try sync(folder, path)
        do { _ = try stat(folder) } catch { throw IOFailure(operation: "fsync, then stat", errno: error.errno, path: path) }
    }

    /// Room for a file's first `bytes`; false where the filesystem cannot promise it.
    @discardableResult
    public static func allocate(_ file: Descriptor, bytes: Int) throws(IOFailure) -> Bool {
        guard bytes > 0 else { return true }
        do { try syscall("allocate") { cairn_allocate(file.raw, 0, Int64(bytes)) } } catch {
            if [EOPNOTSUPP, ENOSYS, EINVAL].contains(error.errno) { return false }
            throw error
        }
        return true
    }

    public static func truncate(_ file: Descriptor, bytes: Int) throws(IOFailure) {
        try syscall("truncate") { ftruncate(file.raw, off_t(bytes)) }
    }

    public static func setPermissions(_ file: Descriptor, mode: UInt32) throws(IOFailure) {
        try syscall("set mode") { fchmod(file.raw, mode) }
    }

    public static func setGroup(_ file: Descriptor, gid: UInt32) throws(IOFailure) {
        try syscall("set group") { fchown(file.raw, uid_t.max, gid) }
    }

    public static func space(_ file: Descriptor) throws(IOFailure) -> Space {
        var found = cairn_file_space()
        try syscall("space") { unsafe cairn_space(file.raw, &found) }
        return Space(totalBytes: Int(clamping: found.total_bytes), freeBytes: Int(clamping: found.free_bytes),
                     filesystemType: Int(found.type))
    }

    /// Whether two descriptors are of one folder, through one mount: a filesystem that was mounted again is another one.
    public static func isSameFolder(_ one: Descriptor, _ other: Descriptor) throws(IOFailure) -> Bool {
        let (left, right) = (try stat(one), try stat(other))
        return left.device == right.device && left.inode == right.inode && cairn_mount_id(one.raw) == cairn_mount_id(other.raw)
    }

    /// An exclusive flock, held until the descriptor and its duplicates are closed. Where a filesystem has no locks (Lustre with
    /// `noflock`, NFS without a lock manager) everybody gets it: it guards leavings and mistakes, nothing that could be lost.
    public static func tryLock(_ file: Descriptor) throws(IOFailure) -> Bool {
        do { try syscall("lock") { cairn_try_lock(file.raw) } } catch {
            if error.errno == EWOULDBLOCK { return false }
            guard [ENOSYS, EOPNOTSUPP, ENOLCK].contains(error.errno) else { throw error }
        }
        return true
    }

    /// What O_DIRECT asks of addresses, offsets and lengths; 0 where the filesystem says that it refuses O_DIRECT.
    public static func directAlignment(_ file: Descriptor) -> Int {
        let said = cairn_direct_alignment(file.raw)
        return said < 0 ? IOLimits.directAlignment : Int(said)
    }
}
