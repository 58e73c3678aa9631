/// Why a rank's memory could not be read.
public enum RankMemoryFailure: Error, Sendable, Equatable, CustomStringConvertible {
    /// The process ended.
    case gone
    /// Nothing readable is mapped there.
    case notMapped(address: UInt64)
    /// Neither ptrace access nor a memory descriptor: the kernel refused.
    case notPermitted
    case other(IOFailure)

    public var description: String {
        switch self {
        case .gone: "the rank's process is gone"
        case .notMapped(let address): "the rank has nothing mapped at 0x\(String(address, radix: 16))"
        case .notPermitted: "the rank's memory may not be read: it must allow it by PR_SET_PTRACER, or pass /proc/self/mem"
        case .other(let failure): failure.description
        }
    }
}
