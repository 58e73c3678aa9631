// What keeps `cairn bench` from measuring, with what to change.
import CairnModel

public enum BenchError: Error, Sendable, Equatable, CustomStringConvertible {
    case folder(path: String, reason: String)
    case notWritable(path: String, reason: String)
    case noSpace(path: String, needed: Int, available: Int)
    case noMemory(needed: Int, available: Int)
    case noTier(reason: String)
    case noDaemonProgram(looked: String)
    case daemonEnded(reason: String)
    case wrongBytes(tier: String)
    /// What was made is still there.
    case left([String])
    /// A signal came: who gets this stops, the signal's own thread says and does the rest.
    case ending

    public var description: String {
        switch self {
        case .folder(let path, let reason): "'\(path)' cannot be measured: \(reason)"
        case .notWritable(let path, let reason):
            "nothing may be written to '\(path)': \(reason). Run it as the user that cairnd runs as (sudo -u cairn cairn bench), or measure a folder of your own with --path"
        case .noSpace(let path, let needed, let available):
            "no space on '\(path)': \(Self.text(available, up: false)) are free, \(Self.text(needed, up: true)) are needed. Free some, or give a smaller --size"
        case .noMemory(let needed, let available):
            "no memory: \(Self.text(needed, up: true)) are needed, \(Self.text(available, up: false)) may be taken. Give a smaller --size"
        case .noTier(let reason): "the daemon has no tier to measure: \(reason). Name a folder with --path"
        case .noDaemonProgram(let looked): "no cairnd to save with (\(looked)): install it beside this program, or put its folder into PATH"
        case .daemonEnded(let reason): "a cairnd of our own could not be used: \(reason)"
        case .wrongBytes(let tier): "what was restored from \(tier) is not what was saved: do not trust this machine's memory or drives, see the kernel's log"
        case .left(let what): "not all that was made could be removed: \(what.joined(separator: "; "))"
        case .ending: "a signal came"
        }
    }

    /// In whole MiB, so that nobody is told that what is free would do.
    private static func text(_ bytes: Int, up: Bool) -> String { Quantity.sizeText(((bytes + (up ? (1 << 20) - 1 : 0)) >> 20) << 20) }
}
