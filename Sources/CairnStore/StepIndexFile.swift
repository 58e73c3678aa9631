// A step's index as one worker hands it to the main process: a line of JSON for the few words about the step, then the layout file's
// form, which grows with runs of ranks and not with all their boxes. What is asked for by name is all that is put out in full, on the
// thread that decides.
import CairnModel
import FoundationEssentials

public enum StepIndexFile {
    private struct Head: Codable {
        var step: Int, sequence: CommitSequence, save: SaveID, metadata: [String: String]
    }
    private static let newline = UInt8(ascii: "\n")

    public static func encode(_ step: StepCatalog) -> [UInt8] {
        let head: [UInt8]
        do { head = Array(try JSONEncoder().encode(Head(step: step.step, sequence: step.sequence, save: step.save, metadata: step.metadata))) } catch {
            preconditionFailure("numbers and strings do not encode: \(error)")
        }
        return head + [newline] + LayoutFile.encode(step.layout)
    }

    /// `names`: only these shards and objects; nil: all. `once`: of each tensor the first box only.
    public static func decode(_ bytes: [UInt8], names: Set<String>? = nil, once: Bool = false) throws(RecordError) -> StepIndex {
        guard let end = bytes.firstIndex(of: newline) else { throw .noDigest }
        let head: Head
        do { head = try JSONDecoder().decode(Head.self, from: Data(bytes[..<end])) } catch { throw .malformed(reason: "\(error)") }
        let layout = try LayoutFile.decode(Array(bytes[(end + 1)...]))
        return StepIndex(step: head.step, sequence: head.sequence, save: head.save, worldSize: layout.worldSize, metadata: head.metadata, ranks: layout.tables(names, once: once))
    }
}
