// Every parser of bytes that somebody else wrote: a client, a disk, an administrator's file. `parse` feeds one and then does with the
// result what the daemon would do next. Whatever the bytes are, it returns: refusing them is right, trapping on them is a bug.
// (1) What opens says the same after it was written and opened again.
import CairnConfiguration
import CairnIO
import CairnKeeper
import CairnModel
import CairnStore
import CairnTier
import CairnWire

public enum Parser: String, CaseIterable, Sendable {
    /// Of the wire: a client's stream of calls, one call, and a daemon's reply as a client reads it.
    case stream, call, reply
    /// Of a rank's files: the whole head, and its JSON alone in a head that is otherwise right.
    case head, header, checksums
    /// Of one that is stored as frames: the table at its end, and a frame.
    case seekTable, frame
    /// Of a tier's records; the digest at their end is put there, so that what is behind it is reached.
    case layout, manifest, decision, attempt, have, choice, settle, verdict
    /// A record with whatever stands at its end, names of files and folders, the configuration.
    case record, names, configuration
    /// Of the history's file: one line's JSON, behind its right CRC.
    case history

    public func parse(_ bytes: [UInt8]) {
        switch self {
        case .stream: Self.stream(bytes)
        case .call: Self.call(bytes)
        case .reply: Self.reply(bytes)
        case .head: Self.head(bytes, fileBytes: bytes.count)
        case .header: Self.header(bytes)
        case .checksums: for fileBytes in [0, 1, bytes.count << 16] { _ = try? BlockChecksums.decode(bytes, fileBytes: fileBytes) }
        case .seekTable: Self.seekTable(bytes)
        case .frame: Self.frame(bytes)
        case .layout: Self.layout(bytes)
        case .manifest: if let manifest = Self.again(Manifest.self, bytes) { _ = manifest.rowDigest(Record.encode(manifest)) }
        case .decision: Self.decision(bytes)
        case .attempt: Self.again(AttemptRecord.self, bytes)
        case .have: Self.again(HaveRecord.self, bytes)
        case .choice: Self.again(RestoreChoice.self, bytes)
        case .settle: Self.again(SettleRecord.self, bytes)
        case .verdict: Self.again(SettleVerdict.self, bytes)
        case .record:
            _ = Record.digest(bytes)
            _ = try? Record.decode(Manifest.self, from: bytes)
            _ = try? StepIndexFile.decode(bytes)
        case .names: Self.names(bytes)
        case .history: Self.history(bytes)
        case .configuration: _ = try? Configuration.load(text: String(decoding: bytes, as: UTF8.self), file: "cairnd.yaml")
        }
    }

    private static func history(_ bytes: [UInt8]) {
        let crc = String(Checksum.crc32c(bytes), radix: 16)
        let line = Array((String(repeating: "0", count: 8 - crc.count) + crc + " ").utf8) + bytes
        for line in HistoryLine.split(bytes + [0x0A] + line + [0x0A]).lines {
            guard let save = HistoryLine.decode(line) else { continue }
            var history = History(limit: 8)
            history.add(save)
            let timeline = Timeline(run: save.run, history.saves(of: RunKey(uid: save.uid, name: save.run), last: 8))
            _ = (timeline.findings, TimelinePicture(timeline, subtitle: "").svg, TimelineTable(timeline).text(colour: false), history.lastCommit(of: RunKey(uid: save.uid, name: save.run)))
        }
    }

    // The wire.

    private static func stream(_ bytes: [UInt8]) {
        var framing = VarlinkFraming(limit: 4096)
        // Pieces of every size come by: the first byte says which sizes these are.
        var at = 0, step = Int(bytes.first ?? 1) + 1
        while at < bytes.count {
            let end = min(at + step, bytes.count)
            framing.append(Array(bytes[at..<end]))
            at = end
            step = step * 7 % 257 + 1
            do { while let message = try framing.next() { call(message) } } catch { return }
            precondition(framing.pendingBytes <= 4096, "the framing keeps \(framing.pendingBytes) bytes of a message of at most 4096")
        }
    }

    private static func call(_ bytes: [UInt8]) {
        guard let call = try? IncomingCall(message: bytes) else { return }
        switch call.request {
        case .success(.checkpoint(.register(let parameters))): register(parameters)
        case .success(.checkpoint(.save(let parameters))): save(parameters)
        case .success(.checkpoint(.load(let parameters))): load(parameters)
        case .success(.checkpoint(.put(let parameters))): put(parameters)
        case .failure(let error):
            let reply = Outgoing.error(error)
            precondition(reply.count < 8 * bytes.count + 4096, "an error of \(reply.count) bytes answers \(bytes.count)")
            _ = error.description
        case .success: break
        }
    }

    private static func register(_ parameters: Checkpoint.Register.Parameters) {
        guard let layout = try? Layout.make(shards: parameters.shards.map(\.model), rank: 0, worldSize: 2),
              let plan = try? FileHeader.make(layout: layout, objects: [], run: Seeds.run, save: Seeds.save, rank: 0, worldSize: 2) else { return }
        written(plan)
    }

    private static func save(_ parameters: Checkpoint.Save.Parameters) {
        _ = SaveID(parameters.layout)
        guard let layout = try? Layout.make(shards: Seeds.shards(rank: 0), rank: 0, worldSize: 2),
              let plan = try? FileHeader.make(layout: layout, objects: (parameters.objects ?? []).map(\.model), run: Seeds.run, save: Seeds.save,
                                              rank: 0, worldSize: 2) else { return }
        written(plan)
    }

    /// What a rank's layout and objects were accepted as is read back from its file's head.
    private static func written(_ plan: FilePlan) {
        do {
            let read = try FileHeader.parse(prefix: plan.headerBytes, fileBytes: plan.fileBytes)
            precondition(read.table == plan.table, "a head does not say what it was made from")
        } catch { preconditionFailure("a head of our own does not open: \(error)") }
    }

    private static func load(_ parameters: Checkpoint.Load.Parameters) {
        _ = CommitSequence(wire: parameters.sequence).wire
        let leases = [LeaseSegment(segment: 1, bytes: 4096), LeaseSegment(segment: 2, bytes: 1 << 20)]
        guard let plan = try? LoadPlan.make(catalog: Seeds.catalog, boxes: parameters.boxes, segments: leases) else { return }
        for run in plan.runs {
            let lease = leases[run.segment - 1]
            precondition(run.offset >= 0 && run.bytes > 0 && run.offset + run.bytes <= lease.bytes, "a run of a load lies outside its lease")
        }
    }

    private static func put(_ parameters: Checkpoint.Put.Parameters) {
        _ = SaveID(parameters.save)
        guard let layout = try? Layout.make(shards: Seeds.shards(rank: 0), rank: 0, worldSize: 2), var cursor = StreamCursor(layout.entries, dataStart: 4096) else {
            preconditionFailure("the seeds are valid, and hold bytes")
        }
        var end = cursor.fileOffset
        for piece in parameters.pieces {
            guard let offset = try? cursor.take(piece.name, begin: piece.begin, bytes: piece.bytes) else { continue }
            precondition(offset == end && offset + piece.bytes <= 4096 + layout.dataBytes, "a piece was taken that does not go on where the others ended")
            end = offset + piece.bytes < 4096 + layout.dataBytes ? offset + piece.bytes : nil
            precondition(cursor.fileOffset == end, "the next byte is \(String(describing: cursor.fileOffset)), not \(String(describing: end))")
        }
    }

    private static func reply(_ bytes: [UInt8]) {
        _ = try? IncomingReply<Checkpoint.Open.Reply>(message: bytes)
        _ = try? IncomingReply<Checkpoint.Describe.Reply>(message: bytes)
        _ = try? IncomingReply<Operations.Status.Reply>(message: bytes)
        _ = try? IncomingReply<Operations.Runs.Reply>(message: bytes)
    }

    // A rank's files.

    private static func head(_ bytes: [UInt8], fileBytes: Int) {
        guard let head = try? FileHeader.parse(prefix: bytes, fileBytes: fileBytes) else { return }
        let end = head.table.shards.last.map { $0.fileOffset + $0.bytes } ?? head.dataStart
        precondition(end <= fileBytes, "a head that opens says more than its file has")
        index([head.table], worldSize: head.worldSize)
    }

    /// `json` behind its length, padded to where data begins; the file is as long as its last number but one says.
    private static func header(_ json: [UInt8]) {
        let dataStart = (8 + json.count + Sizes.alignment - 1) / Sizes.alignment * Sizes.alignment
        var bytes = (0..<8).map { UInt8(truncatingIfNeeded: (dataStart - 8) >> (8 * $0)) } + json
        bytes += Array(repeating: UInt8(ascii: " "), count: dataStart - bytes.count)
        for dataBytes in Seeds.dataBytes { head(bytes, fileBytes: dataStart + dataBytes) }
    }

    private static func index(_ tables: [RankTable], worldSize: Int) {
        _ = try? Tiling.check(tables: tables)
        let layout = StoredLayout(worldSize: worldSize, tables: tables)
        boxes(StepCatalog(step: 1, sequence: CommitSequence(attempt: 1, count: 1), save: Seeds.save, metadata: [:], layout: layout))
    }

    /// The first tensors and objects are asked for whole, as a restore does; large ones, whose plan is large too, are not.
    private static func boxes(_ catalog: StepCatalog) {
        for table in catalog.layout.tables(nil, once: true).prefix(4) {
            for stored in table.shards.prefix(8) {
                let shard = stored.shard
                let rank = shard.isPrivate ? table.rank : nil
                guard (shard.globalShape ?? shard.shape).allSatisfy({ $0 < 64 }), shard.shape.count < 4 else { continue }
                _ = try? SlicePlan.make(catalog: catalog, boxes: [Box(name: shard.name, rank: rank)])
                _ = try? SlicePlan.make(catalog: catalog, boxes: [Box(name: shard.name, offsets: shard.offsets ?? shard.shape.map { _ in 0 },
                                                                      shape: shard.shape, rank: rank)])
            }
            for stored in table.objects.prefix(4) { _ = try? SlicePlan.make(catalog: catalog, boxes: [Box(name: stored.object.name, rank: table.rank)]) }
        }
    }

    // A file of frames.

    private static func seekTable(_ bytes: [UInt8]) {
        // A table for files that have as many chunks as it has rows, of frames that are as long as it says.
        let frames = max(0, (bytes.count - SeekTable.bytes(frames: 0)) / 8)
        func word(_ offset: Int) -> Int { (0..<4).reduce(0) { $0 | Int(bytes[offset + $1]) << (8 * $1) } }
        let fileBytes = (0..<frames).reduce(bytes.count) { $0 + word(8 + 8 * $1) }
        for rest in Seeds.lastChunkBytes {
            let plainBytes = (frames - 1) * Sizes.chunkBytes + rest
            guard plainBytes >= 0, let table = try? SeekTable.decode(bytes, plainBytes: plainBytes, fileBytes: fileBytes) else { continue }
            precondition(table.encode(plainBytes: plainBytes) == bytes, "a seek table changes as it is written")
            precondition((0..<table.count).allSatisfy { table.frame($0).upperBound <= fileBytes - bytes.count }, "a frame lies behind the frames")
        }
    }

    private static func frame(_ bytes: [UInt8]) {
        guard !bytes.isEmpty, let stored = try? MemoryMap(anonymous: bytes.count), let content = try? MemoryMap(anonymous: Seeds.frameContentBytes),
              let decompressor = try? ZstdDecompressor() else { return }
        stored.copy(from: bytes, at: 0)
        for count in [content.bytes, 1] { _ = try? decompressor.decompress(stored, offset: 0, bytes: bytes.count, to: content, at: 0, content: count) }
        var isGiven = false
        let beginning = try? decompressor.beginning(1000) {
            defer { isGiven = true }
            return isGiven ? [] : bytes
        }
        precondition(beginning?.count ?? 0 <= 1000, "more than was asked for")
    }

    // Records.

    /// The record that a body would be, if it can be one.
    private static func sealed(_ body: [UInt8]) -> [UInt8]? {
        guard body.count > 2, body.first == UInt8(ascii: "{"), body.last == UInt8(ascii: "}") else { return nil }
        return Record.seal(body)
    }

    @discardableResult
    private static func again<Value: RecordValue & Equatable>(_ type: Value.Type, _ body: [UInt8]) -> Value? {
        guard let record = sealed(body), let value = try? Record.decode(type, from: record) else { return nil }
        do {
            let read = try Record.decode(type, from: Record.encode(value))
            precondition(read == value, "\(type) changes as it is written")
        } catch { preconditionFailure("\(type) does not open once it is written: \(error)") }
        return value
    }

    private static func decision(_ body: [UInt8]) {
        guard let record = again(DecisionRecord.self, body), case .commit(let commit) = record.decision else { return }
        _ = commit.folder
        _ = commit.sequence.wire
        let next = commit.branched(from: record.run)
        _ = Lineage.markSuperseded([commit.summary(pinned: false), next.summary(pinned: true)])
    }

    private static func layout(_ body: [UInt8]) {
        guard let record = sealed(body), let layout = try? LayoutFile.decode(record) else { return }
        do {
            let read = try LayoutFile.decode(LayoutFile.encode(layout))
            precondition(read == layout, "a layout changes as it is written")
        } catch { preconditionFailure("a layout does not open once it is written: \(error)") }
        _ = try? Tiling.check(layout)
        boxes(StepCatalog(step: 1, sequence: CommitSequence(attempt: 1, count: 1), save: Seeds.save, metadata: [:], layout: layout))
    }

    private static func names(_ bytes: [UInt8]) {
        let name = String(decoding: bytes, as: UTF8.self)
        _ = RunKey.isValidName(name)
        _ = RunName(name)
        _ = SaveID(name)
        if let sequence = CommitSequence(name) { _ = sequence.wire }
        _ = (Names.rankFile(name), Names.isBesidePin(name), Names.layoutDigest(name), Names.attemptNumber(name), Names.attemptFolderNumber(name))
        if let (save, file) = Names.besideFile(name) { _ = "\(save)\(file.rank)" }
        if let (step, sequence) = Names.step(name) { precondition(Names.stepFolder(step: step, sequence: sequence) == name, "a step's folder has two names") }
        _ = (Names.decidedSave(name), Names.restoreNumber(name), Names.settled(name)?.node, Names.haveNode(name), Names.saving(name), Names.goneSeconds(name))
    }
}
