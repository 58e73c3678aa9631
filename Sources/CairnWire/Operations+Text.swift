// The text of dev.cairn.Operations: the contract, in the language of Varlink interfaces. A test holds it equal to the structs.

extension Operations {
    /// What `GetInterfaceDescription` answers.
    public static let text = """
        # What operators and the command line tool call. A caller sees its own runs; an operator sees all, and names another
        # user's run by its uid. Errors are those of dev.cairn.Checkpoint.
        interface dev.cairn.Operations

        # How far a save has come, in this order; failed is an end of its own, with a reason.
        type Level (accepted, staged, local, global, committed, failed)

        # Whether an object is equal on all ranks, one rank's own, or found by its key.
        type Scope (shared, rank, keyed)

        # Health of a worker process or a tier. degraded: its part of the work waits or goes another way.
        type Health (up, starting, degraded)

        type Daemon (
          version: string,
          # This node's name, as in the tiers' records.
          node: string,
          # Random, new at each start.
          instance: string,
          pid: int,
          uptimeSeconds: int,
          socket: string,
          # The configuration file; absent: the embedded default.
          configuration: ?string,
          draining: bool
        )

        # The pinned pool. filledBytes of it are ready; chunks is the number of ready chunks, each in one of the states after it.
        type Pool (
          bytes: int,
          filledBytes: int,
          lockedBytes: int,
          # In huge pages of the kernel: a drive takes them in fewer requests.
          hugeBytes: int,
          chunks: int,
          free: int,
          # Not yet durable on a tier that can serve them.
          needed: int,
          # Durable, kept to serve restores from memory.
          cached: int,
          # Lost to I/O that may still land.
          quarantined: int,
          # Why the pool is not locked, and what to raise.
          lockNote: ?string
        )

        # A worker process of the daemon.
        type Worker (
          # stager, local, global or keeper.
          role: string,
          pid: ?int,
          state: Health,
          # io_uring or threads; absent: not yet known, or not a tier's worker.
          io: ?string,
          # Whether files are written with O_DIRECT.
          direct: ?bool,
          note: ?string,
          restarts: int
        )

        type Folder (path: string, totalBytes: int, freeBytes: int)

        type TierStatus (
          tier: string,
          paths: []Folder,
          state: Health,
          # Why it is degraded, and what to do.
          reason: ?string,
          remedy: ?string,
          # Bytes that wait to be written, and that were written since start.
          queuedBytes: int,
          writtenBytes: int,
          compression: string
        )

        # A save that has not come to its last level.
        type SaveStatus (
          uid: int,
          run: string,
          save: string,
          step: int,
          level: Level,
          # Ranks of this node that are staged, of those of this node that take part.
          ranksStaged: int,
          ranks: int,
          worldSize: int,
          # Of the ranks of this node.
          totalBytes: int,
          stagedBytes: int,
          localBytes: int,
          globalBytes: int,
          ageMs: int,
          # Participants, of any node, that have not delivered their part as far as this node has seen.
          missing: []int,
          # A launch before the newest made it: it is finished or voided before a restore is answered.
          leftover: bool,
          # What it waits for, or why it failed.
          reason: ?string
        )

        type RunSessions (uid: int, run: string, sessions: int, worldSize: int)

        type Sessions (count: int, runs: []RunSessions)

        # The step of another run that a run was branched from.
        type Origin (run: string, step: int, sequence: int)

        # One checkpoint of a run, and the tiers that hold it whole.
        type Step (
          step: int,
          sequence: int,
          # The sequence of the step that its launch had restored; absent: it restored none.
          parent: ?int,
          # Where it was branched from, in a run's first step.
          origin: ?Origin,
          save: string,
          level: Level,
          ranks: int,
          worldSize: int,
          bytes: int,
          pinned: bool,
          superseded: bool,
          # UTC, ISO 8601.
          savedAt: string,
          tiers: []string
        )

        # steps: newest first by sequence. newestCommitted: its step. bytes: of all steps.
        type Run (uid: int, run: string, steps: []Step, newestCommitted: ?int, bytes: int)

        # One rank's file of a step.
        type RankFile (
          rank: int,
          node: ?string,
          fileBytes: int,
          tensors: int,
          objects: int,
          tiers: []string,
          # On the tier that restores it last.
          path: string
        )

        # The part of a tensor that one rank's file holds.
        type Tensor (
          rank: int,
          name: string,
          dtype: string,
          shape: []int,
          globalShape: ?[]int,
          offsets: ?[]int,
          replica: ?int,
          replicas: ?int,
          private: bool,
          bytes: int
        )

        type Object (rank: int, name: string, scope: Scope, key: ?string, bytes: int)

        # A block, of 256 KiB of the file, that is not what was staged. block -1: the file as a whole.
        type BadBlock (path: string, block: int, reason: string)

        # One step, or one save that was to stay on its node, on one tier.
        type RetainedStep (
          step: int,
          sequence: int,
          save: string,
          committed: bool,
          # On this tier; on a local one beside a global one what this node holds of it.
          bytes: int,
          kept: bool,
          # newest, pinned, restoring, reading, onlyCopy; unlimited, keep, keepWithin, keepPeriod, keepEvery, best; noRule, superseded, maxAge, maxBytes, watermark.
          rule: string,
          reason: string
        )

        # problem: why nothing could be decided here. steps: newest first.
        type RetainedTier (tier: string, problem: ?string, steps: []RetainedStep)

        type RetainedRun (uid: int, run: string, tiers: []RetainedTier)

        # What one change would allow at best.
        type Lever (
          # pool, globalTier, compression or memory.
          change: string,
          intervalMs: int,
          usefulPpm: int
        )

        type Event (
          uid: int,
          run: string,
          save: string,
          step: int,
          rank: int,
          level: Level,
          # Bytes that are done on the way to the next level, of totalBytes.
          bytes: int,
          totalBytes: int,
          monotonicNs: int,
          reason: ?string
        )

        # One rank's part of a save that has ended on this node. A line of the history's file is one of these. Times are microseconds; those of
        # levels count from `Save`, and one is absent where that level was not reached, or not seen (the daemon was started meanwhile).
        type PastSave (
          uid: int,
          run: string,
          save: string,
          step: int,
          rank: int,
          worldSize: int,
          # Milliseconds since 1970 (UTC) when `Save` came; where that was not seen, when this daemon first knew of it.
          acceptedMs: int,
          # How it ended.
          level: Level,
          bytes: int,
          # The rank waited so long for the reply to `Save`, and at its fence.
          callUs: ?int,
          fenceUs: ?int,
          # Staging waited so long for room in the pool: back-pressure.
          poolWaitUs: int,
          stagedUs: ?int,
          localUs: ?int,
          globalUs: ?int,
          committedUs: ?int,
          failedUs: ?int,
          reason: ?string
        )

        # How far one rank's part has come.
        type RankProgress (
          rank: int,
          level: Level,
          totalBytes: int,
          stagedBytes: int,
          localBytes: int,
          globalBytes: int,
          # The rank stands at its fence for so long.
          fenceMs: ?int,
          # Staging waited so long for room in the pool.
          poolWaitMs: int,
          # Why it failed, or is written anew.
          reason: ?string
        )

        # A save in flight, rank by rank. missing: as in SaveStatus.
        type SaveProgress (
          uid: int,
          run: string,
          save: string,
          step: int,
          worldSize: int,
          ageMs: int,
          missing: []int,
          ranks: []RankProgress
        )

        # A run that this daemon knows. ageMs: since its last commit; lastStep: that commit's; fenceUs: the longest of its last save's ranks.
        type RunProgress (
          uid: int,
          run: string,
          sessions: int,
          worldSize: int,
          lastStep: ?int,
          ageMs: ?int,
          commits: int,
          failures: int,
          fenceUs: ?int,
          committedUs: ?int
        )

        # The daemon, its workers, pool and tiers, and the saves in flight.
        method Status()
          -> (daemon: Daemon, pool: Pool, workers: []Worker, tiers: []TierStatus, saves: []SaveStatus, sessions: Sessions, notes: []string)

        # Runs and their steps; run and uid limit the answer.
        method Runs(uid: ?int, run: ?string) -> (runs: []Run)

        # What a step holds, rank by rank. Without sequence: the newest of that step.
        method Describe(uid: ?int, run: string, step: int, sequence: ?int)
          -> (uid: int, run: string, step: int, sequence: int, save: string, parent: ?int, origin: ?Origin, level: Level, worldSize: int, bytes: int, pinned: bool, superseded: bool, savedAt: string, metadata: [string]string, files: []RankFile, tensors: []Tensor, objects: []Object)

        # The folder of a committed step, on the tier that commits. Without step: the newest.
        method Path(uid: ?int, run: string, step: ?int) -> (path: string, step: int, sequence: int)

        # Makes a committed step of a run the first step of a new run of the same user, `into`, sharing the files' bytes where the filesystem
        # can. Without step: the newest. NotPermitted if the new run has committed steps of its own already.
        method Branch(uid: ?int, run: string, step: ?int, sequence: ?int, into: string) -> (step: int, sequence: int)

        # Requires more. Reads a step's files and checks every block; replies tell the progress, the last one has finished set.
        # Without step: the newest; without tier: each that holds it, one after the other. bad holds what was found since the reply before.
        method Verify(uid: ?int, run: string, step: ?int, tier: ?string)
          -> (step: int, sequence: int, rank: int, tier: string, doneBytes: int, totalBytes: int, bad: []BadBlock, finished: bool)

        # Keeps a step from retention.
        method Pin(uid: ?int, run: string, step: int) -> ()

        # Gives a step back to retention.
        method Unpin(uid: ?int, run: string, step: int) -> ()

        # Deletes a step on all tiers; the newest committed one is refused.
        method Delete(uid: ?int, run: string, step: int) -> ()

        # Applies retention to a run, or to all that the caller sees, and says of each step what was decided. With dryRun nothing is removed.
        # evictBytes: how much the local tier is above its low watermark, once it is above its high one.
        method Retain(uid: ?int, run: ?string, dryRun: bool) -> (runs: []RetainedRun, evictBytes: int)

        # The interval between saves that wastes least, by what was measured of the run's last saves, for a mean time
        # between failures. Measured: medians; blocked is what a rank was held up, by save() and at the fence. Shares are of time, in millionths.
        # NoSuchRun where nothing was measured.
        method Advise(uid: ?int, run: string, mtbfSeconds: int)
          -> (saves: int, bytes: int, intervalMs: ?int, blockedUs: int, stagedMs: ?int, localMs: ?int, committedMs: ?int, restoreMs: ?int, youngMs: int, dalyMs: int, bestMs: int, usefulNowPpm: ?int, usefulBestPpm: int, levers: []Lever)

        # Requires more. Finishes flushing what is accepted; replies tell what remains, the last one has finished set.
        method Drain(uid: ?int, run: ?string, timeoutMs: ?int) -> (saves: int, bytes: int, finished: bool)

        # Requires more. First the latest level of each unfinished save, then every change.
        method Watch(uid: ?int, run: ?string) -> (event: Event)

        # Saves in flight rank by rank, and what has gone through each stage since the daemon's start: two answers give the rates between them.
        # Their tiers' folders are left out: no filesystem is asked.
        method Progress(uid: ?int, run: ?string)
          -> (node: string, monotonicNs: int, stagedBytes: int, pool: Pool, tiers: []TierStatus, runs: []RunProgress, saves: []SaveProgress)

        # The saves of a run that have ended, of this node's ranks: the newest `last` (default 20), oldest first, each with all of its ranks.
        method History(uid: ?int, run: string, last: ?int) -> (node: string, saves: []PastSave)

        # Counters, gauges and histograms in Prometheus' text format. The runs in it are those that the caller may see.
        method Metrics() -> (text: string)

        """
}
