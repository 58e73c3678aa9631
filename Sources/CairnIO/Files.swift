// Everything below an opened folder, by relative path.
// (1) No call leaves the folder or follows a symlink: openat2 with RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS; where that call is
//     refused (old kernels, seccomp), one component at a time with O_NOFOLLOW.
// (2) A name's own operation (link, rename, unlink, stat) runs on the descriptor of its parent folder.
// (3) What meets ESTALE on its way from a name to bytes or names is tried again: another mount renamed the folder.
import CLinux
import Glibc

public enum Files {
    /// The one open by absolute path: a tier's folder, named by the configuration; its symlinks are the operator's.
    public static func openRoot(_ path: String) throws(IOFailure) -> Descriptor {
        Descriptor(owning: try syscall("open", path) { unsafe cairn_open_root(path) })
    }

    public static func open(_ base: Descriptor, _ path: String, flags: OpenFlags,
                            mode: UInt32 = 0o640) throws(IOFailure) -> Descriptor {
        try retryingStale { () throws(IOFailure) in try openOnce(base, path, flags: flags, mode: mode, byComponent: false) }
    }

    /// (3) From the name on, since what it led to is gone.
    static func retryingStale<Result>(_ body: () throws(IOFailure) -> Result) throws(IOFailure) -> Result {
        var tries = 0
        while true {
            do { return try body() } catch {
                tries += 1
                guard error.isStale, tries < IOLimits.staleRetries else { throw error }
            }
        }
    }

    public static func openFolder(_ base: Descriptor, _ path: String) throws(IOFailure) -> Descriptor {
        try open(base, path, flags: [.read, .folder])
    }

    /// `byComponent` is also how a test takes the way of kernels without openat2.
    static func openOnce(_ base: Descriptor, _ path: String, flags: OpenFlags, mode: UInt32,
                         byComponent: Bool) throws(IOFailure) -> Descriptor {
        let path = path.isEmpty ? "." : path
        guard !path.utf8.contains(0) else { throw IOFailure(operation: "open", errno: EINVAL, path: path) }
        if !byComponent {
            do {
                return Descriptor(owning: try syscall("open", path) { unsafe cairn_open_beneath(base.raw, path, flags.rawValue, mode) })
            } catch {
                // EAGAIN: a rename raced with the walk, which the kernel then cannot prove to be beneath.
                guard [ENOSYS, EPERM, EAGAIN].contains(error.errno) else { throw error }
            }
        }
        let names = path.split(separator: "/").map(String.init)
        guard !path.hasPrefix("/"), !names.contains("..") else { throw IOFailure(operation: "open", errno: EXDEV, path: path) }
        var folder = base
        for name in names.dropLast() {
            folder = Descriptor(owning: try syscall("open", path) {
                unsafe cairn_open_component(folder.raw, name, OpenFlags([.read, .folder]).rawValue, 0)
            })
        }
        return Descriptor(owning: try syscall("open", path) {
            unsafe cairn_open_component(folder.raw, names.last ?? ".", flags.rawValue, mode)
        })
    }

    /// Calls with the parent's descriptor and the last name; "." is the base itself.
    private static func onName(_ operation: String, _ base: Descriptor, _ path: String,
                               _ body: (CInt, String) -> CInt) throws(IOFailure) {
        let (parent, name) = try parent(operation, base, path)
        try syscall(operation, path) { body(parent.raw, name) }
    }

    private static func parent(_ operation: String, _ base: Descriptor, _ path: String) throws(IOFailure) -> (Descriptor, String) {
        guard let name = path.split(separator: "/").last.map(String.init), name != "..", name != ".", !path.hasPrefix("/"),
              !path.utf8.contains(0) else { throw IOFailure(operation: operation, errno: EINVAL, path: path) }
        guard let slash = path.lastIndex(of: "/"), path.count > name.count else { return (base, name) }
        return (try openFolder(base, String(path[..<slash])), name)
    }

    /// False when something of this name stood there already.
    @discardableResult
    public static func makeFolder(_ base: Descriptor, _ path: String, mode: UInt32 = 0o750) throws(IOFailure) -> Bool {
        do { try onName("make folder", base, path) { unsafe mkdirat($0, $1, mode) } } catch {
            if error.exists { return false }
            throw error
        }
        return true
    }

    /// Each missing folder of the path. Each parent in which one was made is synced.
    public static func makeFolders(_ base: Descriptor, _ path: String, mode: UInt32 = 0o750) throws(IOFailure) {
        var made = ""
        for name in path.split(separator: "/") {
            let parent = made
            made = made.isEmpty ? String(name) : made + "/" + name
            if try makeFolder(base, made, mode: mode) { try syncFolder(base, parent) }
        }
    }

    /// Publishes: fails with EEXIST when the new name is taken, and never follows or replaces what stands there.
    public static func link(_ base: Descriptor, from: String, to: String) throws(IOFailure) {
        let (source, old) = try parent("link", base, from)
        try onName("link", base, to) { unsafe linkat(source.raw, old, $0, $1, 0) }
    }

    /// Plain renameat: for folders, whose non-empty target refuses with ENOTEMPTY.
    public static func rename(_ base: Descriptor, from: String, to: String) throws(IOFailure) {
        let (source, old) = try parent("rename", base, from)
        try onName("rename", base, to) { unsafe renameat(source.raw, old, $0, $1) }
    }

    public static func unlink(_ base: Descriptor, _ path: String) throws(IOFailure) {
        try onName("unlink", base, path) { unsafe unlinkat($0, $1, 0) }
    }

    /// An empty folder.
    public static func removeFolder(_ base: Descriptor, _ path: String) throws(IOFailure) {
        try onName("remove folder", base, path) { unsafe unlinkat($0, $1, AT_REMOVEDIR) }
    }

    public static func stat(_ base: Descriptor, _ path: String) throws(IOFailure) -> FileStatus {
        var found = cairn_file_status()
        if path.isEmpty || path == "." {
            try syscall("stat", path) { unsafe cairn_status(base.raw, nil, &found) }
        } else {
            try onName("stat", base, path) { unsafe cairn_status($0, $1, &found) }
        }
        return FileStatus(found)
    }

    public static func stat(_ file: Descriptor) throws(IOFailure) -> FileStatus {
        try stat(file, "")
    }

    /// Nil when there is no such name.
    public static func statIfPresent(_ base: Descriptor, _ path: String) throws(IOFailure) -> FileStatus? {
        do { return try stat(base, path) } catch {
            if error.isMissing { return nil }
            throw error
        }
    }
}

extension FileStatus {
    init(_ found: cairn_file_status) {
        let kind = found.mode & UInt32(S_IFMT)
        self.init(bytes: Int(found.bytes), isFolder: kind == UInt32(S_IFDIR), isRegular: kind == UInt32(S_IFREG),
                  isSocket: kind == UInt32(S_IFSOCK), permissions: found.mode & 0o7777, uid: found.uid,
                  links: Int(found.links), modifiedSeconds: Int(found.modified_seconds), device: found.device, inode: found.inode)
    }
}
