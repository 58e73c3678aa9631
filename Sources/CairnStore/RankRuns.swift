// Which ranks of a step make runs. Ranks with the same shards in the same shapes are of one kind; within a kind the ranks at a fixed
// distance whose boxes move evenly are one run: for a mesh of data and tensor parallel ranks, a run for each tensor parallel rank.
// Equal tables give equal runs, whoever finds them: two daemons that commit the same save write the same file.
import CairnModel

enum RankRuns {
    /// All placed by the same `ShardKinds`.
    static func find(_ tables: [PlacedTable]) -> [RankRun] {
        var kinds: [ObjectIdentifier: Int] = [:], members: [[Int]] = []
        for (position, table) in tables.enumerated() {
            let kind = ObjectIdentifier(table.kind)
            if let known = kinds[kind] { members[known].append(position) } else {
                kinds[kind] = members.count
                members.append([position])
            }
        }
        var runs: [RankRun] = []
        for members in members {
            var cover = Cover(tables, members)
            while let run = cover.next() { runs.append(run) }
        }
        return runs.sorted { $0.first < $1.first }
    }

    /// Covers the ranks of one kind with runs, longest first from the lowest rank that is left.
    private struct Cover {
        let tables: [PlacedTable]
        /// Positions of tables, ascending, and where each rank is among them.
        let members: [Int], places: [Int: Int]
        var isTaken: [Bool]
        var left: Int, cursor = 0

        /// Distances tried, in members of the kind: any up to 16, then powers of two, which is how meshes are made.
        private static let distances = Array(1...16) + (5...16).map { 1 << $0 }

        init(_ tables: [PlacedTable], _ members: [Int]) {
            self.tables = tables
            self.members = members
            places = Dictionary(members.enumerated().map { (tables[$1].rank, $0) }) { first, _ in first }
            isTaken = Array(repeating: false, count: members.count)
            left = members.count
        }

        mutating func next() -> RankRun? {
            while cursor < members.count, isTaken[cursor] { cursor += 1 }
            guard cursor < members.count else { return nil }
            let first = tables[members[cursor]]
            var best = (stride: 1, count: 1, moves: [Int](repeating: 0, count: first.offsets.count))
            for distance in Self.distances where best.count < left {
                guard cursor + distance < members.count else { break }
                guard !isTaken[cursor + distance] else { continue }
                let second = tables[members[cursor + distance]], stride = second.rank - first.rank
                let moves = zip(first.offsets, second.offsets).map { $1 - $0 }
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
            for index in shards.indices { shards[index].fileOffset -= first.dataStart }
            return RankRun(first: first.rank, stride: best.stride, count: best.count, shards: shards, moves: Self.moves(best.moves, of: shards))
        }

        /// By shard; empty where its box stays.
        private static func moves(_ moves: [Int], of shards: [StoredShard]) -> [[Int]] {
            var at = 0
            return shards.map { stored in
                let move = Array(moves[at..<at + (stored.shard.offsets?.count ?? 0)])
                at += move.count
                return move.allSatisfy { $0 == 0 } ? [] : move
            }
        }

        private func fits(_ table: PlacedTable, _ first: PlacedTable, _ moves: [Int], _ count: Int) -> Bool {
            for index in moves.indices where first.offsets[index] + count * moves[index] != table.offsets[index] { return false }
            return true
        }
    }
}
