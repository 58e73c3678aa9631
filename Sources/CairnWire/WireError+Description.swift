// What each error says to a person: what is wrong, and what to do.
import CairnModel

extension WireError: CustomStringConvertible {
    public var description: String {
        switch self {
        case .notOpen: "this connection has no session: call Open or Attach first"
        case .attemptEnded(let by): "this launch of the job has ended: launch \(by) of the same run has begun; stop this one"
        case .rankTaken(let pid): "process \(pid) already is this rank of this run: stop it, or give each rank a number of its own"
        case .unknownLayout(let layout): "layout '\(layout)' is not registered in this session: call Register again"
        case .unknownSave(let save): "no save '\(save)' is known here"
        case .busy(let step): "step \(step) is not taken: too many saves of this rank are not yet staged; save less often, or raise limits.inFlightPerRank"
        case .tooLarge(let bytes, let limit): "\(HumanSize.exact(bytes)) is over the limit of \(HumanSize.exact(limit))"
        case .leaseLost(let segment): "lease \(segment) may still be written to by a tier that did not answer: release it, take another and load again"
        case .noSuchRun(let run): "no run '\(run)'; `cairn ls` lists those that you may see"
        case .noSuchStep(.some(let step)): "no step \(step) in this run; `cairn ls RUN` lists its steps"
        case .noSuchStep(.none): "the run has no committed step yet"
        case .notWhole(let step, let missing):
            "step \(step) is not whole: files of \(missing.count == 1 ? "rank" : "ranks") \(missing.map(String.init).joined(separator: ", ")) are missing"
        case .corrupt(let path, let block): "'\(path)': block \(block) is not what was staged; `cairn verify` tells how much is bad"
        case .noSpace(let tier, let needed, let available):
            "the \(tier) tier lacks space: \(HumanSize.short(needed)) needed, \(HumanSize.short(available)) available; free some, or keep fewer steps"
        case .tierDown(let tier, let reason): "the \(tier) tier is down: \(reason)"
        case .notPermitted(let reason): "not permitted: \(reason)"
        case .invalidShard(let name, let reason): "'\(name)' cannot be saved: \(reason)"
        case .timedOut(let level): "the time limit passed; it came to level '\(level.rawValue)'"
        case .draining: "the daemon is about to stop and takes no new saves"
        case .notSupported(let feature): "this daemon does not serve '\(feature)'"
        case .failed(let reason): reason
        case .interfaceNotFound(let interface): "the daemon does not serve the interface '\(interface)'; is it of another version?"
        case .methodNotFound(let method): "the daemon does not know the method '\(method)'; is it of another version?"
        case .methodNotImplemented(let method): "the daemon does not implement the method '\(method)'"
        case .invalidParameter(let parameter): "the parameter '\(parameter)' is missing, unknown or invalid"
        case .expectedMore: "the method answers with many replies and must be called with 'more'"
        case .other(let name): "the daemon answered \(name)"
        }
    }
}
