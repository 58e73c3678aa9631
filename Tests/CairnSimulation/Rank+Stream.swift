// Saves whose end the rank streams: its bytes come by and by, in the file's order, or never.
import CairnEngine
import CairnModel

extension Rank {
    /// Where the streamed bytes of a new save begin in its file; nil: it streams none.
    func streamedFrom(_ record: SaveRecord) -> Int? {
        guard record.rankChunks == nil, world.random.once(in: 4), world.may(.streaming) else { return nil }
        return world.random.int(0...record.chunkCount - 1) * Sizes.chunkBytes + (world.random.once(in: 2) ? 0 : 2048)
    }

    /// Puts the next bytes of a save that streams, until all are there, it has ended, or the rank stands still.
    func stream(_ record: SaveRecord) {
        guard record.streamedFrom != nil else { return }
        later(world.random.int(1...60)) { rank in
            guard let from = record.streamedFrom, let handle = record.handle, rank.session == record.session, rank.daemon.up, record.level == .accepted,
                  rank.daemon.engine.knows(handle: handle) else { return }
            if rank.world.random.once(in: 200), rank.world.may(.lag) { return }
            let next = from + rank.world.random.pick([1024, Sizes.chunkBytes / 2, Sizes.chunkBytes, 3 * Sizes.chunkBytes])
            record.streamedFrom = next < record.fileBytes ? next : nil
            if record.streamedFrom == nil { rank.world.mark(.streamed) }
            rank.daemon.deliver(.put(handle: handle, streamedFrom: record.streamedFrom))
            rank.stream(record)
        }
    }
}
