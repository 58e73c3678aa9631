// Leases: small segments of shared memory lent to a rank, into which a Load is copied or, from a tier, read.
import CairnEngine
import CairnIO
import CairnMessages
import CairnModel
import CairnStore
import CairnWire

extension Daemon {
    /// Bytes of all leases together: a share of the pool.
    var leaseLimit: Int { max(DaemonLimits.leaseFloor, poolShape.slots * Sizes.chunkBytes / DaemonLimits.leaseShare) }

    func lease(_ parameters: Checkpoint.Lease.Parameters, _ session: ClientSession, _ context: CallContext) {
        guard parameters.bytes > 0, parameters.bytes.isMultiple(of: 4096) else { return context.fail(.invalidParameter(parameter: "bytes")) }
        guard session.leases.count < DaemonLimits.leasesPerSession else {
            return context.fail(.tooLarge(bytes: session.leases.count + 1, limit: DaemonLimits.leasesPerSession))
        }
        guard parameters.bytes <= leaseLimit - leasedBytes else { return context.fail(.tooLarge(bytes: parameters.bytes, limit: leaseLimit - leasedBytes)) }
        let memory: SharedMemory
        do { memory = try SharedMemory.create(name: "cairn-lease-\(session.run.uid)", bytes: parameters.bytes) } catch {
            return context.fail(.failed(reason: "no memory for a lease: \(error)"))
        }
        let segment = nextSegment
        nextSegment += 1
        leasedBytes += parameters.bytes
        leasesAsked[segment] = { [unowned self, weak session] problem in
            guard problem == nil, let session, sessions[session.token] != nil else {
                leasedBytes -= parameters.bytes
                if problem == nil { stager.send(StagerRequest.release(segment: segment)) }
                return context.fail(.failed(reason: problem ?? "the session has ended"))
            }
            session.leases.append(LeaseSegment(segment: segment, bytes: parameters.bytes))
            if parameters.bytes >= DaemonLimits.leaseReadBytes { leaseMemory[segment] = memory }
            context.reply(Checkpoint.Lease.Reply(segment: segment, bytes: parameters.bytes), descriptors: [memory.descriptor])
        }
        stager.send(StagerRequest.lease(segment: segment, bytes: parameters.bytes), descriptors: [memory.descriptor])
    }

    func release(_ parameters: Checkpoint.Release.Parameters, _ session: ClientSession, _ context: CallContext) {
        guard let at = session.leases.firstIndex(where: { $0.segment == parameters.segment }) else {
            return context.fail(.invalidParameter(parameter: "segment"))
        }
        giveBack(session.leases.remove(at: at))
        session.lostLeases.remove(parameters.segment)
        context.reply(Nothing())
    }

    func giveBack(_ lease: LeaseSegment) {
        leasedBytes -= lease.bytes
        leaseMemory[lease.segment] = nil
        stager.send(StagerRequest.release(segment: lease.segment))
        for link in tierLinks.values where link.lent.remove(lease.segment) != nil { link.send(TierRequest.release(segment: lease.segment)) }
    }

    /// So that a tier's worker may read into them.
    func lend(_ leases: [LeaseSegment], to tier: Tier) {
        guard let link = tierLinks[tier], link.takesRequests else { return }
        for lease in leases where !link.lent.contains(lease.segment) {
            guard let memory = leaseMemory[lease.segment] else { continue }
            link.lent.insert(lease.segment)
            link.send(TierRequest.lease(segment: lease.segment, bytes: lease.bytes), descriptors: [memory.descriptor])
        }
    }
}
