// Every name on disk is made, and read back, here. Paths are relative to a run's folder, `<tier>/<uid>/<run>`.
//
//   attempts/000017.json                      one launch of the job
//   attempts/000017/17-1200-1.json            the decision of a save: commit or void
//   attempts/000000/branch.json               the one of a branch's first step: it has one, whichever step that is
//   attempts/000018/have-NODE.json            what a node still holds of older attempts' saves
//   attempts/000017/restore-3.json            the third choice of this attempt;  settled-3-NODE.json, settle-3.json: its outcome
//   .saving-17-1200-1/                        a save in progress; renamed after its commit to
//   step-1200.17-41/                          a committed step, sequence 17-41
//       rank-00003.safetensors (compressed: rank-00003.safetensors.zst), rank-00003.crc, rank-00003-DIGEST.json
//       layout-DIGEST.json, manifests-DIGEST.bin, checkpoint.json, pin; files that a save brought, as `.metadata` (`isFile`)
//   .gone-SECONDS.NAME                        renamed away at that time (UTC), deleted 10 minutes later
//   .NAME.MAKER.NUMBER.part                   not yet published; MAKER is a worker's node and instance
//
// A local tier beside a global one holds the same files of its own ranks without folders per save:
//   17-1200-1.rank-00003.safetensors, .crc, 17-1200-1.rank-00003-DIGEST.json, 17-1200-1.pin
//   17-1200-1.rank-00003.replicas.safetensors and so on: copies of replicas that other nodes' ranks own
//   decisions/17-1200-1.json                  a copy of the decision, with the rows of these ranks
//
// Ranks have at least 5 digits, attempts at least 6; other numbers have no leading zeros. A name is accepted only if making it
// anew from what was read gives the same text: one name for one thing.
import CairnModel

public enum Names {
    public static let attempts = "attempts"
    public static let decisions = "decisions"
    public static let checkpoint = "checkpoint.json"
    public static let pin = "pin"
    public static let lock = ".cairnd.lock"

    public static func runFolder(_ run: RunKey) -> String { "\(run.uid)/\(run.name)" }
    public static func userFolder(_ uid: UInt32) -> String { "\(uid)" }

    public static func attempt(_ number: Int) -> String { "\(attemptFolder(number)).json" }
    public static func attemptFolder(_ number: Int) -> String { "\(attempts)/\(padded(number, StoreLimits.attemptDigits))" }
    public static func decision(_ save: SaveID) -> String { "\(attemptFolder(save.attempt))/\(decisionName(save))" }
    /// In its attempt's folder. Attempt 0 is a branch's first step: one name, so that two branchings at once give one.
    public static func decisionName(_ save: SaveID) -> String { save.attempt == 0 ? branch : "\(save).json" }
    static let branch = "branch.json"
    /// In its attempt's folder.
    public static func have(node: String) -> String { "have-\(node).json" }
    public static func restoreChoice(attempt: Int, restore: Int) -> String { "\(attemptFolder(attempt))/restore-\(restore).json" }
    /// Part 0 is of the ranks that settled first, further ones of those that came since.
    public static func settled(attempt: Int, restore: Int, node: String, part: Int = 0) -> String {
        "\(attemptFolder(attempt))/settled-\(restore)-\(node)\(part == 0 ? "" : ".\(part)").json"
    }
    public static func settle(attempt: Int, restore: Int) -> String { "\(attemptFolder(attempt))/settle-\(restore).json" }

    public static func savingFolder(_ save: SaveID) -> String { ".saving-\(save)" }
    public static func stepFolder(step: Int, sequence: CommitSequence) -> String { "step-\(step).\(sequence)" }
    public static func gone(_ name: String, seconds: Int) -> String { ".gone-\(seconds).\(name)" }

    public static func data(rank: Int) -> String { "\(rankName(rank)).safetensors" }
    /// The name of a data file that is stored as frames; `data`: its plain name.
    public static func compressed(_ data: String) -> String { "\(data).zst" }
    public static func checksums(rank: Int) -> String { "\(rankName(rank)).crc" }
    /// `digest`: of the record, as `Record.nameDigest` gives it, where it is stored plain.
    public static func manifest(rank: Int, digest: String) -> String { "\(rankName(rank))-\(digest).json" }
    public static func layout(digest: String) -> String { "layout-\(digest).json" }
    public static func manifests(digest: String) -> String { "manifests-\(digest).bin" }

    public static func besideData(_ save: SaveID, rank: Int) -> String { "\(save).\(data(rank: rank))" }
    public static func besideChecksums(_ save: SaveID, rank: Int) -> String { "\(save).\(checksums(rank: rank))" }
    public static func besideManifest(_ save: SaveID, rank: Int, digest: String) -> String { "\(save).\(manifest(rank: rank, digest: digest))" }
    public static func besidePin(_ save: SaveID) -> String { "\(save).\(pin)" }
    public static func besideDecision(_ save: SaveID) -> String { "\(decisions)/\(save).json" }

    /// A name of one's own for what will be published as `name`. `number` makes it unique within its maker.
    public static func temporary(for name: String, maker: String, number: Int) -> String { ".\(name).\(maker).\(number).part" }
    /// The temporary of a rank's data file: `.rank-00003.MAKER.TRY.part`.
    public static func temporaryData(rank: Int, maker: String, fileTry: Int) -> String {
        temporary(for: rankName(rank), maker: maker, number: fileTry)
    }
    public static func isTemporary(_ name: String, ofNode node: String) -> Bool {
        name.hasPrefix(".") && name.hasSuffix(".part") && name.contains(".\(node).")
    }
    /// Of a rank's file or of one of its records.
    public static func isTemporary(_ name: String, rank: Int, ofNode node: String) -> Bool {
        let own = ".\(rankName(rank))"
        return isTemporary(name, ofNode: node) && (name.hasPrefix("\(own).") || name.hasPrefix("\(own)-"))
    }
    public static func isTemporary(_ name: String) -> Bool { name.hasPrefix(".") && name.hasSuffix(".part") }

    /// A host's name as part of a file's name.
    public static func node(_ hostname: String) -> String {
        var text = hostname.utf8.prefix(60).map { byte -> UInt8 in
            switch byte {
            case 0x30...0x39, 0x41...0x5A, 0x61...0x7A, UInt8(ascii: "-"), UInt8(ascii: "_"): byte
            default: UInt8(ascii: "-")
            }
        }
        if text.isEmpty { text = Array("node".utf8) }
        return String(decoding: text, as: UTF8.self)
    }

    /// Whether a file of this name may be put beside the ranks' own in a step's folder: letters, digits and `._-`, at most one dot before them, and no
    /// name, nor a beginning of one, that Cairn gives itself.
    public static func isFile(_ name: String) -> Bool {
        guard (1...StoreLimits.fileNameBytes).contains(name.utf8.count), let first = name.utf8.first(where: { $0 != UInt8(ascii: ".") }), !name.hasPrefix(".."),
              name.utf8.allSatisfy({ (0x30...0x39).contains($0) || (0x41...0x5A).contains($0) || (0x61...0x7A).contains($0) || [0x2D, 0x2E, 0x5F].contains($0) }),
              first != UInt8(ascii: "-") else { return false }
        let ours = ["rank-", "layout-", "manifests-", "checkpoint.", "step-", "saving-", "gone-", "cairn", "attempts", "decisions"]
        let bare = name.hasPrefix(".") ? String(name.dropFirst()) : name
        return bare != pin && !ours.contains(where: bare.hasPrefix) && ![".part", ".safetensors", ".zst"].contains(where: name.hasSuffix)
    }
    /// The object in the rank's file that holds such a file's bytes.
    public static func fileObject(_ name: String) -> String { "cairn.file.\(name)" }

    // Keys inside a safetensors file.
    static let objectPrefix = "cairn.object."
    static func objectPrefix(rank: Int) -> String { "\(objectPrefix)\(padded(rank, StoreLimits.rankDigits))." }
    static func privatePrefix(rank: Int) -> String { "\(rankName(rank))/" }
    /// Whether a name looks like a private tensor's key of whichever rank.
    static func hasPrivatePrefix(_ name: String) -> Bool {
        guard name.hasPrefix("rank-"), let slash = name.utf8.firstIndex(of: UInt8(ascii: "/")) else { return false }
        let digits = name.utf8[..<slash].dropFirst(5)
        return !digits.isEmpty && digits.allSatisfy { (0x30...0x39).contains($0) }
    }

    /// `rank-00003`, and `rank-00003.replicas` for that rank's copies.
    static func rankName(_ number: Int) -> String {
        "rank-\(padded(Copies.rank(number), StoreLimits.rankDigits))\(Copies.isCopies(number) ? replicas : "")"
    }
    static let replicas = ".replicas"

    static func padded(_ number: Int, _ digits: Int) -> String {
        let text = String(number)
        return String(repeating: "0", count: max(0, digits - text.utf8.count)) + text
    }
}
