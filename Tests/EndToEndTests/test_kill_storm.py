"""SIGKILL at any moment, again and again: of a rank, of the main process, of each worker, of all at once. No committed step is
lost, and when it is over nothing is left of it: no segment, descriptor, partial file or process.

Each storm is drawn from a seed. More of them: `make crash KILLS=2000`; one again: `make crash KILLS=1 CRASHES=0 SEED=n`.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import secrets
import signal
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from machine import cli, leftovers, living, status, until, unused
from real_daemon import Cluster, Daemon
from storm import Job, Shape
from survival import SaveName, TierFiles, empty, pattern
from tally import Tally, shown
from test_histories import at_once

KILLS = int(os.environ.get("CAIRN_KILLS", "36"))
PER_STORM = 12
SEED = int(os.environ.get("CAIRN_SEED", "1"))
WORKERS = ["stager", "local", "global"]
TARGETS = ["rank", "main", *WORKERS, "all"]


@pytest.fixture(scope="module")
def tally(request: pytest.FixtureRequest) -> Iterator[Tally]:
    with shown(request, "kill storms", ["killed", "during"], ["kills", "commits", "restores", "lost"]) as made:
        yield made


def held(daemon: Daemon) -> dict[str, Counter[str]]:
    """What each process of an idle daemon has open and mapped, by kind."""
    found = {}
    for role, pid in {"main": daemon.pid, **daemon.workers()}.items():
        kinds: Counter[str] = Counter()
        for entry in os.scandir(f"/proc/{pid}/fd"):
            with contextlib.suppress(FileNotFoundError):
                kinds[_kind(os.readlink(entry.path))] += 1
        kinds["mapped segment"] = Path(f"/proc/{pid}/maps").read_text().count("/memfd:")
        # Kept open on purpose, to read steps from; which of them depends on what was asked for.
        kinds.pop("file of a run", None)
        found[role] = kinds
    return found


def _kind(target: str) -> str:
    if target.startswith("/"):
        return "segment" if target.startswith(("/memfd:", "/dev/shm/")) else "file of a run" if "/run/" in target else "file"
    return target.partition(":[")[0]


def shoot(target: str, daemon: Daemon, job: Job, chance: random.Random) -> None:
    """Kill, then do what a launcher and a service manager do about it."""
    session, workers = daemon.pid, daemon.workers()
    if target in ("rank", "all"):
        job.kill([chance.randrange(job.shape.world)] if target == "rank" else list(range(job.shape.world)))
    if target in WORKERS and target in workers:
        unused(workers[target])
    if target in ("main", "all"):
        for pid in [session, *workers.values()] if target == "all" else [session]:
            unused(pid)
        daemon.stop(signal.SIGKILL)
        assert leftovers(session) == [], "workers that outlived their main process"
    if target == "rank":
        time.sleep(chance.uniform(0, 0.05))
    if target in ("rank", "all"):
        job.stop()
    if target in ("main", "all"):
        daemon.start()
    if target in ("rank", "all"):
        job.start()


def when(job: Job, chance: random.Random) -> str:
    """Wait for the moment: after a launch, while it restores; after a commit, while its copies and retention follow; or any."""
    moment = chance.choice(["restore", "commit", "any", "any"])
    if moment == "restore":
        job.stop()
        job.start()
        time.sleep(chance.uniform(0, 0.25))
    elif moment == "commit":
        job.commits_again()
        time.sleep(chance.uniform(0, 0.02))
    else:
        end = time.monotonic() + chance.uniform(0, 0.2)
        while (left := end - time.monotonic()) > 0:
            job.hear(left)
    return moment


def settle(daemon: Daemon, shape: Shape) -> None:
    """A last launch that ends in order; then nothing is in flight, nor left half done."""
    token = secrets.token_hex(8)
    ranks = [
        daemon.open(rank=rank, world_size=shape.world, local_rank=rank, local_world_size=shape.world, attempt=token)
        for rank in range(shape.world)
    ]
    attempt = ranks[0]._link.wait_for_session(30).limits["attempt"]
    step = max(at_once(ranks, lambda _, one: one.restore(empty(shape.kibibytes), timeout=40) or 0)) + 1
    saves = [one.save(step, pattern(attempt, step, rank, shape.kibibytes)) for rank, one in enumerate(ranks)]
    for save in saves:
        save.wait("committed", timeout=30)
    for one in ranks:
        one.close()
    files = [TierFiles(folder, shape.kibibytes) for folder in {daemon.local, daemon.tier}]
    until("no save is in flight", lambda: status(daemon)["saves"] == [])
    until("nothing unpublished is left", lambda: not [path for tier in files for path in tier.leftovers()], seconds=10)
    until("all workers are up", lambda: [worker["state"] for worker in status(daemon)["workers"]] == ["up"] * len(daemon.workers()))


def check_steps(daemon: Daemon, job: Job, keep: int) -> list[str]:
    """Committed steps that a rank was told of, and that are neither shown nor so old that retention removed them."""
    listed = json.loads(cli(daemon, "ls", "--json"))["runs"][0]["steps"]
    shown = {SaveName.read(step["save"]) for step in listed if step["level"] == "committed"}
    order = {(save.attempt, save.step) for save in shown}
    return [f"{told}" for told in job.committed if told not in order and sum(newer > told for newer in order) < keep]


@pytest.mark.parametrize("storm", range(SEED, SEED + (KILLS + PER_STORM - 1) // PER_STORM))
def test_kills_lose_no_committed_step_and_leave_nothing(storm: int, cluster: Cluster, tally: Tally) -> None:
    chance = random.Random(storm)
    shape = Shape(world=chance.randint(2, 4), kibibytes=chance.choice([16, 500, 2500]))
    keep = chance.randint(1, 4)
    tiers = chance.choice([1, 2, 2])
    print(f"storm of seed {storm}: {tiers} tiers, {shape}, keep {keep}; again: make crash CRASHES=0 KILLS=1 SEED={storm}")
    local = chance.randint(1, 3) if tiers == 2 else keep
    shape = replace(shape, streams=chance.random() < 0.5)
    retention = f"{{local: {{keep: {local}}}, global: {{keep: {keep}}}}}"
    daemon = cluster.daemon(tiers=tiers, pool="256MiB", retention=retention, limits={"fence": "20s"})
    settle(daemon, shape)
    before = held(daemon)
    job = Job(daemon, shape, storm)
    lost: list[str] = []
    sessions = {daemon.pid}
    try:
        job.start()
        job.commits_again()
        for _ in range(PER_STORM):
            commits, restores = len(job.committed), job.restores
            target = chance.choice([name for name in TARGETS if tiers == 2 or name != "global"])
            moment = when(job, chance)
            shoot(target, daemon, job, chance)
            sessions.add(daemon.pid)
            job.commits_again()
            tally.add((target, moment), kills=1, lost=0, commits=len(job.committed) - commits, restores=job.restores - restores)
        job.stop()
        settle(daemon, shape)
        lost = check_steps(daemon, job, keep)
        tally.add((target, moment), lost=len(lost))
        assert not lost, f"committed, told of, and gone: {lost}"
        check_nothing_left(daemon, before, sessions)
    finally:
        job.close()


def check_nothing_left(daemon: Daemon, before: dict[str, Counter[str]], sessions: set[int]) -> None:
    def more() -> dict[str, Counter[str]]:
        return {role: extra for role, kinds in held(daemon).items() if (extra := kinds - before[role])}

    # A session's end is seen at once, and its memory given back a moment later.
    deadline = time.monotonic() + 5
    while more() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert more() == {}, "more is open than before the storm"
    # What a worker that died had under its writes rests for half a minute.
    until("no chunk is needed", lambda: status(daemon)["pool"]["needed"] == 0, seconds=40)
    assert status(daemon)["sessions"]["count"] == 0
    assert len(living(daemon.pid)) == len(before)
    assert {session: left for session in sessions - {daemon.pid} if (left := living(session))} == {}
    assert "every block is good" in cli(daemon, "verify", "run")
