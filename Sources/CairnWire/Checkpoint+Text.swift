// The text of dev.cairn.Checkpoint: the contract, in the language of Varlink interfaces. A test holds it equal to the structs.

extension Checkpoint {
    /// What `GetInterfaceDescription` answers.
    public static let text = """
        # What training ranks call. A rank keeps one connection for its calls, one for its Watch and one for loads, since the
        # replies on one connection come in order. Step and sequence numbers are integers; a sequence is attempt * 2^32 + count.
        interface dev.cairn.Checkpoint

        # How far a save has come, in this order; failed is an end of its own, with a reason.
        type Level (accepted, staged, local, global, committed, failed)

        # Whether an object is equal on all ranks (checked), one rank's own, or found by its key.
        type Scope (shared, rank, keyed)

        # A run of bytes in the rank's memory.
        type Extent (address: int, bytes: int)

        # Where the bytes of a shard or an object come from. Exactly one kind is given; none in replies.
        type Source (
          # Extents in the rank's memory, in order.
          memory: ?[]Extent,
          # The rank puts the bytes itself, by way of its leases; for shards only, and no reply waits for them.
          streamed: ?bool,
          # Number of a sealed memfd that Attach gave on SOCKET.memory.
          descriptor: ?int,
          # Where the bytes begin in that memfd; absent: at 0.
          offset: ?int
        )

        # The part of a tensor that one rank holds. Shapes and offsets are in elements, row-major. A shape of one dimension where the
        # global shape has not one: a range of the flattened tensor's elements, as of a flat optimizer buffer.
        type Shard (
          name: string,
          # By the names of safetensors (F32, BF16, I64, ...), and those that the format lacks.
          dtype: string,
          shape: []int,
          # Shape of the whole tensor; absent: the shard is the whole.
          globalShape: ?[]int,
          # Where the shard begins in the whole tensor; absent: at zero.
          offsets: ?[]int,
          # Which of how many equal copies this is; absent: not replicated.
          replica: ?int,
          replicas: ?int,
          # Private to its rank, even where another rank uses the same name.
          private: ?bool,
          # Copied before Save replies (the default); false: until the fence.
          eager: ?bool,
          # Which rank holds it; in replies only.
          rank: ?int,
          source: Source
        )

        # Opaque bytes beside the tensors, e.g. RNG state.
        type Object (
          name: string,
          scope: Scope,
          # The key of a keyed object.
          key: ?string,
          bytes: int,
          # As a shard's: false where the rank keeps the bytes as they are until the save is staged.
          eager: ?bool,
          # Which rank holds it; in replies only.
          rank: ?int,
          source: Source
        )

        # Bytes of a save or of a load, and where they lie in one of the rank's leases. begin counts from the first byte of the
        # shard, object or box; the pieces of a load come in the order of its boxes.
        type Piece (name: string, begin: int, bytes: int, segment: int, offset: int)

        # What a rank asks for at restore. No offsets: the whole tensor. With a rank: an object or private tensor of that rank. One
        # offset and one extent of a tensor that has not one dimension: a range of the flattened tensor's elements.
        type Box (name: string, offsets: ?[]int, shape: ?[]int, rank: ?int)

        # One rank's save has come to a level, or further on its way to the next.
        type Event (
          run: string,
          save: string,
          step: int,
          rank: int,
          level: Level,
          # Bytes that are done on the way to the next level, of totalBytes.
          bytes: int,
          totalBytes: int,
          monotonicNs: int,
          # Why it failed.
          reason: ?string
        )

        # One checkpoint of a run.
        type Step (
          step: int,
          # The order of commits; newest means the highest sequence, never the highest step.
          sequence: int,
          level: Level,
          # How many ranks' files are there, of worldSize.
          ranks: int,
          worldSize: int,
          bytes: int,
          pinned: bool,
          # A later attempt went back before this step: never restored by default, first to be deleted.
          superseded: bool,
          # UTC, ISO 8601.
          savedAt: string
        )

        # Begins the session of one rank. The attempt is a token that is equal on all ranks of one launch of the job, and never
        # equal between two launches; a world of one may leave it out. A session of the same process is replaced.
        # number: the attempt's, as an earlier Open's limits told this process; with it a daemon that started anew goes on without
        # the global tier.
        # memory: the daemon may not read this process's memory, so pass a descriptor of it by Attach on SOCKET.memory.
        # readOnly: no rank of a launch, and no launch ends: only Steps, Describe, Lease, Release and Load, of what is committed.
        method Open(run: string, rank: int, worldSize: int, localRank: ?int, localWorldSize: ?int, attempt: ?string, number: ?int, readOnly: ?bool)
          -> (session: string, node: string, memory: bool, limits: [string]int)

        # Makes a further connection part of a session. On the stager's socket, SOCKET.memory, with a descriptor, whose index among
        # those of this message is memory or source. memory: of /proc/self/mem, read-only. source: a memfd with the seals
        # F_SEAL_WRITE and F_SEAL_SHRINK, which shards and objects then name by number (0 to 63); it replaces the one of that
        # number for saves that begin later.
        method Attach(session: string, memory: ?int, source: ?int, number: ?int) -> ()

        # Waits until this rank's saves are staged, then ends the session.
        method Close() -> ()

        # Tells what the next saves consist of. Register anew whenever a name, shape or address differs.
        method Register(shards: []Shard) -> (layout: string, bytes: int)

        # Saves a registered layout as a step; replies when every eager shard and object is staged. Idempotent by step
        # and try, the number of this rank's calls of save() for this step in this attempt.
        # upto: how far the save goes (default: committed). step may be absent only with hold. participants: the ranks that take part,
        # ascending, rank 0 and the caller among them, the same on each of them (default: all). copies: these are copies of replicas that
        # ranks of other nodes own, kept in memory and on the local tier only; such a call comes before the one for the rank's own part.
        # verify: all bytes are read before the reply, and the save fails, naming the shard, if one is another when it is staged.
        # files: bytes that stand as files of these names beside the rank's own in the step's folder, for other tools; kept in that file too.
        # plan: nothing is saved; the reply says what the file would be. hold: staged, but no step's until Seal; try counts this rank's held saves.
        method Save(step: ?int, try: int, layout: string, objects: ?[]Object, upto: ?Level, participants: ?[]int, metadata: ?[string]string, hold: ?bool, copies: ?bool, verify: ?bool, files: ?[]Object, plan: ?bool)
          -> (save: string, bytes: int, dataStart: int)

        # Makes a held save a step's: its file is made of what was staged, without the shards and objects named in drop, and with more objects
        # and files. The reply comes when those are staged. From then on it is a save like any other, under the name in the reply.
        # Only a save that is staged can be sealed. plan: as Save's. discard: it is given up instead.
        method Seal(save: string, step: ?int, try: ?int, upto: ?Level, metadata: ?[string]string, drop: ?[]string, objects: ?[]Object, files: ?[]Object, plan: ?bool, discard: ?bool)
          -> (save: string, bytes: int, dataStart: int)

        # Lends a segment of shared memory; the reply carries its memfd.
        method Lease(bytes: int) -> (segment: int, bytes: int)

        # Bytes of a save's streamed shards, from leases. They come once, in the file's order (larger elements first, of those as registered): each
        # piece goes on where the one before it ended, also from Put to Put. The reply means copied: the leases may be written again.
        method Put(save: string, pieces: []Piece) -> ()

        # Gives a lease back.
        method Release(segment: int) -> ()

        # Requires more. First the latest level of each unfinished save, then every change; of one rank, or of all.
        method Watch(run: string, rank: ?int) -> (event: Event)

        # Waits until this rank's save is at the level or beyond, or failed, with a reason. Without timeoutMs: until the daemon's own limits.
        # Who waits for staged gets its copy sooner: it is made at normal priority from then on. Oneway, that is all it does.
        method Wait(save: string, level: Level, timeoutMs: ?int) -> (level: Level, reason: ?string)

        # The run's checkpoints, newest first by sequence.
        method Steps(run: string) -> (steps: []Step)

        # What a committed step holds. names limits the answer; once: of each tensor its first box only, which says type and whole shape.
        method Describe(step: int, sequence: ?int, names: ?[]string, once: ?bool)
          -> (worldSize: int, shards: []Shard, objects: []Object, metadata: [string]string)

        # Which step to restore: the same answer for every rank of the attempt. restore counts the restores of the attempt.
        method Choose(restore: int, step: ?int, timeoutMs: ?int) -> (step: int, sequence: int)

        # Reads boxes into the rank's leases, from the nearest tier that has them, each block's checksum verified. segments: only into
        # these leases, so that a client can empty others meanwhile.
        method Load(step: int, sequence: int, boxes: []Box, segments: ?[]int) -> (tier: string, placed: []Piece)

        # Tells whether this rank could load what was chosen; answers when all ranks have told. again: another round follows, and reason says
        # which rank could not, and why.
        method Settle(restore: int, ok: bool, reason: ?string) -> (again: bool, reason: ?string)

        # Raises how far the newest save of a step goes that this attempt ended short of the level; level is local, global or committed.
        method Promote(step: int, level: Level) -> ()

        # Makes a committed step of another run of the same user the first step of this session's run, sharing the files' bytes where the
        # filesystem can. Without step: the newest; without sequence: the newest of that step. Every rank may call it; all get one answer.
        # NotPermitted if this run has committed steps of its own already.
        method Branch(from: string, step: ?int, sequence: ?int) -> (step: int, sequence: int)

        # The connection has no session: call Open or Attach first.
        error NotOpen ()

        # A later launch of the job has begun.
        error AttemptEnded (by: int)

        # Another living process has this rank.
        error RankTaken (pid: int)

        # The layout is not registered in this session: call Register first.
        error UnknownLayout (layout: string)

        error UnknownSave (save: string)

        # Too many saves are not yet staged; nothing was taken, so the call may be repeated.
        error Busy (step: int)

        error TooLarge (bytes: int, limit: int)

        # A tier that has not answered may still write into this lease: release it, take another, load again.
        error LeaseLost (segment: int)

        # No such run, or none that this user may see.
        error NoSuchRun (run: string)

        # No such step; absent: the run has none that could be restored.
        error NoSuchStep (step: ?int)

        # Files of these ranks are missing.
        error NotWhole (step: int, missing: []int)

        # A block's bytes are not those that were staged.
        error Corrupt (path: string, block: int)

        error NoSpace (tier: string, needed: int, available: int)

        error TierDown (tier: string, reason: string)

        error NotPermitted (reason: string)

        error InvalidShard (name: string, reason: string)

        # The limit passed; level is how far it came.
        error TimedOut (level: Level)

        # The daemon is about to stop and takes no new saves.
        error Draining ()

        # A part of this interface that this daemon does not serve.
        error NotSupported (feature: string)

        # Anything else, in words.
        error Failed (reason: string)

        """
}
