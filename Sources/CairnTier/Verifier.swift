// Reads all of a step's files on this tier and checks every block; what is bad is reported and the rest still read.
import CairnIO
import CairnMessages
import CairnModel
import CairnStore

struct Verifier {
    let engine: any DataEngine
    let replies: Replies

    func verify(id: Int, _ step: StepFiles) throws {
        let tables = step.catalog.layout.files
        let total = tables.reduce(0) { $0 + $1.fileBytes }
        let map = try MemoryMap(anonymous: TierLimits.verifySlots * Sizes.chunkBytes)
        let reader = BlockReader(engine: engine, map: map, slots: BufferSlots(count: TierLimits.verifySlots))
        var done = 0
        for table in tables {
            let file: RankFile
            do { file = try step.file(table.rank) } catch {
                let failure = TierFailure(error)
                guard failure.kind == .corrupt || failure.kind == .notHere else { throw failure }
                done += table.fileBytes
                replies.send(.verifyProgress(id: id, VerifyProgress(rank: table.rank, doneBytes: done, totalBytes: total, badPath: failure.path ?? "rank \(table.rank)",
                                                                    badBlock: failure.block ?? -1, reason: failure.text)))
                continue
            }
            var told = done
            let ranges = (0..<Sizes.chunks(ofFile: file.bytes)).map { chunk in
                let first = chunk * Sizes.blocksPerChunk
                return BlockRange(rank: table.rank, firstBlock: first, blocks: min(Sizes.blocksPerChunk, file.crcs.count - first))
            }
            try reader.read(ranges, file: { _ in file }) { index, _, bad in
                done += ranges[index].bytes(in: file)
                for block in bad {
                    replies.send(.verifyProgress(id: id, VerifyProgress(rank: table.rank, doneBytes: done, totalBytes: total, badPath: block.path,
                                                                        badBlock: block.block, reason: block.reason)))
                }
                if done - told >= TierLimits.progressBytes {
                    told = done
                    replies.send(.verifyProgress(id: id, VerifyProgress(rank: table.rank, doneBytes: done, totalBytes: total)))
                }
                return false
            }
            replies.send(.verifyProgress(id: id, VerifyProgress(rank: table.rank, doneBytes: done, totalBytes: total)))
        }
    }
}
