"""A signal to one rank: all stop at the same step, with a save that is committed, or know that there is no time for one."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from real_daemon import Daemon, Opener, free_port, trainer, until

import cairn
from cairn.limits import GRACE_SECONDS
from cairn.preemption import Preemption

WATCHED = (signal.SIGTERM, signal.SIGUSR1)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Every test leaves the handlers as it found them."""
    before = [signal.getsignal(number) for number in WATCHED]
    yield
    after = [signal.getsignal(number) for number in WATCHED]
    for number, handler in zip(WATCHED, before, strict=True):
        signal.signal(number, handler)
    assert after == before


RANK = """
import json, os, sys, time
import numpy as np, torch.distributed as dist
import cairn
rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
socket, run, every, grace = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
dist.init_process_group("gloo")
ckpt = cairn.Checkpointer(run, socket=socket)
ckpt.watch_preemption(every=every, grace=grace)
state = {"weights": np.zeros(1 << 16, dtype=np.float32)}
step = restored = ckpt.restore(state) or 0
assert (state["weights"] == step).all()
told = None
while told is None:
    step += 1
    state["weights"] += 1
    if step % 5 == 0:
        ckpt.save(step, state)
    told = ckpt.preempted()
    print(step, flush=True)
    time.sleep(0.02 + 0.01 * rank)  # ranks do not run in step by themselves
level = ckpt.save(step, state).wait(timeout=30).level if told.enough else None
ckpt.close()
print(json.dumps([restored, step, told.enough, told.seconds_left, told.needed, level]), flush=True)
dist.destroy_process_group()
os._exit(0)  # see test_ranks.py: Gloo may abort at the interpreter's end
"""


def stopped(daemon: Daemon, run: str, number: int, *, world: int, whom: int, every: int = 1, grace: float = GRACE_SECONDS) -> list[Any]:
    """What each rank of a job tells when ``whom`` was sent a signal: restored, step, enough, seconds left, needed, level."""
    port = str(free_port())
    ranks: list[subprocess.Popen[str]] = []
    for rank in range(world):
        variables = {"RANK": str(rank), "WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
        ranks.append(trainer(RANK, daemon.socket, run, str(every), str(grace), environment=variables))
    try:
        output = ranks[whom].stdout
        assert output is not None
        for _ in range(12):
            assert output.readline(), "it ended by itself"
        ranks[whom].send_signal(number)
        told = [json.loads(rank.communicate(timeout=60)[0].splitlines()[-1]) for rank in ranks]
        assert [rank.returncode for rank in ranks] == [0] * world
        return told
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait(10)


@pytest.mark.daemon
def test_a_signal_to_one_rank_stops_all_at_the_same_step_with_a_committed_save(shared: Daemon) -> None:
    first = stopped(shared, "preempted", signal.SIGTERM, world=3, whom=2)
    assert all(told == first[0] for told in first)
    restored, step, enough, left, needed, level = first[0]
    assert (restored, enough, level) == (0, True, "committed")
    assert step >= 12
    assert 0 < needed < left <= GRACE_SECONDS
    assert cairn.newest_step("preempted", socket=shared.socket) == step
    again = stopped(shared, "preempted", signal.SIGUSR1, world=3, whom=0, every=4)
    assert all(told == again[0] for told in again)
    assert again[0][0] == step
    assert again[0][1] % 4 == (step + 1) % 4  # asked at the first call after the restore, and at each fourth
    assert cairn.newest_step("preempted", socket=shared.socket) == again[0][1]


@pytest.mark.daemon
def test_too_short_a_grace_period_is_told_to_all_ranks(shared: Daemon) -> None:
    told = stopped(shared, "no-time", signal.SIGTERM, world=2, whom=1, grace=1e-6)
    assert told[0] == told[1]
    _, step, enough, left, needed, level = told[0]
    assert (enough, left, level) == (False, 0.0, None)
    assert needed > 0
    newest = cairn.newest_step("no-time", socket=shared.socket)
    assert newest is not None
    assert newest <= step


@pytest.mark.daemon
def test_alone_the_answer_is_there_at_once_and_an_existing_handler_is_called(open_run: Opener) -> None:
    seen: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: seen.append(number))
    try:
        ckpt = open_run()
        with pytest.raises(cairn.CannotWatch, match="watch_preemption"):
            ckpt.preempted()
        ckpt.watch_preemption(grace=20)
        ckpt.watch_preemption(grace=10)  # in place of the first
        assert ckpt.preempted() is None
        os.kill(os.getpid(), signal.SIGUSR1)
        until(lambda: seen)
        told = ckpt.preempted()
        assert told is not None
        assert (told.enough, told.needed) == (True, None)  # nothing is measured yet
        assert 5 < told.seconds_left <= 10
        os.kill(os.getpid(), signal.SIGTERM)  # does not end this process, and changes nothing
        assert ckpt.preempted() is told
        assert seen == [signal.SIGUSR1]
        ckpt.close()
        os.kill(os.getpid(), signal.SIGUSR1)
        until(lambda: len(seen) == 2)
    finally:
        signal.signal(signal.SIGUSR1, before)


@pytest.mark.daemon
def test_staging_is_measured_from_save_until_staged(open_run: Opener, shared: Daemon) -> None:
    ckpt = open_run()
    ckpt.watch_preemption(grace=0.4)
    begin = time.monotonic()
    with shared.paused("stager") as paused:
        paused.resume_after(0.5)
        save = ckpt.save(1, {"weights": b"x" * 100})
    save.wait("staged")
    assert save.staging_seconds is not None
    assert 0.5 <= save.staging_seconds <= time.monotonic() - begin
    os.kill(os.getpid(), signal.SIGTERM)
    told = ckpt.preempted()
    assert told is not None
    assert (told.enough, told.needed) == (False, save.staging_seconds)
    assert told.seconds_left > 0
    ckpt.close()


@pytest.mark.daemon
def test_a_forked_child_dies_of_the_signal_as_before(open_run: Opener) -> None:
    ckpt = open_run()
    ckpt.watch_preemption()
    context = multiprocessing.get_context("fork")
    runs = context.Event()

    def wait() -> None:
        runs.set()
        time.sleep(60)

    child = context.Process(target=wait)
    child.start()
    try:
        assert runs.wait(10)
        child.terminate()
        child.join(10)
        assert child.exitcode == -signal.SIGTERM
    finally:
        child.kill()
        child.join(10)
    assert ckpt.preempted() is None
    ckpt.close()


def test_what_cannot_be_watched_is_refused_with_the_way_out() -> None:
    raised: list[BaseException] = []

    def elsewhere() -> None:
        try:
            Preemption(1, [], WATCHED, 30, 1)
        except cairn.CannotWatch as failure:
            raised.append(failure)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join(10)
    assert "main thread" in str(raised[0])
    for grace, every in ((0, 1), (30, 0)):
        with pytest.raises(ValueError, match="grace"):
            Preemption(1, [], WATCHED, grace, every)
    alone = Preemption(2, [], WATCHED, 30, 1)
    with pytest.raises(cairn.CannotWatch, match="init_process_group"):
        alone.ask()
    alone.remove()


def test_a_process_group_of_another_size_is_refused() -> None:
    import torch.distributed as dist

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    watch = Preemption(2, [], WATCHED, 30, 1)
    try:
        with pytest.raises(cairn.CannotWatch, match="has 1 ranks and the Checkpointer 2"):
            watch.ask()
    finally:
        watch.remove()
        dist.destroy_process_group()
