// The lines of a run's history, for `cairn ls`. A launch that restores step S and commits goes on from S; what an older launch had
// committed after S is a side line then, shown below S and indented. Each line is shown from its tip back, as all of `ls` is.
//   STEP    SEQUENCE
//   1200        18-1     the newest line
//   1000       17-10
//     1200     17-12     left when 18 went back to 1000
//     1100     17-11
//    900        17-9
import CairnModel

struct LineageTree {
    struct Row {
        let step: Operations.Step
        /// How many times a line was left between the one that it belongs to and the newest.
        let depth: Int
        /// The step that it goes on from, where that is deleted.
        let deletedParent: CommitSequence?
        /// Nothing is known to be before it, though the run has older steps.
        let beginsAnew: Bool
    }

    let rows: [Row]

    /// Committed steps of one run, in any order.
    init(_ unordered: [Operations.Step]) {
        let steps = unordered.sorted { $0.sequence < $1.sequence }
        let before = Self.before(steps)
        var after: [[Int]] = Array(repeating: [], count: steps.count)
        // The newest step that goes on from each one: of several lines that leave a step, the one with the newest goes on.
        var newest = Array(steps.indices)
        var beginnings: [Int] = []
        for index in steps.indices.reversed() {
            guard let at = before[index].index else { beginnings.append(index); continue }
            after[at].append(index)
            newest[at] = max(newest[at], newest[index])
        }
        for index in steps.indices { after[index].sort { newest[$0] > newest[$1] } }
        beginnings.sort { newest[$0] > newest[$1] }

        // A stack, not a recursion: whoever goes back a thousand times nests a thousand lines.
        var rows: [Row] = []
        for beginning in beginnings {
            var stack = [(Self.line(from: beginning, after)[...], 0)]
            while let (line, depth) = stack.popLast() {
                guard let index = line.last else { continue }
                let anew = before[index].index == nil && before[index].deleted == nil && beginning != beginnings.last
                rows.append(Row(step: steps[index], depth: depth, deletedParent: before[index].deleted, beginsAnew: anew))
                stack.append((line.dropLast(), depth))
                for side in after[index].dropFirst().reversed() { stack.append((Self.line(from: side, after)[...], depth + 1)) }
            }
        }
        self.rows = rows
    }

    /// A step and what goes on from it, up to the tip.
    private static func line(from beginning: Int, _ after: [[Int]]) -> [Int] {
        var line = [beginning]
        while let next = line.last.flatMap({ after[$0].first }) { line.append(next) }
        return line
    }

    /// The step that each goes on from (ascending by sequence, so always an earlier one): the one before it since its launch restored, else
    /// what its launch restored, else, where that is deleted, the nearest that is known to lie before it.
    private static func before(_ steps: [Operations.Step]) -> [(index: Int?, deleted: CommitSequence?)] {
        struct Stretch: Hashable { let attempt: Int, parent: Int? }
        var ends: [Stretch: Int] = [:]
        let positions = Dictionary(steps.enumerated().map { ($1.sequence, $0) }, uniquingKeysWith: { first, _ in first })
        return steps.indices.map { index in
            let step = steps[index]
            let stretch = Stretch(attempt: CommitSequence(wire: step.sequence).attempt, parent: step.parent)
            defer { ends[stretch] = index }
            if let former = ends[stretch] { return (former, nil) }
            guard let parent = step.parent else { return (nil, nil) }
            if let exact = positions[parent] { return (exact, nil) }
            return (nearest(parent, steps), CommitSequence(wire: parent))
        }
    }

    /// The last step known to lie before a deleted one: of its own launch, else what that launch restored, as its later steps say.
    private static func nearest(_ deleted: Int, _ steps: [Operations.Step]) -> Int? {
        var deleted = deleted
        while true {
            let attempt = CommitSequence(wire: deleted).attempt
            func isOfAttempt(_ step: Operations.Step) -> Bool { CommitSequence(wire: step.sequence).attempt == attempt }
            if let own = steps.lastIndex(where: { isOfAttempt($0) && $0.sequence <= deleted }) { return own }
            guard let parent = steps.first(where: { isOfAttempt($0) && ($0.parent ?? deleted) < deleted })?.parent else { return nil }
            if let exact = steps.firstIndex(where: { $0.sequence == parent }) { return exact }
            deleted = parent
        }
    }
}
