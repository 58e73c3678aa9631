// A line of the history's file: CRC32C of the JSON in eight hex digits, a space, the JSON of one Operations.PastSave, a newline.
//   9ae0daaf {"uid":1000,"run":"llama-7b","save":"17-1200-1","step":1200,"rank":3,…}
// (1) Lines are only appended, so a crash leaves at most one torn line, at the end. It fails its CRC, and is cut off at the next start.
// (2) A field that this version does not know is ignored, so an older daemon reads a newer one's file.
import CairnIO
import CairnMessages
import CairnModel
import CairnWire

public enum HistoryLine {
    public static func encode(_ save: Operations.PastSave) -> [UInt8] {
        var save = save
        if let reason = save.reason, reason.utf8.count > KeeperLimits.reasonBytes {
            save.reason = String(decoding: Array(reason.utf8.prefix(KeeperLimits.reasonBytes)), as: UTF8.self) + "…"
        }
        let json = MessageCoding.encode(save)
        return Array(hex(Checksum.crc32c(json)).utf8) + [0x20] + json + [0x0A]
    }

    /// Nil where the line, without its newline, is not what was written.
    public static func decode(_ line: ArraySlice<UInt8>) -> Operations.PastSave? {
        guard isSound(line), let save = try? MessageCoding.decode(Operations.PastSave.self, from: Array(line.dropFirst(9))), save.isSound else { return nil }
        return save
    }

    /// By its CRC alone.
    public static func isSound(_ line: ArraySlice<UInt8>) -> Bool {
        guard line.count > 9, line.count <= KeeperLimits.lineBytes, line[line.startIndex + 8] == 0x20 else { return false }
        return Array(line.prefix(8)) == Array(hex(Checksum.crc32c(seed: 0, line.dropFirst(9))).utf8)
    }

    /// Whole lines of a file, without newlines, and the length of what follows the last newline.
    public static func split(_ bytes: [UInt8]) -> (lines: [ArraySlice<UInt8>], torn: Int) {
        let lines = bytes.split(separator: 0x0A, omittingEmptySubsequences: false)
        return (Array(lines.dropLast()), lines.last?.count ?? 0)
    }

    private static func hex(_ crc: UInt32) -> String {
        let digits = String(crc, radix: 16)
        return String(repeating: "0", count: 8 - digits.count) + digits
    }
}
