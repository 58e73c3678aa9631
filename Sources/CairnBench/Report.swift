// A measurement and its conclusions: as JSON, and as text of at most 80 columns.
import CairnModel
import CairnWire

public struct Report: Codable, Sendable, Equatable {
    public struct Folder: Codable, Sendable, Equatable {
        public var path: String
        public var reached: Reached
        public var bottleneck: Reached.Bottleneck
    }
    public var measurements: Measurements
    public var folders: [Folder]
    public var advice: [Advice]

    public init(_ measurements: Measurements) {
        self.measurements = measurements
        folders = measurements.folders.map { folder in
            let reached = Reached(folder, measurements)
            return Folder(path: folder.path, reached: reached, bottleneck: reached.bottleneck)
        }
        advice = Advice.all(measurements)
    }

    // MARK: text

    static let columns = 80

    public func text(colour: Bool = false) -> String {
        let memory = measurements.memory
        var table = Table([("MEMORY", .left), ("RATE", .right)])
        table.add(["copy, 1 thread", "\(Self.rate(memory.copyBytesPerSecond))"])
        if memory.stagingThreads > 1 { table.add(["copy, \(memory.stagingThreads) threads, as Cairn stages", "\(Self.rate(memory.threadedCopyBytesPerSecond))"]) }
        table.add(["CRC32C, 1 thread", "\(Self.rate(memory.crc32cBytesPerSecond))"])
        return table.render(colour: colour) + zip(measurements.folders, folders).map { text($0, $1.reached, colour) }.joined() + adviceText()
    }

    private func text(_ folder: FolderSpeed, _ reached: Reached, _ colour: Bool) -> String {
        var limits = Table([("CHUNK x IN FLIGHT", .left), ("WRITE", .right), ("READ", .right)])
        let best = (write: folder.best(.write), read: folder.best(.read))
        for way in folder.transfers where way.operation == .write {
            var reading = way
            reading.operation = .read
            let read = folder.transfers.first { $0.isSameWay(as: reading) }, isUsual = way == folder.find(.write)
            limits.add([Table.Cell(Self.name(way) + (isUsual ? ", as Cairn does" : "")), Table.Cell(Self.rate(way.bytesPerSecond), way == best.write ? .bold : .plain),
                        Table.Cell(read.map { Self.rate($0.bytesPerSecond) } ?? "", read == best.read ? .bold : .plain)])
        }
        limits.add(["the best of them", "\(Self.rate(best.write?.bytesPerSecond ?? 0))", "\(Self.rate(best.read?.bytesPerSecond ?? 0))"])
        limits.add(["a synced file of \(HumanSize.exact(BenchLimits.smallFileBytes))", "\(Self.time(folder.publish.p50Seconds))", "\(Self.time(folder.smallRead.p50Seconds))"])
        limits.add(["  1 in 100 of them", "\(Self.time(folder.publish.p99Seconds))", "\(Self.time(folder.smallRead.p99Seconds))"])

        var levels = Table([("CAIRN, \(HumanSize.short(measurements.stateBytes))", .left), ("TIME", .right), ("RATE", .right), ("OF ITS LIMIT", .left)])
        func add(_ name: String, _ seconds: [Double], _ share: Double? = nil, of limit: String = "") {
            let time = median(seconds)
            levels.add([Table.Cell(name), Table.Cell(Self.time(time)), Table.Cell(share == nil ? "" : Self.rate(Double(measurements.stateBytes) / max(time, 1e-9))),
                        Table.Cell(share.map { "\(Self.decimals($0, 2)) of \(limit)" } ?? "")])
        }
        add("save() came back", folder.saves.map(\.acceptedSeconds))
        add("staged", folder.saves.map(\.stagedSeconds), reached.staged, of: "memory's copy")
        add("durable", folder.saves.map(\.localSeconds), reached.local, of: "the best write")
        add("committed", folder.saves.map(\.committedSeconds))
        add("restored from memory", folder.seconds(restoredFrom: .memory), reached.memoryRestore, of: "memory's copy")
        add("restored from the drive", folder.seconds(restoredFrom: .local), reached.tierRestore, of: "the best read")

        let head = "\(Table.printable(folder.path)): \(folder.filesystem), \(HumanSize.short(folder.freeBytes)) free, "
            + "\(folder.usualEngine.rawValue), \(folder.isDirect ? "O_DIRECT" : "buffered")"
        return "\n" + Self.wrapped(head) + limits.render(colour: colour) + levels.render(colour: colour) + Self.wrapped(Self.sentence(reached))
    }

    static func sentence(_ reached: Reached) -> String {
        let what = switch reached.bottleneck {
        case .memory: "memory"
        case .drive: "the drive"
        case .records: "small synced files"
        case .rest: "neither memory nor drive, but what Cairn does beside"
        }
        return "bottleneck: \(what). Of \(time(reached.committedSeconds)) until committed the drive needs \(time(reached.driveSeconds)), memory "
            + "\(time(reached.memorySeconds)) at the same time, the records \(time(reached.recordsSeconds)), all else \(time(reached.restSeconds))."
    }

    private func adviceText() -> String {
        guard !advice.isEmpty else { return "\nnothing to change was found\n" }
        return "\nwhat to change\n" + advice.map { Self.wrapped("- " + ($0.path.map { "\(Table.printable($0)): " } ?? "") + $0.text, indent: 2) }.joined()
    }

    // MARK: words

    /// `8 MiB x 16, threads`.
    static func name(_ way: Transfer) -> String {
        let name = "\(HumanSize.exact(way.chunkBytes)) x \(way.depth)"
        return way.direct ? way.engine == .threads ? name + ", threads" : name : name + ", page cache"
    }

    static func rate(_ bytesPerSecond: Double) -> String { HumanSize.short(Int(bytesPerSecond)) + "/s" }

    /// `0.6 ms`, `36 ms`, `1.25 s`.
    static func time(_ seconds: Double) -> String {
        seconds >= 1 ? decimals(seconds, 2) + " s" : decimals(seconds * 1000, seconds < 0.01 ? 1 : 0) + " ms"
    }

    /// As `HumanSize` has it: the same in every locale.
    static func decimals(_ value: Double, _ digits: Int) -> String {
        var scale = 1
        for _ in 0..<digits { scale *= 10 }
        let number = Int((value * Double(scale)).rounded()), rest = String(number % scale)
        return digits == 0 ? "\(number)" : "\(number / scale)." + String(repeating: "0", count: digits - rest.count) + rest
    }

    /// Lines of at most `columns`, broken at spaces, those after the first one indented.
    static func wrapped(_ text: String, indent: Int = 0) -> String {
        var lines: [String] = [], line = ""
        for word in text.split(separator: " ") {
            if !line.isEmpty, line.count + 1 + word.count > columns {
                lines.append(line)
                line = String(repeating: " ", count: indent) + word
            } else {
                line += line.isEmpty ? String(word) : " " + word
            }
        }
        return (lines + [line]).joined(separator: "\n") + "\n"
    }
}
