// The history on disk, two files in the daemon's state folder, so that the oldest half goes at once and nothing is ever written anew:
//   history-NODE        what is appended to
//   history-NODE.old    what was full before it; replaced when the first is full in turn
// Not synced: what the kernel has outlives the daemon, and after a loss of power a torn end is cut off (HistoryLine).
import CairnIO
import CairnMessages

final class HistoryFiles {
    private let folder: Descriptor
    private let name: String, limit: Int
    private var file: Descriptor?
    private var bytes = 0

    /// `limit`: of both files together.
    init(folder path: String, node: String, limit: Int) throws(IOFailure) {
        folder = try Files.openRoot(path)
        name = "history-\(node)"
        self.limit = limit
    }

    /// All sound lines, oldest first, with their newlines. A torn end is cut off, so that what follows begins a line.
    func load() throws(IOFailure) -> (lines: [UInt8], damaged: Int) {
        var all: [UInt8] = [], damaged = 0
        for path in ["\(name).old", name] {
            guard try Files.statIfPresent(folder, path) != nil else { continue }
            // A file may be longer than now allowed: the limit was lowered.
            let found = try Files.readAll(folder, path, limit: max(limit, IOLimits.frameBytes / 4))
            let (lines, torn) = HistoryLine.split(found)
            for line in lines {
                if HistoryLine.isSound(line) { all += line; all.append(0x0A) } else { damaged += 1 }
            }
            if torn > 0 {
                damaged += 1
                try Files.truncate(try Files.open(folder, path, flags: .write), bytes: found.count - torn)
            }
            if path == name { bytes = found.count - torn }
        }
        return (all, damaged)
    }

    func append(_ lines: [UInt8]) throws(IOFailure) {
        if bytes + lines.count > limit / 2, bytes > 0 {
            file = nil
            try Files.rename(folder, from: name, to: "\(name).old")
            bytes = 0
        }
        let file: Descriptor
        if let open = self.file { file = open } else { file = try Files.open(folder, name, flags: [.write, .create], mode: 0o640) }
        self.file = file
        // Where it was: after a write that failed in the middle, the next begins at the same place.
        try PositionedIO.write(file, lines, fileOffset: bytes, path: name)
        bytes += lines.count
    }
}
