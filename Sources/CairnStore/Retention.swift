// Which committed steps may go. Pure, so that the rule can be tested on every history.
// (1) The newest by sequence is never deleted, nor a pinned or protected one (a restore names it, a flush reads it).
// (2) The newest `keep` stay, and beside them every step at a multiple of `keepPeriod`, unless superseded.
// (3) Superseded steps go first: one counts for `keep` only when no other step is left to count.
import CairnModel

public enum Retention {
    /// `keep` nil: everything stays.
    public static func decide(steps: [StepSummary], keep: Int?, keepPeriod: Int?, protected: Set<CommitSequence>) -> [CommitSequence] {
        guard let keep, let newest = steps.map(\.sequence).max() else { return [] }
        let old = Lineage.superseded(steps)
        // What is kept longest comes first.
        let order = steps.sorted { left, right in
            let (leftOld, rightOld) = (old.contains(left.sequence), old.contains(right.sequence))
            return leftOld == rightOld ? left.sequence > right.sequence : rightOld
        }
        return order.dropFirst(max(1, keep)).filter { step in
            if step.pinned || step.sequence == newest || protected.contains(step.sequence) { return false }
            guard let keepPeriod, keepPeriod > 0, !old.contains(step.sequence) else { return true }
            return !step.step.isMultiple(of: keepPeriod)
        }.map(\.sequence).reversed()
    }
}
