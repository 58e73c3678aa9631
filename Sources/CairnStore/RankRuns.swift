// Which ranks of a step make runs. Ranks with the same shards in the same shapes are of one kind; within a kind the ranks at a fixed
// distance whose boxes move evenly are one run: for a mesh of data and tensor parallel ranks, a run for each tensor parallel rank.
// Equal tables give equal runs, whoever finds them: two daemons that commit the same save write the same file.
import CairnModel

enum RankRuns {
    /// A rank's shards without where their boxes begin.
    private struct Kind: Hashable {
        let shards: [StoredShard], dataStart: Int

        static func == (left: Kind, right: Kind) -> Bool {
            guard left.shards.count == right.shards.count else { return false }
            return zip(left.shards, right.shards).allSatisfy { one, other in
                let (a, b) = (one.shard, other.shard)
                return a.name == b.name && a.shape == b.shape && a.dtype == b.dtype && a.globalShape == b.globalShape && a.offsets?.count == b.offsets?.count
                    && a.replica == b.replica && a.replicas == b.replicas && a.isPrivate == b.isPrivate && a.eager == b.eager && one.bytes == other.bytes
                    && one.fileOffset - left.dataStart == other.fileOffset - right.dataStart
            }
        }
        func hash(into hasher: inout Hasher) {
            hasher.combine(shards.count)
            for stored in shards {
                hasher.combine(stored.shard.name)
                hasher.combine(stored.shard.shape)
            }
        }
    }

    static func find(_ tables: [RankTable], dataStarts: [Int]) -> [RankRun] {
        var kinds: [Kind: Int] = [:], members: [[Int]] = []
        for (position, table) in tables.enumerated() {
            let kind = Kind(shards: table.shards, dataStart: dataStarts[position])
            if let known = kinds[kind] { members[known].append(position) } else {
                kinds[kind] = members.count
                members.append([position])
            }
        }
        var runs: [RankRun] = []
        for members in members {
            var cover = Cover(tables, members)
            while let run = cover.next(dataStarts) { runs.append(run) }
        }
        return runs.sorted { $0.first < $1.first }
    }

    /// Covers the ranks of one kind with runs, longest first from the lowest rank that is left.
    private struct Cover {
        let tables: [RankTable]
        /// Positions of tables, ascending, and where each rank is among them.
        let members: [Int], places: [Int: Int]
        var isTaken: [Bool]
        var left: Int, cursor = 0

        /// Distances tried, in members of the kind: any up to 16, then powers of two, which is how meshes are made.
        private static let distances = Array(1...16) + (5...16).map { 1 << $0 }

        init(_ tables: [RankTable], _ members: [Int]) {
            self.tables = tables
            self.members = members
            places = Dictionary(members.enumerated().map { (tables[$1].rank, $0) }) { first, _ in first }
            isTaken = Array(repeating: false, count: members.count)
            left = members.count
        }

        mutating func next(_ dataStarts: [Int]) -> RankRun? {
            while cursor < members.count, isTaken[cursor] { cursor += 1 }
            guard cursor < members.count else { return nil }
            let first = tables[members[cursor]]
            var best = (stride: 1, count: 1, moves: [[Int]](repeating: [], count: first.shards.count))
            for distance in Self.distances where best.count < left {
                guard cursor + distance < members.count else { break }
                guard !isTaken[cursor + distance] else { continue }
                let second = tables[members[cursor + distance]], stride = second.rank - first.rank, moves = Self.moves(first, second)
                var count = 2
                while let place = places[first.rank + count * stride], !isTaken[place], fits(tables[members[place]], first, moves, count) { count += 1 }
                if count > best.count { best = (stride, count, moves) }
            }
            isTaken[cursor] = true                              // also one whose rank another has too, which `problem` then tells
            for member in 0..<best.count {
                // Every member was found by its rank.
                if let place = places[first.rank + member * best.stride] { isTaken[place] = true }
            }
            left -= best.count
            var shards = first.shards
            for index in shards.indices { shards[index].fileOffset -= dataStarts[members[cursor]] }
            return RankRun(first: first.rank, stride: best.stride, count: best.count, shards: shards, moves: best.moves)
        }

        private static func moves(_ first: RankTable, _ second: RankTable) -> [[Int]] {
            zip(first.shards, second.shards).map { one, other in
                guard let begin = one.shard.offsets, let end = other.shard.offsets, begin != end else { return [] }
                return zip(begin, end).map { $1 - $0 }
            }
        }

        private func fits(_ table: RankTable, _ first: RankTable, _ moves: [[Int]], _ count: Int) -> Bool {
            for (index, move) in moves.enumerated() {
                guard let begin = first.shards[index].shard.offsets, let offsets = table.shards[index].shard.offsets else { continue }
                if move.isEmpty {
                    guard begin == offsets else { return false }
                } else {
                    for dimension in move.indices where begin[dimension] + count * move[dimension] != offsets[dimension] { return false }
                }
            }
            return true
        }
    }
}
