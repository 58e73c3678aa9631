// What the global tier's compression came to: for `cairn status` and the metrics.
import CairnMessages

struct StoredFiles {
    private(set) var compressed = 0, plain = 0, plainBytes = 0, storedBytes = 0
    private var last: CompressionReport?

    mutating func add(_ file: CompressionReport) {
        if file.isCompressed { compressed += 1 } else { plain += 1 }
        plainBytes += file.plainBytes
        storedBytes += file.storedBytes
        last = file
    }

    /// `auto: zstd, the last file takes 79 %; compresses 1.21 GB/s, the tier writes 0.30 GB/s; 12 of 14 files compressed`
    func text(isAuto: Bool) -> String {
        let setting = isAuto ? "auto" : "zstd"
        guard let last else { return "\(setting): no file written yet" }
        var parts: [String] = []
        if last.isCompressed {
            parts.append("\(isAuto ? "zstd, " : "")the last file takes \(Self.percent(Double(last.storedBytes) / Double(max(1, last.plainBytes))))")
        } else {
            parts.append("plain" + (last.share.map { ", frames would take \(Self.percent($0)) of the last file" } ?? ""))
        }
        if isAuto {
            let speeds = [last.compressedPerSecond.map { "compresses \(Self.rate($0))" }, last.writtenPerSecond.map { "the tier writes \(Self.rate($0))" }]
            parts.append(speeds.compactMap { $0 }.joined(separator: ", "))
            parts.append("\(compressed) of \(compressed + plain) files compressed")
        }
        return "\(setting): " + parts.filter { !$0.isEmpty }.joined(separator: "; ")
    }

    private static func percent(_ share: Double) -> String { "\(Int((share * 100).rounded())) %" }
    private static func rate(_ bytesPerSecond: Double) -> String {
        let hundredths = Int((bytesPerSecond / 1e7).rounded()), rest = hundredths % 100
        return "\(hundredths / 100).\(rest < 10 ? "0" : "")\(rest) GB/s"
    }
}
