// One rank's session as the main process keeps it: its process, its connections, its layouts and its leases.
import CairnIO
import CairnMessages
import CairnModel
import CairnStore

final class ClientSession {
    let token: String
    let run: RunKey
    let rank: Int, worldSize: Int
    let pid: Int32
    /// Hash of the attempt's token alone.
    let launch: String
    let connection: Connection
    var attached: [Connection] = []
    /// Sees the process end: its sockets may live on in forked children.
    var processWatch: Watch?
    /// By their name on the wire, oldest first.
    var layouts: [(name: String, layout: RegisteredLayout)] = []
    /// Bytes of each lease by its segment, in the order they were lent.
    var leases: [LeaseSegment] = []
    /// Segments into which a tier may still write what it was asked for and did not answer.
    var lostLeases: Set<Int> = []
    /// Tiers that did not answer a Load: the others are asked first.
    var slowTiers: Set<Tier> = []
    var isOpen = false
    /// It reads what is committed; the engine does not know it.
    let isReader: Bool

    init(token: String, run: RunKey, rank: Int, worldSize: Int, pid: Int32, launch: String, isReader: Bool, connection: Connection) {
        self.token = token
        self.run = run
        self.rank = rank
        self.worldSize = worldSize
        self.pid = pid
        self.launch = launch
        self.isReader = isReader
        self.connection = connection
    }

    func layout(_ name: String) -> RegisteredLayout? { layouts.first { $0.name == name }?.layout }
}

struct RegisteredLayout {
    /// Main's own number of it; the stager knows it by this.
    let number: Int
    let layout: Layout
    let hasEagerBytes: Bool
    /// Streamed shards, as places in the layout's entries.
    let streamed: [Int]
    let charge: MemoryCharge
}

/// What main keeps of one rank's save until the engine forgets it: what the file is, and its blocks' CRCs as they come.
final class PlannedSave {
    let session: String
    /// `rank`: the file's number, that of a rank's own part or of its copies.
    let run: RunKey, save: SaveID, rank: Int, worldSize: Int
    /// How many ranks take part.
    let memberCount: Int
    let layoutDigest: String
    var plan: FilePlan
    let metadata: [String: String]
    let parent: CommitSequence?
    /// As it was asked for; a promotion raises what the engine says.
    let upto: Level
    let savedAt: String
    private let charge: MemoryCharge
    var crcs: [UInt32]
    /// What the file holds, under its number.
    var table: RankTable {
        var table = plan.table
        table.rank = rank
        return table
    }
    /// The manifest's record and name, made once: both tiers get the same bytes. And how far it says that the save is to go.
    var manifest: (name: String, bytes: [UInt8])?
    var manifestUpto: Level?
    /// What the rank has yet to put; nil: the save streams nothing.
    var stream: StreamCursor?
    /// What stands as files of their own beside it.
    let files: [Manifest.File]?
    /// Nil: it is no held save.
    let held: Held?

    /// What a Seal makes its save of.
    struct Held {
        let layout: Layout, objects: [ObjectInfo]
        let step: Int?, participants: [Int]?
    }

    init(session: String, run: RunKey, save: SaveID, rank: Int, worldSize: Int, memberCount: Int, layoutDigest: String, plan: FilePlan,
         metadata: [String: String], parent: CommitSequence?, upto: Level, savedAt: String, charge: MemoryCharge, files: [Manifest.File]? = nil, held: Held? = nil,
         stream: StreamCursor? = nil) {
        self.session = session
        self.run = run
        self.save = save
        self.rank = rank
        self.worldSize = worldSize
        self.memberCount = memberCount
        self.layoutDigest = layoutDigest
        self.plan = plan
        self.metadata = metadata
        self.parent = parent
        self.upto = upto
        self.savedAt = savedAt
        self.charge = charge
        self.files = files
        self.held = held
        self.stream = stream
        crcs = Array(repeating: 0, count: Sizes.blocks(ofFile: plan.fileBytes))
    }
}
