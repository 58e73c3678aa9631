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

    func lease(_ segment: Int) -> MemoryMap? { leases.withLock { $0[segment] } }

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

    /// Each block is copied right after its check, while it is in the processor's cache; nobody is told of the lease's bytes before all have passed.
    private func copyOut(_ source: CopySource, checks: [UInt64], copies: [UInt64]) throws(CopyFailure) {
        let resolve = try resolver(source)
        var unchecked: [Int: Int] = [:]                // the source's block: its place in `checks`
        for at in stride(from: 0, to: checks.count, by: 4) {
            guard let offset = Int(exactly: checks[at]), offset.isMultiple(of: Sizes.blockBytes), checks[at + 1] <= Sizes.blockBytes else {
                throw CopyFailure(offset: nil, text: "check of \(checks[at + 1]) bytes at \(checks[at]) is of no block")
            }
            unchecked[offset / Sizes.blockBytes] = at
        }
        func check(_ at: Int) throws(CopyFailure) {
            let offset = Int(checks[at]), bytes = Int(checks[at + 1])
            guard let ranges = resolve(offset, bytes) else {
                throw CopyFailure(offset: nil, text: "check of \(bytes) bytes at \(offset) is outside of its source")
            }
            let found = ranges.reduce(UInt32(0)) { $1.map.crc32c(offset: $1.offset, bytes: $1.bytes, seed: $0) }
            guard UInt64(found) == checks[at + 2] else {
                throw CopyFailure(offset: offset, text: "CRC32C of \(bytes) bytes is \(hex(UInt64(found))), staged as \(hex(checks[at + 2]))")
            }
        }
        for at in stride(from: 0, to: copies.count, by: 4) {
            guard let offset = Int(exactly: copies[at]), let segment = Int(exactly: copies[at + 1]), let target = Int(exactly: copies[at + 2]),
                  let bytes = Int(exactly: copies[at + 3]), resolve(offset, bytes) != nil else {
                throw CopyFailure(offset: nil, text: "copy of \(copies[at + 3]) bytes from \(copies[at]) is outside of its source")
            }
            guard let lease = leases.withLock({ $0[segment] }) else { throw CopyFailure(offset: nil, text: "no lease \(segment)") }
            guard target <= lease.bytes, bytes <= lease.bytes - target else {
                throw CopyFailure(offset: nil, text: "\(bytes) bytes at \(target) do not fit lease \(segment) of \(lease.bytes) bytes")
            }
            var done = 0
            while done < bytes {
                let block = (offset + done) / Sizes.blockBytes
                if let place = unchecked.removeValue(forKey: block) { try check(place) }
                // Without checks there is nothing to wait for at a block's end.
                let count = checks.isEmpty ? bytes : min(bytes - done, (block + 1) * Sizes.blockBytes - offset - done)
                var to = target + done
                for range in resolve(offset + done, count) ?? [] {
                    lease.copy(from: range.map, at: range.offset, to: to, bytes: range.bytes)
                    to += range.bytes
                }
                done += count
            }
        }
        for place in unchecked.values.sorted() { try check(place) }
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
