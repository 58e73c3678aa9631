import CairnMessages
import CairnModel
import CairnWire

let ms = 1_000_000

func past(_ step: Int, _ rank: Int, run: String = "llama", uid: UInt32 = 5, level: Level = .committed, reason: String? = nil) -> Operations.PastSave {
    Operations.PastSave(uid: uid, run: run, save: "1-\(step)-1", step: step, rank: rank, worldSize: 2, acceptedMs: 1_785_499_200_000 + step * 1000, level: level, bytes: 1 << 20,
                        callUs: 300, fenceUs: 0, stagedUs: 1000, localUs: 2000, globalUs: 3000, committedUs: level == .committed ? 5000 : nil, reason: reason)
}

func key(_ step: Int, _ rank: Int, attemptTry: Int = 1) -> RankSaveKey {
    RankSaveKey(run: RunKey(uid: 5, name: "llama"), save: SaveID(attempt: 1, step: step, attemptTry: attemptTry), rank: rank)
}
