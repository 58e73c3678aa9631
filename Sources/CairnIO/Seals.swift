/// What can no longer be done to a memfd: the proof that its size will hold.
public struct Seals: OptionSet, Sendable {
    public let rawValue: Int32
    public init(rawValue: Int32) { self.rawValue = rawValue }
    public static let seal = Seals(rawValue: 1), shrink = Seals(rawValue: 2), grow = Seals(rawValue: 4), write = Seals(rawValue: 8)
    public static let fixed: Seals = [.seal, .shrink, .grow]
}
