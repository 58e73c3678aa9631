// The typed errors of the wire: those of dev.cairn.Checkpoint, which dev.cairn.Operations uses too, and of org.varlink.service.
import CairnModel

public enum WireError: Error, Hashable, Sendable {
    // dev.cairn.Checkpoint
    /// The connection has no session: call Open or Attach first.
    case notOpen
    /// A later launch of the job has begun.
    case attemptEnded(by: Int)
    /// Another living process has this rank.
    case rankTaken(pid: Int)
    /// The layout is not registered in this session: call Register first.
    case unknownLayout(layout: String)
    case unknownSave(save: String)
    /// Too many saves are not yet staged; nothing was taken, so the call may be repeated.
    case busy(step: Int)
    case tooLarge(bytes: Int, limit: Int)
    /// A tier that has not answered may still write into this lease: release it, take another, load again.
    case leaseLost(segment: Int)
    /// No such run, or none that this user may see.
    case noSuchRun(run: String)
    /// No such step; absent: the run has none that could be restored.
    case noSuchStep(step: Int?)
    /// Files of these ranks are missing.
    case notWhole(step: Int, missing: [Int])
    /// A block's bytes are not those that were staged.
    case corrupt(path: String, block: Int)
    case noSpace(tier: String, needed: Int, available: Int)
    case tierDown(tier: String, reason: String)
    case notPermitted(reason: String)
    case invalidShard(name: String, reason: String)
    /// The limit passed; level is how far it came.
    case timedOut(level: Level)
    /// The daemon is about to stop and takes no new saves.
    case draining
    /// A part of this interface that this daemon does not serve.
    case notSupported(feature: String)
    /// Anything else, in words.
    case failed(reason: String)
    // org.varlink.service
    /// The requested interface was not found.
    case interfaceNotFound(interface: String)
    /// The requested method was not found.
    case methodNotFound(method: String)
    /// The interface defines the requested method, but the service does not implement it.
    case methodNotImplemented(method: String)
    /// One of the passed parameters is invalid; where it is inside another, the path to it.
    case invalidParameter(parameter: String)
    /// The method was called without more, which it requires.
    case expectedMore
    /// An error of a newer or another service; never sent by this one.
    case other(name: String)
}
