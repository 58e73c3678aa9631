// Put: bytes of streamed shards, by way of the rank's leases. A rank whose tensors no other process can read (a GPU's) copies them there itself.
// (1) Which pieces are right, StreamCursor says. A Put is taken as a whole or not at all; one that is refused changes nothing.
// (2) Its reply means that its bytes are in the pool, or never will be: the lease may be written again.
import CairnEngine
import CairnIO
import CairnMessages
import CairnModel
import CairnStore
import CairnWire

extension Daemon {
    func put(_ parameters: Checkpoint.Put.Parameters, _ session: ClientSession, _ context: CallContext) {
        guard let id = SaveID(parameters.save), let save = engine.saving(session: session.token, save: id) else {
            return context.fail(.unknownSave(save: parameters.save))
        }
        if let failure = save.failure { return context.fail(.failed(reason: "save \(id) has failed: \(failure)")) }
        guard let plan = plans[save.handle] else { return context.fail(.unknownSave(save: parameters.save)) }
        guard !parameters.pieces.isEmpty else { return context.fail(.invalidParameter(parameter: "pieces")) }
        guard parameters.pieces.count <= DaemonLimits.piecesPerPut else {
            return context.fail(.tooLarge(bytes: parameters.pieces.count, limit: DaemonLimits.piecesPerPut))
        }
        guard var cursor = plan.stream else { return context.fail(.failed(reason: "save \(id) streams nothing")) }
        let leases = Dictionary(uniqueKeysWithValues: session.leases.map { ($0.segment, $0.bytes) })
        var runs: [(fileOffset: Int, segment: Int, offset: Int, bytes: Int)] = []
        for piece in parameters.pieces {
            guard let lease = leases[piece.segment] else { return context.fail(.invalidParameter(parameter: "segment")) }
            guard piece.offset >= 0, piece.bytes >= 0, piece.offset <= lease, piece.bytes <= lease - piece.offset else {
                return context.fail(.invalidShard(name: piece.name, reason: "\(piece.bytes) bytes at \(piece.offset) are not in segment \(piece.segment) of \(lease)"))
            }
            let fileOffset: Int
            do { fileOffset = try cursor.take(piece.name, begin: piece.begin, bytes: piece.bytes) } catch { return context.fail(wireError(error)) }
            if let last = runs.last, last.segment == piece.segment, last.offset + last.bytes == piece.offset, last.fileOffset + last.bytes == fileOffset {
                runs[runs.count - 1].bytes += piece.bytes
            } else {
                runs.append((fileOffset, piece.segment, piece.offset, piece.bytes))
            }
        }
        plan.stream = cursor
        let number = nextPut
        nextPut += 1
        puts[number] = { problem in
            guard let problem else { return context.reply(Nothing()) }
            context.fail(.failed(reason: problem))
        }
        stager.send(StagerRequest.put(id: number, handle: save.handle),
                    payload: Words.pack(runs.flatMap { [UInt64($0.fileOffset), UInt64($0.segment), UInt64($0.offset), UInt64($0.bytes)] }))
        deliver(.put(handle: save.handle, streamedFrom: cursor.fileOffset))
    }
}
