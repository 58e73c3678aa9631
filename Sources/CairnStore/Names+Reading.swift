// Names read back. Whatever does not fit the grammar is nil: someone else's file, which is left alone.
import CairnModel

extension Names {
    /// What a name inside a step's or a save's folder is.
    public enum RankFile: Hashable, Sendable {
        case data(rank: Int), compressed(rank: Int), checksums(rank: Int), manifest(rank: Int, digest: String)
        public var rank: Int {
            switch self {
            case .data(let rank), .compressed(let rank), .checksums(let rank), .manifest(let rank, _): rank
            }
        }
    }

    public static func rankFile(_ name: String) -> RankFile? {
        guard name.hasPrefix("rank-") else { return nil }
        let rest = name.utf8.dropFirst(5)
        let digits = rest.prefix { (0x30...0x39).contains($0) }
        guard let own = number(String(digits) ?? "", padding: StoreLimits.rankDigits), !Copies.isCopies(own) else { return nil }
        let rank = rest.dropFirst(digits.count).starts(with: replicas.utf8) ? Copies.number(of: own) : own
        if name == data(rank: rank) { return .data(rank: rank) }
        if name == compressed(data(rank: rank)) { return .compressed(rank: rank) }
        if name == checksums(rank: rank) { return .checksums(rank: rank) }
        guard let digest = between(name, "\(rankName(rank))-", ".json"), isNameDigest(digest) else { return nil }
        return .manifest(rank: rank, digest: digest)
    }

    /// A file of a local tier beside a global one.
    public static func besideFile(_ name: String) -> (save: SaveID, file: RankFile)? {
        guard let dot = name.firstIndex(of: "."), let save = SaveID(String(name[..<dot])),
              let file = rankFile(String(name[name.index(after: dot)...])) else { return nil }
        return (save, file)
    }

    public static func isBesidePin(_ name: String) -> SaveID? { between(name, "", ".\(pin)").flatMap { SaveID($0) } }

    public static func layoutDigest(_ name: String) -> String? {
        between(name, "layout-", ".json").flatMap { isNameDigest($0) ? $0 : nil }
    }

    /// `000017.json` in `attempts/`.
    public static func attemptNumber(_ name: String) -> Int? {
        between(name, "", ".json").flatMap { number($0, padding: StoreLimits.attemptDigits) }
    }
    /// `000017` in `attempts/`: the folder.
    public static func attemptFolderNumber(_ name: String) -> Int? { number(name, padding: StoreLimits.attemptDigits) }
    /// `17-1200-1.json` in `attempts/000017/` or `decisions/`.
    public static func decidedSave(_ name: String) -> SaveID? { between(name, "", ".json").flatMap { SaveID($0) } }
    /// Whether it may be the decision of a save of this step; a branch's first step has one name, whichever step it is of.
    public static func isDecision(_ name: String, ofStep step: Int) -> Bool { name == branch || decidedSave(name)?.step == step }
    public static func restoreNumber(_ name: String) -> Int? { between(name, "restore-", ".json").flatMap { number($0, padding: 1) } }
    public static func settled(_ name: String) -> (restore: Int, node: String)? {
        guard let middle = between(name, "settled-", ".json"), let dash = middle.firstIndex(of: "-"),
              let restore = number(String(middle[..<dash]), padding: 1) else { return nil }
        return (restore, String(middle[middle.index(after: dash)...]))
    }

    public static func haveNode(_ name: String) -> String? { between(name, "have-", ".json") }

    public static func saving(_ name: String) -> SaveID? { between(name, ".saving-", "").flatMap { SaveID($0) } }
    public static func step(_ name: String) -> (step: Int, sequence: CommitSequence)? {
        guard let rest = between(name, "step-", ""), let dot = rest.firstIndex(of: "."),
              let step = number(String(rest[..<dot]), padding: 1),
              let sequence = CommitSequence(String(rest[rest.index(after: dot)...])) else { return nil }
        return (step, sequence)
    }
    /// When a `.gone-` name was made, in UTC seconds.
    public static func goneSeconds(_ name: String) -> Int? {
        guard let rest = between(name, ".gone-", ""), let dot = rest.firstIndex(of: ".") else { return nil }
        return number(String(rest[..<dot]), padding: 1)
    }

    private static func isNameDigest(_ text: String) -> Bool { Digests.isHex(text, digits: StoreLimits.nameDigestDigits) }

    private static func between(_ name: String, _ prefix: String, _ suffix: String) -> String? {
        guard name.utf8.count > prefix.utf8.count + suffix.utf8.count, name.hasPrefix(prefix), name.hasSuffix(suffix) else { return nil }
        return String(name.dropFirst(prefix.count).dropLast(suffix.count))
    }

    private static func number(_ text: String, padding: Int) -> Int? {
        guard (1...18).contains(text.utf8.count), text.utf8.allSatisfy({ (0x30...0x39).contains($0) }), let number = Int(text),
              padded(number, padding) == text else { return nil }
        return number
    }
}
