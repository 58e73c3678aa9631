// Restores and leases: copies between memory of our own, at normal priority, since a rank waits for them.
import CairnIO
import CairnMessages
import CairnModel

final class ServiceThreads: Sendable {
    enum Job: Sendable {
        case lease(segment: Int, SharedMemory)
        case copyOut(id: Int, CopySource, checks: [UInt64], copies: [UInt64])
        /// Dropped here, not on the main thread: closing what a client gave can take long.
        case forget(Session)
    }

    private let pool: PoolMemory
    private let outbox: Outbox
    private let jobs = WorkQueue<Job>(capacity: StagerLimits.serviceJobs)
    private let leases = Monitor<[Int: MemoryMap]>([:])
    private let buffers = Monitor<[Tier: (instance: String, map: MemoryMap)]>([:])

    init(_ pool: PoolMemory, outbox: Outbox) { self.pool = pool; self.outbox = outbox }

    func start() throws(IOFailure) {
        for number in 1...StagerLimits.serviceThreads {
            try Threads.spawn(name: "service-\(number)") {
                while let job = self.jobs.pop() { self.run(job) }
            }
        }
    }

    func stop() { jobs.close() }

    func push(_ job: Job) {
        guard !jobs.tryPush(job) else { return }
        switch job {
        case .lease(let segment, _): outbox.post(.leaseFailed(segment: segment, text: "\(jobs.capacity) restores and leases wait already"))
        case .copyOut(let id, _, _, _): outbox.post(.copyFailed(id: id, offset: nil, text: "\(jobs.capacity) restores wait already"))
        case .forget: break
        }
    }

    func release(segment: Int) { leases.withLock { $0[segment] = nil } }

    func setBuffer(_ tier: Tier, instance: String, _ map: MemoryMap) { buffers.withLock { $0[tier] = (instance, map) } }

    private func run(_ job: Job) {
        switch job {
        case .forget: break
        case .lease(let segment, let memory):
            do {
                let map = try memory.map(writable: true)
                try map.prefault(offset: 0, bytes: map.bytes)
                leases.withLock { $0[segment] = map }
                outbox.post(.leased(segment: segment))
            } catch {
                outbox.post(.leaseFailed(segment: segment, text: "\(error)"))
            }
        case .copyOut(let id, let source, let checks, let copies):
            do {
                try copyOut(source, checks: checks, copies: copies)
                outbox.post(.copiedOut(id: id))
            } catch {
                outbox.post(.copyFailed(id: id, offset: error.offset, text: error.text))
            }
        }
    }

    private struct CopyFailure: Error { var offset: Int?; var text: String }

    private func copyOut(_ source: CopySource, checks: [UInt64], copies: [UInt64]) throws(CopyFailure) {
        let resolve = try resolver(source)
        for at in stride(from: 0, to: checks.count, by: 4) {
            guard let offset = Int(exactly: checks[at]), let bytes = Int(exactly: checks[at + 1]), let ranges = resolve(offset, bytes) else {
                throw CopyFailure(offset: nil, text: "check of \(checks[at + 1]) bytes at \(checks[at]) is outside of its source")
            }
            let found = ranges.reduce(UInt32(0)) { $1.map.crc32c(offset: $1.offset, bytes: $1.bytes, seed: $0) }
            guard UInt64(found) == checks[at + 2] else {
                throw CopyFailure(offset: offset, text: "CRC32C of \(bytes) bytes is \(hex(UInt64(found))), staged as \(hex(checks[at + 2]))")
            }
        }
        for at in stride(from: 0, to: copies.count, by: 4) {
            guard let offset = Int(exactly: copies[at]), let segment = Int(exactly: copies[at + 1]), let target = Int(exactly: copies[at + 2]),
                  let bytes = Int(exactly: copies[at + 3]), let ranges = resolve(offset, bytes) else {
                throw CopyFailure(offset: nil, text: "copy of \(copies[at + 3]) bytes from \(copies[at]) is outside of its source")
            }
            guard let lease = leases.withLock({ $0[segment] }) else { throw CopyFailure(offset: nil, text: "no lease \(segment)") }
            guard target <= lease.bytes, bytes <= lease.bytes - target else {
                throw CopyFailure(offset: nil, text: "\(bytes) bytes at \(target) do not fit lease \(segment) of \(lease.bytes) bytes")
            }
            var to = target
            for range in ranges {
                lease.copy(from: range.map, at: range.offset, to: to, bytes: range.bytes)
                to += range.bytes
            }
        }
    }

    private typealias Resolver = (Int, Int) -> [(map: MemoryMap, offset: Int, bytes: Int)]?

    private func resolver(_ source: CopySource) throws(CopyFailure) -> Resolver {
        switch source {
        case .pool: return { self.pool.ranges($0, $1) }
        case .buffer(let tier, let instance):
            guard let buffer = buffers.withLock({ $0[tier] }), buffer.instance == instance else {
                throw CopyFailure(offset: nil, text: "the \(tier.rawValue) tier's worker was started anew meanwhile")
            }
            return { offset, bytes in
                guard offset >= 0, bytes >= 0, offset <= buffer.map.bytes, bytes <= buffer.map.bytes - offset else { return nil }
                return [(buffer.map, offset, bytes)]
            }
        }
    }

    private func hex(_ value: UInt64) -> String { String(value, radix: 16) }
}
