// Where everything of a step is, without a row for each shard of each rank. In a large job thousands of ranks hold the same tensors in the
// same shapes, and their boxes begin at even distances: such ranks are one run, written and kept as one table and a step. A world of
// 8,192 ranks that shards 400 tensors has 3.3 million boxes and a handful of runs; what fits no pattern is a run of one rank.
//
//   rank of a member = first + member * stride;  offsets of its box = those of the first rank + member * move
//
// (1) A run says exactly what the tables said that it was made from: `tables` gives them back.
import CairnModel

public struct RankRun: Hashable, Sendable {
    public var first: Int, stride: Int, count: Int
    /// Of the first rank. `fileOffset` counts from the first byte of data of whichever rank's file.
    public var shards: [StoredShard]
    /// By shard: how far its box moves from one rank of the run to the next; empty where it stays.
    public var moves: [[Int]]

    var dataBytes: Int { shards.last.map { $0.fileOffset + $0.bytes } ?? 0 }

    func rank(_ member: Int) -> Int { first + member * stride }

    func offsets(ofShard index: Int, _ member: Int) -> [Int]? {
        guard let begin = shards[index].shard.offsets, !moves[index].isEmpty else { return shards[index].shard.offsets }
        return begin.indices.map { begin[$0] + member * moves[index][$0] }
    }

    func shard(_ index: Int, _ member: Int, dataStart: Int) -> StoredShard {
        var stored = shards[index]
        stored.shard.offsets = offsets(ofShard: index, member)
        stored.fileOffset += dataStart
        return stored
    }
}

/// What is each rank's own: where the data of its file begins, and its objects.
public struct StoredFile: Hashable, Sendable {
    public var rank: Int, dataStart: Int, fileBytes: Int
    public var objects: [StoredObject]
}

public struct StoredLayout: Hashable, Sendable {
    public var worldSize: Int
    /// Each rank of `files` is in exactly one of them.
    public var runs: [RankRun]
    /// Ascending by rank.
    public var files: [StoredFile]

    init(worldSize: Int, runs: [RankRun], files: [StoredFile]) {
        self.worldSize = worldSize
        self.runs = runs
        self.files = files
    }

    /// Tables ascending by rank.
    public init(worldSize: Int, tables: [RankTable]) {
        let kinds = ShardKinds()
        self.init(worldSize: worldSize, placed: tables.map(kinds.place))
    }

    /// Ascending by rank, all placed by the same `ShardKinds`.
    public init(worldSize: Int, placed tables: [PlacedTable]) {
        self.worldSize = worldSize
        files = tables.map { StoredFile(rank: $0.rank, dataStart: $0.dataStart, fileBytes: $0.fileBytes, objects: $0.objects) }
        runs = RankRuns.find(tables)
    }

    public var ranks: [Int] { files.map(\.rank) }

    /// Run and member of each rank.
    var members: [Int: (run: Int, member: Int)] {
        var members: [Int: (run: Int, member: Int)] = [:]
        members.reserveCapacity(files.count)
        for (position, run) in runs.enumerated() { for member in 0..<run.count { members[run.rank(member)] = (position, member) } }
        return members
    }

    /// Every rank's table in full: as many shards as all ranks have.
    public var tables: [RankTable] { tables(nil) }

    /// Every rank's table, of these shards and objects only; nil: of all. `once`: of each tensor its first shard only; one of
    /// many ranks' own counts as one.
    public func tables(_ names: Set<String>?, once: Bool = false) -> [RankTable] {
        let members = members
        var seen: Set<String> = []
        let wanted = runs.map { run in
            run.shards.indices.filter { index in
                let shard = run.shards[index].shard
                return names?.contains(shard.name) ?? true && (!once || seen.insert("\(shard.isPrivate) \(shard.name)").inserted)
            }
        }
        return files.map { file in
            var table = RankTable(rank: file.rank, fileBytes: file.fileBytes, shards: [], objects: file.objects.filter { names?.contains($0.object.name) ?? true })
            if let (run, member) = members[file.rank], !once || member == 0 {
                table.shards = wanted[run].map { runs[run].shard($0, member, dataStart: file.dataStart) }
            }
            return table
        }
    }

    /// What is wrong with it, nil if nothing: every shard valid by the rules of a layout, back to back in its file, and objects behind
    /// them. Tiling is checked by the commit, not here.
    func problem() -> String? {
        guard (1...StoreLimits.worldSize).contains(worldSize) else { return "world size \(worldSize)" }
        var previous = -1, dataBytes: [Int: Int] = [:]
        for file in files {
            // A tier beside tells of copies of replicas too; no layout file does, for a commit does not list them.
            guard file.rank > previous, Copies.rank(file.rank) < worldSize else { return "rank \(file.rank) is out of order or outside the world of \(worldSize)" }
            previous = file.rank
        }
        for run in runs {
            if let problem = problem(run) { return "the run of \(run.count) ranks from \(run.first): \(problem)" }
            for member in 0..<run.count {
                guard dataBytes.updateValue(run.dataBytes, forKey: run.rank(member)) == nil else { return "rank \(run.rank(member)) is in two runs" }
            }
        }
        guard dataBytes.count == files.count else { return "the runs hold \(dataBytes.count) ranks, not \(files.count)" }
        for file in files {
            guard let bytes = dataBytes[file.rank] else { return "rank \(file.rank) is in no run" }
            if let problem = problem(file, dataBytes: bytes) { return "rank \(file.rank): \(problem)" }
        }
        return nil
    }

    /// Whether a run's ranks can be computed, and are of this world.
    static func isPossible(_ run: RankRun, _ worldSize: Int) -> Bool {
        let limit = Copies.base + worldSize
        return (0..<limit).contains(run.first) && (1...limit).contains(run.stride) && (1...worldSize).contains(run.count)
            && run.rank(run.count - 1) < limit && Copies.rank(run.rank(run.count - 1)) < worldSize
    }

    private func problem(_ run: RankRun) -> String? {
        guard Self.isPossible(run, worldSize) else { return "stride \(run.stride)" }
        guard run.moves.count == run.shards.count else { return "\(run.moves.count) moves of \(run.shards.count) shards" }
        var end = 0
        for (stored, move) in zip(run.shards, run.moves) {
            let checked: CheckedShard
            do { checked = try CheckedShard(stored.shard) } catch { return "\(error)" }
            guard checked.bytes == stored.bytes, checked.shard == stored.shard else { return "'\(stored.shard.name)' has \(stored.bytes) bytes" }
            guard stored.fileOffset == end else { return "'\(stored.shard.name)' lies at \(stored.fileOffset), not behind the shard before it" }
            let (sum, overflow) = end.addingReportingOverflow(stored.bytes)
            guard !overflow, sum <= StoreLimits.fileBytes else { return "'\(stored.shard.name)' ends beyond the largest file" }
            end = sum
            guard !move.isEmpty else { continue }
            // Between the first box and the last all lie in a line: where these two are inside, all are.
            guard let begin = stored.shard.offsets, begin.count == move.count, let last = Self.moved(begin, move, run.count - 1) else {
                return "'\(stored.shard.name)' moves by \(move)"
            }
            var shard = stored.shard
            shard.offsets = last
            do { _ = try CheckedShard(shard) } catch { return "\(error)" }
        }
        return nil
    }

    private static func moved(_ begin: [Int], _ move: [Int], _ times: Int) -> [Int]? {
        var moved: [Int] = []
        for (begin, move) in zip(begin, move) {
            let (way, overflow) = move.multipliedReportingOverflow(by: times)
            let (sum, carried) = begin.addingReportingOverflow(way)
            guard !overflow, !carried else { return nil }
            moved.append(sum)
        }
        return moved
    }

    private func problem(_ file: StoredFile, dataBytes: Int) -> String? {
        guard (Sizes.alignment...StoreLimits.fileBytes).contains(file.fileBytes), file.dataStart >= Sizes.alignment, file.dataStart <= file.fileBytes else {
            return "data begins at \(file.dataStart) of \(file.fileBytes) bytes"
        }
        guard file.dataStart.isMultiple(of: Sizes.alignment) else { return "data begins at \(file.dataStart)" }
        var end = file.dataStart + dataBytes                    // both are below the largest file's size
        for stored in file.objects {
            guard stored.object.bytes >= 0, stored.fileOffset == end, stored.object.bytes <= file.fileBytes - min(end, file.fileBytes) else {
                return "object '\(stored.object.name)' lies at \(stored.fileOffset) with \(stored.object.bytes) bytes, outside its file or not behind what is before it"
            }
            end += stored.object.bytes
        }
        return end == file.fileBytes ? nil : "a file of \(file.fileBytes) bytes whose last byte is at \(end)"
    }
}
