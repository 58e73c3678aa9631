// The file of a commit's rows: what each damage is called, and that a part of it proves itself.
import CairnIO
import CairnModel
import Testing
@testable import CairnStore

private struct Rows {
    let commit: Commit, rows: [ManifestRow], bytes: [UInt8]
    var headBytes: Int { ManifestRows.headBytes(rows: rows.count) }

    init(_ count: Int, worldSize: Int? = nil, alter: (inout [ManifestRow]) -> Void = { _ in }) {
        let stride = worldSize.map { $0 / count } ?? 1
        var rows = (0..<count).map { index in
            ManifestRow(rank: index * stride, fileBytes: 4096 + index, digest: Digests.full([UInt8(index & 255), 1]), contentDigest: Digests.full([UInt8(index & 255), 2]))
        }
        alter(&rows)
        self.rows = rows
        bytes = ManifestRows.encode(rows).bytes
        commit = Commit(sequence: CommitSequence(attempt: 17, count: 41), parent: nil, step: 1200, save: save(), worldSize: worldSize ?? count, rows: rows,
                        manifestsDigest: ManifestRows.encode(rows).digest, layoutFile: Names.layout(digest: String(repeating: "b", count: 32)), metadata: [:],
                        savedAt: "2026-01-02T03:04:05Z")
    }

    func failure(_ bytes: [UInt8], _ commit: Commit? = nil) -> ManifestRowsError? {
        do throws(ManifestRowsError) {
            _ = try ManifestRows.decode(bytes, of: commit ?? self.commit)
            return nil
        } catch { return error }
    }
}

@Test(arguments: [1, 2, 63, 64, 65, 128, 200]) func manifestRowsRoundTrip(_ count: Int) throws {
    for rows in [Rows(count), Rows(count, worldSize: 3 * count)] {
        #expect(rows.bytes.count == ManifestRows.fileBytes(rows: count) && rows.commit.problem() == nil)
        #expect(try ManifestRows.decode(rows.bytes, of: rows.commit) == rows.rows)
        #expect(rows.rows.allSatisfy { rows.commit.row(of: $0.rank) == rows.rows.firstIndex(of: $0) })
        #expect(rows.commit.row(of: -1) == nil && rows.commit.row(of: 3 * count) == nil && rows.commit.rankCount == count)
    }
    #expect(Rows(count).commit.participants == nil && Rows(count, worldSize: 3 * count).commit.row(of: 1) == nil)
}

/// Each field has its own name when it is wrong. Of the rows those at the ends of blocks stand for all.
@Test func everyFlippedByteOfManifestRowsHasItsError() throws {
    let rows = Rows(130), ends = [0, 63, 64, 129].flatMap { row in (0..<80).map { rows.headBytes + row * 80 + $0 } }
    for index in Array(0..<rows.headBytes) + ends {
        var flipped = rows.bytes
        flipped[index] ^= 1
        let failure = rows.failure(flipped)
        switch index {
        case 0..<8: #expect(failure == .notOurs)
        case 8..<12: guard case .unknownVersion = failure else { Issue.record("byte \(index): \(String(describing: failure))"); return }
        case 12..<16: guard case .wrongRowBytes = failure else { Issue.record("byte \(index): \(String(describing: failure))"); return }
        case 16..<20: guard case .wrongBlockRows = failure else { Issue.record("byte \(index): \(String(describing: failure))"); return }
        case 20..<24: guard case .wrongCount(_, 130) = failure else { Issue.record("byte \(index): \(String(describing: failure))"); return }
        case 24..<rows.headBytes: #expect(failure == .headMismatch)
        default: #expect(failure == .blockMismatch(block: (index - rows.headBytes) / (64 * 80)))
        }
    }
}

@Test func manifestRowsOfAnotherSizeAreRefused() throws {
    let rows = Rows(70)
    for length in 0..<rows.bytes.count {
        #expect(rows.failure(Array(rows.bytes.prefix(length))) == .wrongSize(bytes: length, expected: rows.bytes.count))
    }
    #expect(rows.failure(rows.bytes + [0]) == .wrongSize(bytes: rows.bytes.count + 1, expected: rows.bytes.count))
    let head = Array(rows.bytes.prefix(rows.headBytes - 1))
    #expect(throws: ManifestRowsError.wrongSize(bytes: head.count, expected: rows.headBytes)) {
        try ManifestRows.Head(head, fileBytes: rows.bytes.count, of: rows.commit)
    }
}

/// Sound by themselves, and not what the commit means: another commit's, of other ranks, or with sizes that do not add up.
@Test func manifestRowsOfAnotherCommitAreRefused() throws {
    let rows = Rows(70), other = Rows(70) { $0[3].fileBytes += 1 }
    #expect(rows.failure(other.bytes) == .headMismatch)
    var lying = rows.commit
    lying.bytes += 1
    #expect(rows.failure(rows.bytes, lying) == .wrongSum(bytes: rows.commit.bytes, expected: lying.bytes))
    lying = Rows(70, worldSize: 140).commit
    lying.manifestsDigest = rows.commit.manifestsDigest
    #expect(rows.failure(rows.bytes, lying) == .wrongRank(row: 1, rank: 1, expected: 2))
}

/// Rows that their digests prove and that cannot be: whoever wrote them lied.
@Test(arguments: [(8, 5), (15, 0x80)]) func provenRowThatCannotBeIsRefused(_ byte: Int, _ bit: Int) throws {
    let rows = Rows(2)
    var bytes = rows.bytes, commit = rows.commit
    bytes[rows.headBytes + 80 + byte] |= UInt8(bit)
    if byte == 8 { bytes[rows.headBytes + 80 + 14] = 1 }        // beyond the largest file
    bytes.replaceSubrange(24..<56, with: Digest.sha256(Array(bytes[rows.headBytes...])))
    commit.manifestsDigest = Digests.full(Array(bytes.prefix(rows.headBytes)))
    guard case .badRow(row: 1, _)? = rows.failure(bytes, commit) else { Issue.record("\(String(describing: rows.failure(bytes, commit)))"); return }
}

@Test func blockProvesItsRowsWithoutTheOthers() throws {
    let rows = Rows(200)
    var bytes = rows.bytes
    for index in rows.headBytes..<bytes.count where (index - rows.headBytes) / (64 * 80) != 2 { bytes[index] = 0xEE }
    let head = try ManifestRows.Head(Array(bytes.prefix(rows.headBytes)), fileBytes: bytes.count, of: rows.commit)
    #expect(try head.decode(block: 2, Array(bytes[head.range(ofBlock: 2)]), of: rows.commit) == Array(rows.rows[128..<192]))
    #expect(throws: ManifestRowsError.blockMismatch(block: 3)) { try head.decode(block: 3, Array(bytes[head.range(ofBlock: 3)]), of: rows.commit) }
    #expect(throws: ManifestRowsError.self) { try head.decode(block: 2, Array(bytes[head.range(ofBlock: 3)]), of: rows.commit) }
}

@Test func copyOfADecisionKeepsOnlyRowsOfItsCommit() throws {
    let record = DecisionRecord(run: testRun, save: save(), .commit(commit()))
    let copy = DecisionCopy(record, rows: [manifestRow(rank: 1)])
    let read = try Record.decode(DecisionCopy.self, from: Record.encode(copy))
    #expect(read == copy && read.row(of: 1) == manifestRow(rank: 1) && read.row(of: 0) == nil)
    for rows in [[manifestRow(rank: 2, worldSize: 3)], [manifestRow(rank: 1), manifestRow(rank: 0)], [manifestRow(rank: 1), manifestRow(rank: 1)]] {
        #expect(DecisionCopy(record, rows: rows).problem() != nil)
    }
    #expect(DecisionCopy(DecisionRecord(run: testRun, save: save(), .void(reason: "x")), rows: [manifestRow(rank: 0)]).problem() != nil)
}
