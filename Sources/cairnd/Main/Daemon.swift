// The main process: decides, and only that. One thread (the loop's) owns everything here: engine, connections, sessions,
// worker links. No call here can be blocked by a filesystem or by a rank's memory (I9): those are the workers'.
//   client bytes -> Connection -> handle(call) -> Event -> Engine -> Actions -> perform: replies, worker requests, notices
//   worker frames -> WorkerLink -> stagerFrame / tierFrame -> Event -> …
// Files: Daemon+Workers (links, frames), Daemon+Kept (what a former process left in the pool), Daemon+Reload (SIGHUP), Daemon+Actions (what the engine asks for), Daemon+Keeping (times, history, the keeper), Daemon+Stop, Calls/ (the interfaces).
import CairnConfiguration
import CairnEngine
import CairnIO
import CairnKeeper
import CairnMessages
import CairnModel
import CairnStore
import CairnWire
import FoundationEssentials

final class Daemon {
    let loop: EventLoop
    let log: Log
    /// SIGHUP changes some of it (Daemon+Reload).
    var configuration: Configuration
    let isSocketGiven: Bool
    var isReloading = false
    let configurationFile: String?
    let engine: Engine
    let node: String
    let instance = Entropy.hex(bytes: 4)
    let startedAt = Clock.monotonicNanoseconds()
    let poolShape: PoolShape
    let poolSegments: [SharedMemory]
    /// What of the pool outlives this process; nil: no service manager keeps it.
    let kept: KeptMemory?
    /// Until what a former process kept is taken up, no tier is started and no rank is served.
    var takingUp: TakingUp?
    var hasTakenUp = false
    var operators: OperatorRule

    let stager: WorkerLink
    var tierLinks: [Tier: WorkerLink] = [:]
    /// The read buffer of each tier's running worker.
    var tierBuffers: [Tier: SharedMemory] = [:]
    var tierSpaces: [Tier: [PathSpace]] = [:]
    /// Of files that a tier with a compression published in this life.
    var stored = StoredFiles()

    let memoryListener: Descriptor
    private let listener: Descriptor
    /// False where systemd made them: they outlive this process.
    let socketsAreOurs: Bool
    private var listenWatch: Watch?

    var connections: [Int: Connection] = [:]
    private var connectionsOfUser: [UInt32: Int] = [:]
    private var nextConnection = 1
    var sessions: [String: ClientSession] = [:]
    var plans: [Int: PlannedSave] = [:]
    var watchers: [Int: Watcher] = [:]
    var nextHandle = 1, nextLayout = 1, nextSegment = 1, nextCopy = 1, nextPut = 1
    var leasedBytes = 0
    let clientMemory: ClientMemory
    private let connectionLimit: Int

    /// The engine's calls that wait for an answer.
    var engineCalls: [CallID: (Answer) -> Void] = [:]
    var nextEngineCall = 1
    /// Main's own requests to tier workers; ids far above the engine's.
    var tierCalls: [Int: TierCall] = [:]
    var nextTierCall = 1 << 40
    /// What is in memory here of the step that is being restored from there.
    var restoring: MemoryCatalog?
    var copies: [Int: (CopyResult) -> Void] = [:]
    var leasesAsked: [Int: (String?) -> Void] = [:]
    /// Of each lease that a session has, for the tiers' workers.
    var leaseMemory: [Int: SharedMemory] = [:]
    var puts: [Int: (String?) -> Void] = [:]
    /// The record in the `decision` reply being handled, a commit's or a void's: `recordDecision` copies it to the local tier.
    var decisionRecord: [UInt8] = []

    var pendingEvents: [Event] = []
    var delivering = false
    private var tick: LoopTimer?
    var filledSlots = 0, lockedSlots = 0, hugeSlots = 0
    var lockNote: String?
    var isReady = false
    var stopping = false
    var isEvicting = false
    var restoreTimes = RestoreTimes()
    var counters = Counters()
    var keeping = Keeping()
    var fatal: String?

    init(configuration: Configuration, file: String?, isSocketGiven: Bool, log: Log) throws {
        self.configuration = configuration
        configurationFile = file
        self.isSocketGiven = isSocketGiven
        self.log = log
        loop = try EventLoop()
        node = Daemon.nodeName(configuration)
        var limits = EngineLimits()
        limits.slots = configuration.pool.sizeBytes / Sizes.chunkBytes
        Daemon.set(&limits, configuration.limits)
        // Sixteen hex digits are a number of 64 bits.
        limits.jitterSeed = UInt64(Entropy.hex(bytes: 8), radix: 16) ?? 0
        var tiers: [Tier] = []
        if configuration.tiers.local != nil { tiers.append(.local) }
        if configuration.tiers.global != nil { tiers.append(.global) }
        engine = Engine(limits: limits, tiers: tiers, retention: Daemon.retention(configuration))
        poolShape = PoolShape(slots: limits.slots)
        let shape = poolShape
        var passed = SystemdNotify.listenDescriptors()
        (poolSegments, kept) = try KeptMemory.begin(&passed, shape: shape, node: node, log: log)
        operators = OperatorRule(configuration.operators)
        let messageBytes = configuration.limits.messageBytes
        clientMemory = ClientMemory(userLimit: DaemonLimits.messagesPerUser * messageBytes, limit: DaemonLimits.messages * messageBytes)
        connectionLimit = min(DaemonLimits.connections, max(16, (ProcessFacts.openFilesLimit() - DaemonLimits.reservedFiles) / 2))
        (listener, memoryListener, socketsAreOurs) = try Daemon.listen(configuration, passed: passed)
        if !UnixSocket.refuseDescriptors(listener) { log.write(.info, "this kernel, older than 6.16, lets clients send descriptors where none is taken") }
        stager = WorkerLink(role: "stager", loop: loop)
        for tier in tiers { tierLinks[tier] = WorkerLink(role: tier.rawValue, loop: loop) }
    }

    /// Names this daemon in temporary names and records, the same after each restart: the host, and which of its daemons
    /// (two of them may share a folder, each removes only its own leavings).
    private static func nodeName(_ configuration: Configuration) -> String {
        if let name = ProcessFacts.environment("CAIRN_NODE") { return Names.node(name) }
        return Names.node(String(ProcessFacts.hostname().prefix(48)) + "-" + Digest.sha256Hex(Array(configuration.socket.utf8)).prefix(8))
    }

    func start() throws {
        // From READY on; a loop that hangs gives no sign, and the manager starts the next process.
        if let milliseconds = SystemdNotify.watchdogMilliseconds() {
            loop.timer(afterMilliseconds: 0, repeatMilliseconds: milliseconds) { SystemdNotify.send(state: "WATCHDOG=1") }
        }
        try startWorkers()
        watchWatermarks()
        startKeeper()
        listenWatch = try loop.watch(listener, events: .readable) { [unowned self] _ in acceptClients() }
        log.write(.notice, "cairnd \(CairnVersion.text) on \(node): socket '\(configuration.socket)', pool \(poolShape.slots * Sizes.chunkBytes >> 20) MiB, "
            + "tiers \(engine.tiers.map(\.rawValue).joined(separator: " and ")) (commits on \(engine.committing.rawValue))")
    }

    func stopListening() {
        listenWatch?.stop()
        listenWatch = nil
    }

    private func acceptClients() {
        do {
            while let socket = try UnixSocket.accept(listener) { take(socket) }
        } catch {
            log.write(.warning, "connections wait: \(error)")
            listenWatch?.update([])
            loop.timer(afterMilliseconds: DaemonLimits.acceptPauseMilliseconds) { [weak self] in self?.listenWatch?.update(.readable) }
        }
    }

    private func take(_ socket: Descriptor) {
        do {
            let peer = try UnixSocket.peer(socket)
            let ofUser = connectionsOfUser[peer.uid, default: 0]
            guard connections.count < connectionLimit, ofUser < DaemonLimits.share(connectionLimit) else {
                return log.write(.warning, "refused a connection of uid \(peer.uid): \(connections.count) are open, \(ofUser) of this user")
            }
            let id = nextConnection
            nextConnection += 1
            connections[id] = try Connection(id: id, socket: socket, peer: peer, daemon: self)
            connectionsOfUser[peer.uid] = ofUser + 1
        } catch {
            log.write(.warning, "a connection could not be taken: \(error)")
        }
    }

    func connectionClosed(_ connection: Connection, reason: String) {
        connections[connection.id] = nil
        let ofUser = connectionsOfUser[connection.peer.uid, default: 1] - 1
        connectionsOfUser[connection.peer.uid] = ofUser == 0 ? nil : ofUser
        watchers[connection.id] = nil
        guard let session = connection.session else { return }
        if connection.isSessionSocket {
            endSession(session, reason: "its connection ended: \(reason)")
        } else {
            session.attached.removeAll { $0 === connection }
        }
    }

    /// Ends a session on this side, then tells the engine. Called once for each session.
    /// `replaced`: by the same process, whose older connection stays and is answered with NotOpen.
    func endSession(_ session: ClientSession, reason: String, replaced: Bool = false) {
        guard sessions.removeValue(forKey: session.token) != nil else { return }
        session.processWatch?.stop()
        for lease in session.leases { giveBack(lease) }
        session.leases.removeAll()
        if !session.isReader { deliver(.sessionEnded(session.token, reason: reason)) }
        if replaced {
            session.connection.session = nil
            session.connection.isSessionSocket = false
        } else {
            session.connection.close(reason)
        }
        for connection in session.attached { connection.close(reason) }
    }

    // MARK: the engine

    /// Hands an event to the engine and does what it asks for. Events that arise meanwhile wait their turn.
    func deliver(_ event: Event) {
        pendingEvents.append(event)
        guard !delivering else { return }
        delivering = true
        var next = 0
        while next < pendingEvents.count {
            let event = pendingEvents[next]
            next += 1
            for action in engine.handle(event, at: loop.nowNanoseconds) { perform(action) }
        }
        pendingEvents.removeAll(keepingCapacity: true)
        delivering = false
        updateTick()
    }

    /// No timer while the engine waits for nothing: an idle daemon sleeps.
    func updateTick() {
        let wanted = engine.needsTick || !tierCalls.isEmpty
        if wanted, tick == nil {
            tick = loop.timer(afterMilliseconds: DaemonLimits.tickMilliseconds, repeatMilliseconds: DaemonLimits.tickMilliseconds) { [unowned self] in
                expireTierCalls()
                deliver(.tick)
            }
        } else if !wanted, let tick {
            tick.stop()
            self.tick = nil
        }
    }

    func engineCall(_ context: CallContext, _ handler: @escaping (Answer) -> Void) -> CallID {
        let call = nextEngineCall
        nextEngineCall += 1
        engineCalls[call] = handler
        context.connection.onGone = { [unowned self] in
            if engineCalls.removeValue(forKey: call) != nil { deliver(.callGone(call)) }
        }
        return call
    }
}

/// Totals since the start, for metrics.
struct Counters {
    var saves = 0, staged = 0, committed = 0, failed = 0, restores = 0, loads = 0
    var stagedBytes = 0
    var failures: [FailureKind: Int] = [:]
    /// By the error's name.
    var refused: [String: Int] = [:]
    /// Steps, not ranks.
    var commitsOfRun: [RunKey: Int] = [:], failuresOfRun: [RunKey: Int] = [:]
    var lastCommitted: [RunKey: SaveID] = [:], lastFailed: [RunKey: SaveID] = [:]
    /// By the tier that they came from.
    var loadedBytes: [Tier: Int] = [:]
}

/// Who sees every user's runs.
struct OperatorRule {
    private let users: Set<UInt32>
    private let groups: Set<UInt32>

    init(_ configuration: Configuration.Operators) {
        users = Set(configuration.users.compactMap { UInt32($0) ?? ProcessFacts.uid(ofUser: $0) })
        groups = Set(configuration.groups.compactMap { UInt32($0) ?? ProcessFacts.gid(ofGroup: $0) })
    }
    /// By what the kernel says of the peer: a name service that hangs must not stop the loop.
    func allows(_ connection: Connection) -> Bool {
        users.contains(connection.peer.uid) || groups.contains(connection.peer.gid)
            || (!groups.isEmpty && !groups.isDisjoint(with: UnixSocket.groups(connection.socket)))
    }
}
