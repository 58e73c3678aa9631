// `manifests-DIGEST.bin`: the rows of a commit, one for each rank's manifest, beside the commit and not in it: every node reads the commit
// for each save, and needs of the rows those of its own ranks.
//
//   0    8 bytes "CAIRNROW"
//   8    u32 LE version, 1
//   12   u32 LE bytes of a row, 80
//   16   u32 LE rows of a block, 64; the last block may have fewer
//   20   u32 LE rows
//   24   SHA-256 of each block's rows, 32 bytes
//        the head ends here: the commit names its SHA-256, and DIGEST is the first 128 bits of that
//   rows u64 LE rank, u64 LE bytes of its file, 32 bytes the digest of its manifest, 32 bytes the digest of its content
//
// (1) A row is believed only after the head it is in by its block's digest, and the head only by the commit's: a reader of a few rows
//     reads the head and their blocks.
// (2) The rows are those of the commit's ranks, ascending: where a rank's row lies follows from the commit.
// (3) Equal rows have equal bytes, so whoever commits the same manifests writes the same file, and others have another name.
import CairnIO
import CairnModel

/// One rank's manifest as a commit names it.
public struct ManifestRow: Codable, Hashable, Sendable {
    public var rank: Int
    public var fileBytes: Int
    /// The record's whole digest.
    public var digest: String
    public var contentDigest: String
    public init(rank: Int, fileBytes: Int, digest: String, contentDigest: String) {
        self.rank = rank; self.fileBytes = fileBytes; self.digest = digest; self.contentDigest = contentDigest
    }

    /// Of the manifest's file in the step's folder.
    public var name: String { Names.manifest(rank: rank, digest: String(digest.prefix(StoreLimits.nameDigestDigits))) }

    func problem() -> String? {
        if !(0..<StoreLimits.worldSize).contains(rank) { return "rank \(rank)" }
        if !(0...StoreLimits.fileBytes).contains(fileBytes) { return "rank \(rank): a file of \(fileBytes) bytes" }
        if !Digests.isFull(digest) || !Digests.isFull(contentDigest) { return "rank \(rank): a digest is not one" }
        return nil
    }
}

public enum ManifestRowsError: Error, Sendable, Equatable, CustomStringConvertible {
    case wrongSize(bytes: Int, expected: Int)
    case notOurs
    case unknownVersion(Int)
    case wrongRowBytes(Int)
    case wrongBlockRows(Int)
    case wrongCount(rows: Int, expected: Int)
    /// It is not the head that the commit names.
    case headMismatch
    /// A block's rows are not those of the head.
    case blockMismatch(block: Int)
    /// Proven rows that cannot be: their writer lied.
    case wrongRank(row: Int, rank: Int, expected: Int)
    case badRow(row: Int, reason: String)
    case wrongSum(bytes: Int, expected: Int)

    public var description: String {
        switch self {
        case .wrongSize(let bytes, let expected): "the manifests' rows take \(bytes) bytes, not \(expected)"
        case .notOurs: "not a file of manifests' rows"
        case .unknownVersion(let version): "manifests' rows of version \(version), known is 1"
        case .wrongRowBytes(let bytes): "rows of \(bytes) bytes, not \(ManifestRows.rowBytes)"
        case .wrongBlockRows(let rows): "blocks of \(rows) rows, not \(ManifestRows.blockRows)"
        case .wrongCount(let rows, let expected): "\(rows) rows, not \(expected)"
        case .headMismatch: "the head of the manifests' rows is not the one that the commit names"
        case .blockMismatch(let block): "block \(block) of the manifests' rows is not what its digest says"
        case .wrongRank(let row, let rank, let expected): "row \(row) is of rank \(rank), not \(expected)"
        case .badRow(let row, let reason): "row \(row): \(reason)"
        case .wrongSum(let bytes, let expected): "the ranks' files have \(bytes) bytes, not \(expected) as the commit says"
        }
    }
}

public enum ManifestRows {
    static let rowBytes = 80
    public static let blockRows = 64
    private static let magic = Array("CAIRNROW".utf8)
    private static let version = 1, fixedBytes = 24, digestBytes = 32

    static func blocks(ofRows rows: Int) -> Int { (rows + blockRows - 1) / blockRows }
    /// Where the rows begin: how much of the file a reader takes first.
    public static func headBytes(rows: Int) -> Int { fixedBytes + blocks(ofRows: rows) * digestBytes }
    public static func fileBytes(rows: Int) -> Int { headBytes(rows: rows) + rows * rowBytes }
    public static func block(ofRow row: Int) -> Int { row / blockRows }

    /// Rows ascending by rank. `digest`: the head's, for the commit.
    public static func encode(_ rows: [ManifestRow]) -> (bytes: [UInt8], digest: String) {
        precondition(!rows.isEmpty && zip(rows, rows.dropFirst()).allSatisfy { $0.rank < $1.rank }, "rows are ascending by rank")
        var body: [UInt8] = []
        body.reserveCapacity(rows.count * rowBytes)
        for row in rows {
            if let problem = row.problem() { preconditionFailure("a row that lies must not be written: \(problem)") }
            append(row.rank, bytes: 8, to: &body)
            append(row.fileBytes, bytes: 8, to: &body)
            body += bytes(ofHex: row.digest) + bytes(ofHex: row.contentDigest)
        }
        var head = magic
        head.reserveCapacity(fileBytes(rows: rows.count))
        for field in [version, rowBytes, blockRows, rows.count] { append(field, bytes: 4, to: &head) }
        for begin in stride(from: 0, to: body.count, by: blockRows * rowBytes) {
            head += Digest.sha256(Array(body[begin..<min(begin + blockRows * rowBytes, body.count)]))
        }
        let digest = Digests.full(head)
        return (head + body, digest)
    }

    /// The head, proven by the digest that the commit names.
    public struct Head: Sendable {
        public let rows: Int
        private let digests: [UInt8]

        /// `bytes`: `headBytes` of the file; `fileBytes`: the whole file's size.
        public init(_ bytes: [UInt8], fileBytes: Int, of commit: Commit) throws(ManifestRowsError) {
            let rows = commit.rankCount, expected = ManifestRows.fileBytes(rows: rows)
            guard fileBytes == expected else { throw .wrongSize(bytes: fileBytes, expected: expected) }
            guard bytes.count == headBytes(rows: rows) else { throw .wrongSize(bytes: bytes.count, expected: headBytes(rows: rows)) }
            guard bytes.starts(with: magic) else { throw .notOurs }
            let fields = (0..<4).map { ManifestRows.number(bytes, at: 8 + 4 * $0, bytes: 4) }
            guard fields[0] == version else { throw .unknownVersion(fields[0]) }
            guard fields[1] == rowBytes else { throw .wrongRowBytes(fields[1]) }
            guard fields[2] == blockRows else { throw .wrongBlockRows(fields[2]) }
            guard fields[3] == rows else { throw .wrongCount(rows: fields[3], expected: rows) }
            guard Digests.full(bytes) == commit.manifestsDigest else { throw .headMismatch }
            self.rows = rows
            digests = Array(bytes[fixedBytes...])
        }

        /// Where a block's rows are in the file.
        public func range(ofBlock block: Int) -> Range<Int> {
            let begin = headBytes(rows: rows) + block * blockRows * rowBytes
            return begin..<begin + min(blockRows, rows - block * blockRows) * rowBytes
        }

        /// A block's rows from its bytes, proven by the head.
        public func decode(block: Int, _ bytes: [UInt8], of commit: Commit) throws(ManifestRowsError) -> [ManifestRow] {
            guard bytes.count == range(ofBlock: block).count else { throw .wrongSize(bytes: bytes.count, expected: range(ofBlock: block).count) }
            guard Digest.sha256(bytes)[...] == digests[block * digestBytes..<(block + 1) * digestBytes] else { throw .blockMismatch(block: block) }
            var found: [ManifestRow] = []
            for begin in stride(from: 0, to: bytes.count, by: rowBytes) {
                let position = block * blockRows + found.count, expected = commit.rank(at: position)
                let row = ManifestRow(rank: ManifestRows.number(bytes, at: begin, bytes: 8), fileBytes: ManifestRows.number(bytes, at: begin + 8, bytes: 8),
                                      digest: Digest.hex(Array(bytes[begin + 16..<begin + 48])), contentDigest: Digest.hex(Array(bytes[begin + 48..<begin + 80])))
                guard row.rank == expected else { throw .wrongRank(row: position, rank: row.rank, expected: expected) }
                if let problem = row.problem() { throw .badRow(row: position, reason: problem) }
                found.append(row)
            }
            return found
        }
    }

    /// A whole file, which also must add up to what the commit says.
    public static func decode(_ bytes: [UInt8], of commit: Commit) throws(ManifestRowsError) -> [ManifestRow] {
        let headBytes = headBytes(rows: commit.rankCount)
        let head = try Head(Array(bytes.prefix(headBytes)), fileBytes: bytes.count, of: commit)
        var rows: [ManifestRow] = []
        rows.reserveCapacity(head.rows)
        for block in 0..<blocks(ofRows: head.rows) { rows += try head.decode(block: block, Array(bytes[head.range(ofBlock: block)]), of: commit) }
        // Each is below 2^45, and so is no sum of a million of them beyond 64 bits.
        let sum = rows.reduce(UInt(0)) { $0 + UInt($1.fileBytes) }
        guard sum == UInt(commit.bytes) else { throw .wrongSum(bytes: Int(clamping: sum), expected: commit.bytes) }
        return rows
    }

    private static func append(_ number: Int, bytes count: Int, to bytes: inout [UInt8]) {
        for byte in 0..<count { bytes.append(UInt8(truncatingIfNeeded: number >> (8 * byte))) }
    }

    /// 63 bits; what is larger becomes negative, and so no rank or size.
    private static func number(_ bytes: [UInt8], at offset: Int, bytes count: Int) -> Int {
        Int(bitPattern: (0..<count).reduce(UInt(0)) { $0 | UInt(bytes[offset + $1]) << UInt(8 * $1) })
    }

    /// Of a full digest, which `problem` checked to be hex.
    private static func bytes(ofHex text: String) -> [UInt8] {
        func value(_ digit: UInt8) -> UInt8 { digit < UInt8(ascii: "a") ? digit - UInt8(ascii: "0") : digit - UInt8(ascii: "a") + 10 }
        let digits = Array(text.utf8)
        return stride(from: 0, to: digits.count, by: 2).map { value(digits[$0]) << 4 | value(digits[$0 + 1]) }
    }
}
