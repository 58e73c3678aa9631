// The rows of a commit as they are read: the file and its proven head, then the blocks that somebody's rank is in, each once.
import CairnIO
import CairnMessages
import CairnModel
import CairnStore

final class StepRows: Sendable {
    private let commit: Commit
    private let file: Descriptor
    private let path: String
    private let head: ManifestRows.Head
    private let blocks = Monitor<[Int: [ManifestRow]]>([:])

    /// `folder`: the step's or the save's, below the root.
    init(_ root: TierRoot, folder: String, _ commit: Commit) throws {
        let name = "\(folder)/\(commit.manifestsFile)", headBytes = ManifestRows.headBytes(rows: commit.rankCount)
        self.commit = commit
        path = root.absolute(name)
        let (file, bytes, read) = try root.reading(name) { () throws(IOFailure) in
            let file = try Files.open(root.folder, name, flags: .read), bytes = try Files.stat(file).bytes
            return (file, bytes, try PositionedIO.read(file, bytes: min(bytes, headBytes), fileOffset: 0, path: name))
        }
        self.file = file
        do { head = try ManifestRows.Head(read, fileBytes: bytes, of: commit) } catch { throw TierFailure.corrupt(path, error) }
    }

    /// Nil: the rank does not take part.
    func row(of rank: Int) throws -> ManifestRow? {
        guard let position = commit.row(of: rank) else { return nil }
        let block = ManifestRows.block(ofRow: position)
        let rows = try blocks.withLock { $0[block] } ?? read(block)
        return rows[position - block * ManifestRows.blockRows]
    }

    private func read(_ block: Int) throws -> [ManifestRow] {
        let range = head.range(ofBlock: block)
        let bytes = try PositionedIO.read(file, bytes: range.count, fileOffset: range.lowerBound, path: path)
        let rows: [ManifestRow]
        do { rows = try head.decode(block: block, bytes, of: commit) } catch { throw TierFailure.corrupt(path, error) }
        blocks.withLock { $0[block] = rows }
        return rows
    }

    /// Those of all ranks, in their order, in one read.
    static func all(_ root: TierRoot, folder: String, _ commit: Commit) throws -> [ManifestRow] {
        let name = "\(folder)/\(commit.manifestsFile)"
        let bytes = try root.readFile(name, limit: StoreLimits.manifestRowsBytes)
        do { return try ManifestRows.decode(bytes, of: commit) } catch { throw TierFailure.corrupt(root.absolute(name), error) }
    }
}
