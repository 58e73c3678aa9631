// A tier's opened folders, and how anything is published below them.
//   <tier>/<uid>/<run>/…   names: CairnStore's Names
// (1) A record is written under a temporary name of this worker, synced, then linked to its name: `link` fails if that is
//     taken, and what stands there is read back. After any unclear error the name is looked at, never assumed.
// (2) The folder is synced before a name in it is reported, also when somebody else made it.
import CairnIO
import CairnMessages
import CairnModel
import CairnStore

struct TierRoot: Sendable {
    let path: String
    let folder: Descriptor
    /// Data files are opened with O_DIRECT.
    let direct: Bool

    func absolute(_ path: String) -> String { "\(self.path)/\(path)" }

    /// Runs a read of a published file. What is too large, no file at all or not for this daemon to read is damage to that file, not to the tier.
    func reading<Result>(_ path: String, _ body: () throws(IOFailure) -> Result) throws -> Result {
        do { return try body() } catch {
            guard error.isTooLarge || error.isOfThisFile else { throw error }
            throw TierFailure.corrupt(absolute(path), error)
        }
    }

    func readFile(_ path: String, limit: Int) throws -> [UInt8] {
        try reading(path) { () throws(IOFailure) in try Files.readAll(folder, path, limit: limit) }
    }
}

final class TierFolders: Sendable {
    enum Published: Equatable {
        case linked
        /// The name was taken by this.
        case stood([UInt8])
    }

    let start: TierStart
    let roots: [TierRoot]
    let node: String
    /// Part of every temporary name.
    let maker: String
    private let gid: UInt32?
    private let folderMode: UInt32
    private let numbers = Monitor(0)

    /// Of several folders those that could not be opened.
    private let absent: [String]

    init(_ start: TierStart, roots: [TierRoot], absent: [String] = []) throws {
        precondition(!roots.isEmpty, "a tier has a folder")
        self.start = start
        self.roots = roots
        self.absent = absent
        node = Names.node(start.node)
        maker = "\(node).\(start.instance)"
        if let group = start.group {
            guard let found = ProcessFacts.gid(ofGroup: group) else {
                throw TierFailure(kind: .invalid, text: "files.group is '\(group)', which this system does not know")
            }
            gid = found
        } else {
            gid = nil
        }
        // Who may read files may enter their folders.
        folderMode = start.form == .beside ? 0o700 : 0o700 | (start.fileMode & 0o044) | (start.fileMode & 0o044) >> 2
    }

    /// Where records are: attempts and decisions, and all of a committing tier.
    var first: TierRoot { roots[0] }

    /// Why a new worker must open the tier's folders anew; nil: it need not. What this worker opened at its start is compared with what is there
    /// now: a mount that was made anew is another one, this worker's descriptors never lead to it, and while they are open a dead one cannot
    /// be unmounted. `writes`: also whether a file can be made.
    func absence(writes: Bool = true) -> TierFailure? {
        for root in roots {
            do throws(IOFailure) {
                guard try Files.isSameFolder(root.folder, try Files.openRoot(root.path)) else {
                    return TierFailure(kind: .unreachable, text: "another folder is at '\(root.path)' now", path: root.path)
                }
                if writes { try tryWriting(root.folder) }
            } catch {
                // A full one is still good to read from.
                if error.isNoSpace { continue }
                return TierFailure(kind: .unreachable, text: "'\(root.path)' cannot be used: \(error)", path: root.path)
            }
        }
        for path in absent {
            guard let folder = try? Files.openRoot(path), (try? tryWriting(folder)) != nil else { continue }
            return TierFailure(kind: .unreachable, text: "'\(path)' is there again", path: path)
        }
        return nil
    }

    private func tryWriting(_ folder: Descriptor) throws(IOFailure) {
        let name = temporary(for: "probe")
        defer { try? Files.unlink(folder, name) }
        try Files.writeNew(folder, name, [1], mode: 0o600)
    }

    func makeFolders(_ root: TierRoot, _ path: String) throws {
        if (try? Files.openFolder(root.folder, path)) != nil { return }
        var made = ""
        for name in path.split(separator: "/") {
            let parent = made
            made = made.isEmpty ? String(name) : "\(made)/\(name)"
            guard try Files.makeFolder(root.folder, made, mode: folderMode) else { continue }
            try setOwner(try Files.openFolder(root.folder, made), mode: folderMode)
            try Files.syncFolder(root.folder, parent)
        }
    }

    /// Mode and group of a new file or folder, whatever the umask.
    func setOwner(_ descriptor: Descriptor, mode: UInt32) throws {
        try Files.setPermissions(descriptor, mode: mode)
        if let gid { try Files.setGroup(descriptor, gid: gid) }
    }

    func temporary(for name: String) -> String {
        let number = numbers.withLock { number in
            number += 1
            return number
        }
        return Names.temporary(for: name, maker: maker, number: number)
    }

    func publish(_ root: TierRoot, _ folder: String, _ name: String, _ bytes: [UInt8], limit: Int = StoreLimits.recordBytes) throws -> Published {
        let own = temporary(for: name), temporary = "\(folder)/\(own)", path = "\(folder)/\(name)"
        // By its descriptor: another daemon may give the folder its last name meanwhile, and the temporary with it.
        let into = try Files.openFolder(root.folder, folder)
        try Files.writeNew(root.folder, temporary, bytes, mode: start.fileMode)
        defer { try? Files.unlink(into, own) }
        try setOwner(try Files.open(root.folder, temporary, flags: .read), mode: start.fileMode)
        return try link(root, folder, temporary: temporary, path: path) { try root.readFile(path, limit: limit) } equals: { $0 == bytes }
    }

    /// Links, and reads back whatever the answer was: a reply that got lost may have done its work.
    private func link(_ root: TierRoot, _ folder: String, temporary: String, path: String, standing: () throws -> [UInt8],
                      equals: ([UInt8]) -> Bool) throws -> Published {
        var failure: IOFailure?
        do { try Files.link(root.folder, from: temporary, to: path) } catch { failure = error }
        if let failure {
            if !failure.exists, try Files.statIfPresent(root.folder, path) == nil { throw failure }
            let bytes = try standing()
            try Files.syncFolder(root.folder, folder)
            return equals(bytes) ? .linked : .stood(bytes)
        }
        try Files.syncFolder(root.folder, folder)
        return .linked
    }

    /// The record that stands there now: this one, or that of whoever was first.
    func publishRecord<Value: RecordValue>(_ root: TierRoot, _ folder: String, _ name: String, _ record: Value) throws -> Value {
        switch try publish(root, folder, name, Record.encode(record)) {
        case .linked: record
        case .stood(let bytes): try decode(Value.self, bytes, root, "\(folder)/\(name)")
        }
    }

    /// A record that must be this one, whoever wrote it.
    func publishExactly(_ root: TierRoot, _ folder: String, _ name: String, _ bytes: [UInt8], limit: Int = StoreLimits.recordBytes) throws {
        guard try publish(root, folder, name, bytes, limit: limit) == .linked else {
            throw TierFailure(kind: .corrupt, text: "'\(root.absolute(folder))/\(name)' stands there with other bytes", path: "\(root.absolute(folder))/\(name)")
        }
    }

    func read<Value: RecordValue>(_ type: Value.Type, _ root: TierRoot, _ path: String) throws -> (value: Value, bytes: [UInt8]) {
        let bytes = try root.readFile(path, limit: StoreLimits.recordBytes)
        return (try decode(type, bytes, root, path), bytes)
    }

    /// What was read of a record's file.
    func decode<Value: RecordValue>(_ type: Value.Type, _ bytes: [UInt8], _ root: TierRoot, _ path: String) throws -> Value {
        do { return try Record.decode(type, from: bytes) } catch { throw TierFailure.corrupt(root.absolute(path), error) }
    }

    func readIfPresent<Value: RecordValue>(_ type: Value.Type, _ root: TierRoot, _ path: String) throws -> (value: Value, bytes: [UInt8])? {
        do { return try read(type, root, path) } catch let failure as IOFailure where failure.isMissing { return nil }
    }

    /// Nil also where it is damaged: for records of what happened, of which one that cannot be read tells nothing.
    func readIfSound<Value: RecordValue>(_ type: Value.Type, _ root: TierRoot, _ path: String) throws -> Value? {
        do { return try readIfPresent(type, root, path)?.value } catch let failure as TierFailure where failure.kind == .corrupt { return nil }
    }

    /// A folder's names; none if it is not there.
    func names(_ root: TierRoot, _ path: String) throws -> [DirectoryEntry] {
        do { return try Files.list(root.folder, path) } catch {
            if error.isMissing { return [] }
            throw error
        }
    }

    func unlinkIfPresent(_ root: TierRoot, _ path: String) throws {
        do { try Files.unlink(root.folder, path) } catch {
            if !error.isMissing { throw error }
        }
    }
}
