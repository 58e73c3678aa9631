// What the fuzzer starts from: a few right inputs of each parser, made by the code that writes them.
import CairnIO
import CairnMessages
import CairnModel
import CairnStore
import CairnTier
import CairnWire

enum Seeds {
    static let run = RunKey(uid: 1000, name: "llama")
    static let save = SaveID(attempt: 17, step: 1200, attemptTry: 1)

    static func shards(rank: Int) -> [Shard] {
        [Shard(name: "bias", dtype: "BF16", shape: [3], isPrivate: true),
         Shard(name: "weight", dtype: "F32", shape: [2, 3], globalShape: [4, 3], offsets: [2 * rank, 0], eager: false),
         Shard(name: "norm \"é", dtype: "F64", shape: [2], replica: rank, replicas: 2),
         Shard(name: "rotary", dtype: "C128", shape: [2], globalShape: [4], offsets: [2 * rank]),
         Shard(name: "flat", dtype: "U8", shape: [3], globalShape: [2, 3], offsets: [3 * rank]),
         Shard(name: "scalar", dtype: "I64", shape: [], isPrivate: true),
         Shard(name: "empty", dtype: "F16", shape: [0, 5], isPrivate: true)]
    }
    private static func objects(rank: Int) -> [ObjectInfo] {
        [ObjectInfo(name: "epoch", scope: .shared, bytes: 1), ObjectInfo(name: "loader", scope: .keyed, key: "k-\(rank)", bytes: 7)]
    }

    private static func plan(rank: Int) -> FilePlan {
        do {
            let layout = try Layout.make(shards: shards(rank: rank), rank: rank, worldSize: 2)
            return try FileHeader.make(layout: layout, objects: objects(rank: rank), run: run, save: save, rank: rank, worldSize: 2)
        } catch { preconditionFailure("the seeds are valid: \(error)") }
    }

    private static let plans = [plan(rank: 0), plan(rank: 1)]
    /// Sizes of data that the heads below, and small ones made from them, may belong to.
    static let dataBytes = Set(plans.map { $0.fileBytes - $0.dataStart } + [0, 6, 24]).sorted()

    static let catalog = StepCatalog(StepIndex(step: 1200, sequence: CommitSequence(attempt: 17, count: 41), save: save, worldSize: 2, metadata: [:],
                                               ranks: plans.map(\.table)))

    private static func manifest(rank: Int) -> Manifest {
        Manifest(run: run, save: save, rank: rank, worldSize: 2, layoutDigest: String(repeating: "a", count: 32), fileBytes: 300_000, dataStart: 4096,
                 crcs: [1, 2], count: rank == 0 ? 41 : nil, parent: rank == 0 ? CommitSequence(attempt: 16, count: 9) : nil, participants: [0, 1],
                 objects: ["epoch": 7], metadata: ["note": "a \"b\""], savedAt: "2026-01-02T03:04:05Z", node: "node-1")
    }

    private static let rows = (0..<2).map { rank in
        ManifestRow(rank: rank, fileBytes: 300_000, digest: Record.digest(Record.encode(manifest(rank: rank))) ?? "", contentDigest: manifest(rank: rank).contentDigest)
    }
    private static let commit = Commit(
        sequence: CommitSequence(attempt: 17, count: 41), parent: CommitSequence(attempt: 16, count: 9), step: 1200, save: save, worldSize: 2,
        rows: rows, manifestsDigest: ManifestRows.encode(rows).digest, layoutFile: Names.layout(digest: String(repeating: "b", count: 32)),
        metadata: ["note": "x"], savedAt: "2026-01-02T03:04:05Z")

    private static let have = HaveRecord(run: run, attempt: 18, node: "node-1", list: HaveList(
        serves: [0, 1], saves: [HeldSave(save: save, worldSize: 2, upto: .committed, participants: [0, 1], ranks: [0, 1], level: .local, count: 41)],
        served: [HaveList.ServedRanks(attempt: 17, ranks: [0, 1])]))

    /// Sizes of a file's last chunk that the tables below, and those made from them, may belong to.
    static let lastChunkBytes = [77, Sizes.chunkBytes]
    static let frameContentBytes = 8192
    private static func frame() -> [UInt8] {
        do {
            let plain = try MemoryMap(anonymous: frameContentBytes), frame = try MemoryMap(anonymous: Zstd.bound(frameContentBytes))
            plain.copy(from: (0..<frameContentBytes).map { UInt8(truncatingIfNeeded: $0 * $0 / 7) }, at: 0)
            let bytes = try ZstdCompressor(level: 1).compress(plain, offset: 0, bytes: plain.bytes, to: frame, at: 0, room: frame.bytes)
            return frame.copyBytes(offset: 0, count: bytes)
        } catch { preconditionFailure("a frame of our own cannot be made: \(error)") }
    }
    private static func compressed() -> Manifest {
        var manifest = manifest(rank: 1)
        manifest.compression = .zstd(storedBytes: 200_000, table: [1])
        return manifest
    }

    private static func body(_ value: some RecordValue) -> [UInt8] { body(Record.encode(value)) }
    private static func body(_ record: [UInt8]) -> [UInt8] {
        do { return try Record.open(record) } catch { preconditionFailure("a record of our own does not open: \(error)") }
    }
    private static func text(_ texts: String...) -> [[UInt8]] { texts.map { Array($0.utf8) } }

    /// The JSON of a head, without the spaces behind it.
    private static func json(_ plan: FilePlan) -> [UInt8] {
        let json = plan.headerBytes.dropFirst(8)
        return Array(json[...(json.lastIndex(of: UInt8(ascii: "}")) ?? json.startIndex)])
    }

    static func of(_ parser: Parser) -> [[UInt8]] {
        switch parser {
        case .stream: calls.map { [3] + $0 + [0] + $0 + [0] }
        case .call: calls
        case .reply: replies
        case .head: plans.map { $0.headerBytes + Array(repeating: 0, count: $0.fileBytes - $0.dataStart) }
        case .header: plans.map(json)
        case .checksums: [BlockChecksums.encode([]), BlockChecksums.encode([1])]
        case .seekTable:
            [SeekTable(frameBytes: [90]).encode(plainBytes: 77), SeekTable(frameBytes: [5_000_000, 400]).encode(plainBytes: 2 * Sizes.chunkBytes),
             SeekTable(frameBytes: [300, 6_000_000, 20]).encode(plainBytes: 2 * Sizes.chunkBytes + 77)]
        case .frame: [frame()]
        case .layout:
            [body(LayoutFile.encode(worldSize: 2, tables: plans.map(\.table)))]
                // Ranks that form one run, and the same with a number that asks for more of them.
                + text(#"{"format":"cairn-1","worldSize":4,"runs":[{"first":0,"stride":1,"count":4,"shards":[["w","U8",[2],[8],[0],null,null,false,[2]]]}],"objects":[[]],"files":[[0,4096,0,[]],[1,4096,0,[]],[2,4096,0,[]],[3,4096,0,[]]]}"#)
        case .manifest: [body(manifest(rank: 0)), body(manifest(rank: 1)), body(compressed())]
        case .decision:
            [.commit(commit), .commit(commit.branched(from: "older")), .void(reason: "rank 3 cannot deliver")].map { (decision: Decision) in
                if case .commit(let commit) = decision { body(DecisionRecord(run: run, save: commit.save, decision)) } else { body(DecisionRecord(run: run, save: save, decision)) }
            }
        case .attempt: [body(AttemptRecord(run: run, number: 17, tokenHash: "abc", worldSize: 2, node: "n", startedAt: "2026-01-02T03:04:05Z"))]
        case .have: [body(have)]
        case .choice: [body(RestoreChoice(attempt: 17, restore: 3, step: 1200, sequence: CommitSequence(attempt: 16, count: 2), save: save, level: .committed))]
        case .settle: [body(SettleRecord(node: "n", attempt: 17, restore: 3, ranks: [0, 1], ok: true, reason: "r"))]
        case .verdict: [body(SettleVerdict(attempt: 17, restore: 3, ok: false, reason: "r"))]
        case .record: [Record.encode(manifest(rank: 0)), StepIndexFile.encode(catalog)]
        case .history:
            [MessageCoding.encode(Operations.PastSave(uid: 5, run: "llama", save: "17-1200-1", step: 1200, rank: 3, worldSize: 8, acceptedMs: 1_785_499_200_000, level: .committed, bytes: 9,
                                                      callUs: 1, fenceUs: 2, poolWaitUs: 3, stagedUs: 4, localUs: 5, globalUs: 6, committedUs: 7, reason: "r"))]
        case .names:
            text("llama", "1000/llama", "17-1200-1", "17-41", "rank-00003.safetensors", "rank-00003.safetensors.zst", "rank-00003.crc", "rank-00003-\(String(repeating: "a", count: 32)).json",
                 "17-1200-1.rank-00003.replicas.crc", "17-1200-1.pin", "layout-\(String(repeating: "b", count: 32)).json", "000017.json", "restore-3.json",
                 "settled-3-node-1.json", "have-node-1.json", ".saving-17-1200-1", "step-1200.17-41", ".gone-1700000000.17-1200-1")
        case .configuration:
            text("""
                socket: /run/cairn/cairn.sock
                pool: {size: 4GiB, chunk: 8MiB, lock: auto}
                tiers:
                  local: {paths: [/a, /b], reserve: 1GiB, shared: false, io: auto, direct: auto}
                  global: {path: /c, compression: none, compressionThreads: 2}
                retention: {local: {keep: 2, keepPeriod: null}, global: {keep: 5, keepPeriod: 1000}}
                operators: {users: [root], groups: [cairn-ops]}
                files: {mode: "0640", group: null}
                limits: {inFlightPerRank: 2, messageBytes: 64MiB, fence: 30s, commitTimeout: 30min, loadBytes: 1GiB}
                """, "tiers: &a {local: {paths: [/x]}}\nfiles: *a\n", "tiers:\n  local:\n    paths:\n    - /x\n")
        }
    }

    private static let calls = text(
        #"{"method":"dev.cairn.Checkpoint.Open","parameters":{"run":"llama","rank":0,"worldSize":2,"localRank":0,"localWorldSize":2,"attempt":"x"}}"#,
        #"{"method":"dev.cairn.Checkpoint.Register","parameters":{"shards":[{"name":"w","dtype":"F32","shape":[2,3],"globalShape":[4,3],"offsets":[2,0],"eager":false,"source":{"memory":[{"address":4096,"bytes":24}]}},{"name":"\u00e9","dtype":"C64","shape":[2],"replica":0,"replicas":2,"source":{"memory":[]}},{"name":"p","dtype":"BF16","shape":[],"private":true,"source":{"descriptor":0,"offset":0}}]}}"#,
        #"{"method":"dev.cairn.Checkpoint.Save","parameters":{"step":1,"try":1,"layout":"x-1","objects":[{"name":"e","scope":"keyed","key":"k","bytes":3,"source":{"memory":[{"address":4096,"bytes":3}]}}],"upto":"local","participants":[0,1],"metadata":{"a":"b"},"hold":false}}"#,
        #"{"method":"dev.cairn.Checkpoint.Put","parameters":{"save":"17-1200-1","pieces":[{"name":"norm \"é","begin":0,"bytes":16,"segment":1,"offset":0},{"name":"scalar","begin":0,"bytes":8,"segment":1,"offset":16}]}}"#,
        #"{"method":"dev.cairn.Checkpoint.Load","parameters":{"step":1200,"sequence":73014444073,"boxes":[{"name":"weight","offsets":[1,0],"shape":[2,3]},{"name":"norm \"é"},{"name":"bias","rank":1},{"name":"loader","rank":0},{"name":"rotary"}],"segments":[1]}}"#,
        #"{"method":"dev.cairn.Checkpoint.Wait","parameters":{"save":"17-1200-1","level":"staged","timeoutMs":100},"more":false,"oneway":false}"#,
        #"{"method":"dev.cairn.Checkpoint.Watch","parameters":{"run":"llama","rank":null},"more":true}"#,
        #"{"method":"dev.cairn.Operations.Describe","parameters":{"run":"1000/llama","step":1200}}"#,
        #"{"method":"org.varlink.service.GetInterfaceDescription","parameters":{"interface":"dev.cairn.Checkpoint"}}"#)

    private static let replies = text(
        #"{"parameters":{"session":"s","node":"n","memory":true,"limits":{"leases":64,"loadBytes":1073741824}},"continues":true}"#,
        #"{"error":"dev.cairn.Checkpoint.NotWhole","parameters":{"step":3,"missing":[1,2]}}"#,
        #"{"error":"dev.cairn.Checkpoint.Corrupt","parameters":{"path":"/a","block":-1}}"#,
        #"{"parameters":{"worldSize":2,"shards":[{"name":"w","dtype":"F32","shape":[2],"source":{}}],"objects":[{"name":"e","scope":"shared","bytes":1,"source":{}}],"metadata":{"a":"b"}}}"#,
        #"{"parameters":{"runs":[]}}"#)
}
