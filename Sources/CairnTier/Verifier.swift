// Reads all of a step's files on this tier and checks every block; what is bad is reported and the rest still read.
import CairnIO
import CairnMessages
import CairnModel
import CairnStore

struct Verifier {
    let engine: any DataEngine
    let frames: FrameReading
    let replies: Replies
    let folders: TierFolders

    func verify(id: Int, _ step: WrittenStep) throws {
        let total = step.files.reduce(0) { $0 + $1.bytes }
        let map = try MemoryMap(anonymous: TierLimits.verifySlots * Sizes.chunkBytes)
        let reader = BlockReader(engine: engine, frames: frames, map: map, slots: BufferSlots(count: TierLimits.verifySlots))
        var done = 0, told = 0
        func tell(_ rank: Int, bad: BadBlock? = nil) {
            told = done
            replies.send(.verifyProgress(id: id, VerifyProgress(rank: rank, doneBytes: done, totalBytes: total, badPath: bad?.path, badBlock: bad?.block, reason: bad?.reason)))
        }
        for bad in step.bad { tell(step.files.first?.rank ?? 0, bad: bad) }
        for written in step.files {
            let before = done
            do {
                let file = try RankFile(rank: written.rank, written.place, folders: folders)
                let ranges = (0..<Sizes.chunks(ofFile: file.bytes)).map { chunk in
                    let first = chunk * Sizes.blocksPerChunk
                    return BlockRange(rank: file.rank, firstBlock: first, blocks: min(Sizes.blocksPerChunk, file.crcs.count - first))
                }
                try reader.read(ranges, file: { _ in file }) { index, _, bad in
                    done += ranges[index].bytes(in: file)
                    for block in bad { tell(file.rank, bad: block) }
                    if done - told >= TierLimits.progressBytes { tell(file.rank) }
                    return false
                }
                tell(file.rank)
            } catch {
                // Whatever keeps one file from being read, the others are still looked at.
                done = before + written.bytes
                tell(written.rank, bad: BadBlock(file: written.place.root, written.place.data, TierFailure(error)))
            }
        }
    }
}
