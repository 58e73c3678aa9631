// Which steps an older line of the job left behind.
//
// A job that goes back to step S (its attempt's commits name S as parent) and commits again has given up what was committed
// after S before it: those steps are superseded. The line is followed from the newest step back: the steps committed since
// the same parent belong to it, then what that parent's own line holds. A step that names no parent began afresh: what is
// older than it is a history of its own, and stays as it is.

public enum Lineage {
    public static func superseded(_ steps: [StepSummary]) -> Set<CommitSequence> {
        var superseded: Set<CommitSequence> = []
        var position = steps.map(\.sequence).max()
        while let current = position, let witness = witness(of: current, steps), let parent = witness.parent, parent < current {
            // The steps that this return to the parent left behind lie between it and the first step after the return.
            let first = steps.filter { $0.sequence.attempt == current.attempt && $0.parent == parent }.map(\.sequence).min() ?? current
            for step in steps where step.sequence > parent && step.sequence < min(first, current) { superseded.insert(step.sequence) }
            position = parent
        }
        return superseded
    }

    /// A step that says what the line at a sequence goes back to: itself, or where retention deleted it, the nearest of its attempt.
    private static func witness(of sequence: CommitSequence, _ steps: [StepSummary]) -> StepSummary? {
        let attempt = steps.filter { $0.sequence.attempt == sequence.attempt }
        return attempt.first { $0.sequence == sequence }
            ?? attempt.filter { $0.sequence < sequence }.max { $0.sequence < $1.sequence }
            ?? attempt.filter { $0.sequence > sequence && ($0.parent ?? sequence) <= sequence }.min { $0.sequence < $1.sequence }
    }

    public static func markSuperseded(_ steps: [StepSummary]) -> [StepSummary] {
        let old = superseded(steps)
        return steps.map { step in
            var marked = step
            marked.superseded = old.contains(step.sequence)
            return marked
        }
    }
}
