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

    /// Files that stand beside a rank's file and are not what it holds.
    private func beside(_ file: RankFile, _ place: RankFile.Place) -> [BadBlock] {
        guard folders.start.form == .committing, let files = file.manifest.files, let end = place.data.lastIndex(of: "/") else { return [] }
        return files.compactMap { one in
            let path = "\(place.data[..<end])/\(one.name)"
            do {
                let found = try place.root.readFile(path, limit: StoreLimits.besideFileBytes)
                let isSame = try SmallReads(place.root, place.data, file.manifest).content(of: one, crcs: file.crcs) == found
                return isSame ? nil : BadBlock(path: place.root.absolute(path), block: -1, reason: "it is not what '\(file.path)' holds of it")
            } catch { return BadBlock(file: place.root, path, TierFailure(error)) }
        }
    }

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
                for bad in beside(file, written.place) { tell(file.rank, bad: bad) }
                tell(file.rank)
            } catch {
                // Whatever keeps one file from being read, the others are still looked at.
                done = before + written.bytes
                tell(written.rank, bad: BadBlock(file: written.place.root, written.place.data, TierFailure(error)))
            }
        }
    }
}
