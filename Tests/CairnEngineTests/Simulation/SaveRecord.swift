// What the simulation knows of one rank's save at one daemon: what was accepted, what is staged, what was told.
import CairnMessages
import CairnModel

final class SaveRecord {
    let key: RankSaveKey, handle: Int?, upto: Level, finalLevel: Level, fileBytes: Int, nonce: Int, acceptedAt: Int
    let session: String?, recovered: Bool
    var eager: Set<Int> = []
    var staged: Set<Int> = []
    var toldEager = false
    var level = Level.accepted
    var ended: Bool { level == .failed || level == finalLevel }
    /// The rank gave up the fence and changed its memory.
    var memoryChanged = false
    var stageFailed = false

    init(key: RankSaveKey, handle: Int?, upto: Level, finalLevel: Level, fileBytes: Int, nonce: Int, acceptedAt: Int, session: String?, recovered: Bool) {
        self.key = key; self.handle = handle; self.upto = upto; self.finalLevel = finalLevel; self.fileBytes = fileBytes
        self.nonce = nonce; self.acceptedAt = acceptedAt; self.session = session; self.recovered = recovered
    }
    var chunkCount: Int { Sizes.chunks(ofFile: fileBytes) }
    func content(_ chunk: Int) -> ChunkContent { ChunkContent(key: key, chunk: chunk, nonce: nonce) }
}
