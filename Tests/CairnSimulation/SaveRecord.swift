// What the simulation knows of one rank's save at one daemon: what was accepted, what is staged, what was told.
import CairnMessages
import CairnModel

final class SaveRecord {
    let key: RankSaveKey, handle: Int?, fileBytes: Int, nonce: Int, acceptedAt: Int
    let session: String?, recovered: Bool
    let token: String, worldSize: Int, participants: [Int]?, parent: CommitSequence?
    /// Raised by a promotion.
    var upto: Level, finalLevel: Level
    /// A promotion that is asked for: the level at which it would end then.
    var promoting: Level?
    var eager: Set<Int> = []
    var staged: Set<Int> = []
    var toldEager = false
    var level = Level.accepted
    var ended: Bool { level == .failed || level == finalLevel }
    /// The rank gave up the fence and changed its memory.
    var memoryChanged = false
    var stageFailed = false
    /// It has no step yet.
    var isHeld = false
    /// What it was sealed from: the held save, the slots of its chunks, and which of them each chunk takes bytes from.
    var source: (held: SaveRecord, slots: [Int], needs: [ClosedRange<Int>])?
    /// Chunks with bytes of its rank's own memory; of another save, all.
    var rankChunks: Set<Int>?
    /// Where the first byte lies in the file that its rank has yet to put; nil: none is missing.
    var streamedFrom: Int?
    /// Its Seal was answered: nothing of its rank is needed any more.
    var isAnswered = false
    /// The save that it became.
    var sealed: SaveRecord?

    init(key: RankSaveKey, handle: Int?, upto: Level, finalLevel: Level, fileBytes: Int, nonce: Int, acceptedAt: Int, session: String?, recovered: Bool,
         token: String, worldSize: Int, participants: [Int]?, parent: CommitSequence?) {
        self.key = key; self.handle = handle; self.upto = upto; self.finalLevel = finalLevel; self.fileBytes = fileBytes
        self.nonce = nonce; self.acceptedAt = acceptedAt; self.session = session; self.recovered = recovered
        self.token = token; self.worldSize = worldSize; self.participants = participants; self.parent = parent
    }
    /// Found by a scan: what its manifest says.
    convenience init(found file: PublishedFile, key: RankSaveKey, finalLevel: Level, now: Int) {
        self.init(key: key, handle: nil, upto: file.upto, finalLevel: finalLevel, fileBytes: file.fileBytes, nonce: file.chunks[0].nonce, acceptedAt: now,
                  session: nil, recovered: true, token: file.token, worldSize: file.worldSize, participants: file.participants, parent: file.parent)
    }
    var chunkCount: Int { Sizes.chunks(ofFile: fileBytes) }
    func content(_ chunk: Int) -> ChunkContent { ChunkContent(key: key, chunk: chunk, nonce: nonce) }
}
