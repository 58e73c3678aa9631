// A rank's session in the words of the wire: saves what lies in this process's memory and loads it back, as the Python package does.
// Belongs to one thread, like its connection.
import CairnClient
import CairnIO
import CairnModel
import CairnWire

final class RankSession {
    /// Shared memory of the daemon into which it loads.
    struct Lease {
        let segment: Int
        let map: MemoryMap
    }

    let connection: Connection
    private let timeout: Int

    /// A world of one rank, and an attempt of its own. `timeoutMilliseconds` bounds every call that says no other bound.
    init(socket: String, run: String, timeoutMilliseconds: Int) throws(ClientError) {
        timeout = timeoutMilliseconds
        connection = try Connection.open(socket: socket)
        do throws(IOFailure) { ProcessFacts.permitReading(by: try UnixSocket.peer(connection.descriptor).pid) } catch { throw .failed(error) }
        let opened = try connection.call(Checkpoint.Open.self, .init(run: run, rank: 0, worldSize: 1), timeoutMilliseconds: timeout)
        guard opened.memory else { return }
        let memory: Descriptor
        do { memory = try RankMemory.openOwn() } catch { throw .failed(error) }
        _ = try Connection.open(socket: connection.socketPath + ".memory")
            .call(Checkpoint.Attach.self, .init(session: opened.session, memory: 0), descriptors: [memory], timeoutMilliseconds: timeout)
    }

    func register(_ shards: [Checkpoint.Shard]) throws(ClientError) -> String {
        try connection.call(Checkpoint.Register.self, .init(shards: shards), timeoutMilliseconds: timeout).layout
    }

    /// The save's id.
    func save(step: Int, layout: String) throws(ClientError) -> String {
        try connection.call(Checkpoint.Save.self, .init(step: step, attemptTry: 1, layout: layout), timeoutMilliseconds: timeout).save
    }

    /// Waits until the save is at the level or beyond; throws where it failed.
    func wait(_ save: String, _ level: Level, timeoutMilliseconds: Int) throws(ClientError) {
        // The daemon gives up first, with its own words.
        let reply = try connection.call(Checkpoint.Wait.self, .init(save: save, level: level, timeoutMs: timeoutMilliseconds),
                                        timeoutMilliseconds: timeoutMilliseconds + timeout)
        if reply.level == .failed { throw .refused(.failed(reason: "the save failed: \(reply.reason ?? "no reason was given")")) }
    }

    func lease(bytes: Int) throws(ClientError) -> Lease {
        let reply = try connection.call(Checkpoint.Lease.self, .init(bytes: bytes), timeoutMilliseconds: timeout)
        // Without its memory a lease is no use, as little as the daemon that gives it.
        guard let memory = connection.takeDescriptors().first else { throw .closed(socket: connection.socketPath) }
        do { return Lease(segment: reply.segment, map: try MemoryMap(memory, bytes: reply.bytes, writable: false)) } catch { throw .failed(error) }
    }

    func release(_ lease: Lease) throws(ClientError) {
        _ = try connection.call(Checkpoint.Release.self, .init(segment: lease.segment), timeoutMilliseconds: timeout)
    }

    /// Waits until all saves are staged, then ends the session.
    func close() throws(ClientError) {
        _ = try connection.call(Checkpoint.Close.self, Nothing(), timeoutMilliseconds: timeout)
    }
}
