"""A job whose ranks are processes, and its launcher: what a kill storm shoots at."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import random
import secrets
import select
import signal
import struct
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from machine import until
from real_daemon import Daemon
from survival import assert_restored, empty, pattern

import cairn
from cairn import limits

PR_SET_PDEATHSIG = 1
OUTSTANDING = 3
"""Saves of a rank that it goes on with before it waits for one of them."""
PATIENCE_SECONDS = 0.5
"""A save that another rank never made ends with a later one's commit only: a rank must not wait for it."""


@dataclass(frozen=True)
class Shape:
    """Of a job: how many ranks, how much each of them saves, and whether it streams the most of it."""

    world: int
    kibibytes: int
    streams: bool = False


class Lockstep:
    """Ranks that take each step together, as collectives make them do."""

    def __init__(self, world: int) -> None:
        self._cells = mmap.mmap(-1, 8 * world)
        self._world = world

    def arrive(self, rank: int, step: int) -> None:
        struct.pack_into("q", self._cells, 8 * rank, step)
        while min(struct.unpack_from(f"{self._world}q", self._cells)) < step:
            time.sleep(0.001)

    def close(self) -> None:
        self._cells.close()


def _train(daemon: Daemon, shape: Shape, rank: int, token: str, together: Lockstep, tell: Callable[[str], None], seed: int) -> None:
    """A rank's whole life: restore, then save and save until it is killed."""
    chance = random.Random(seed)
    checkpointer = cairn.Checkpointer(
        "run", rank=rank, world_size=shape.world, local_rank=rank, local_world_size=shape.world, attempt=token,
        socket=daemon.socket, streamed=["large"], ring_bytes=limits.RING_LEAST_BYTES,
    )  # fmt: skip
    into = empty(shape.kibibytes)
    step = checkpointer.restore(into, timeout=30) or 0
    saved_by = assert_restored(into, step, rank, shape.kibibytes) if step else 0
    tell(f"restored {saved_by} {step}")
    attempt = checkpointer._link.wait_for_session(30).limits["attempt"]
    waiting: list[cairn.Save] = []
    while True:
        step += 1
        state = pattern(attempt, step, rank, shape.kibibytes)
        if shape.streams:
            state["large"] = torch.from_numpy(state["large"])
        save = checkpointer.save(step, state, lazy=chance.random() < 0.5)
        save.committed.add_done_callback(lambda done, step=step: done.exception() or tell(f"committed {attempt} {step}"))
        waiting.append(save)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while len(waiting := [one for one in waiting if not one.done]) > OUTSTANDING and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.008))
        together.arrive(rank, step)


@dataclass
class Launch:
    """One launch of the job. ``told`` and ``restored`` are pairs of attempt and step."""

    pids: list[int]
    restored: dict[int, tuple[int, int]] = field(default_factory=dict)
    commits: int = 0


class Job:
    """Launches ranks, ends them, and hears what they were told."""

    def __init__(self, daemon: Daemon, shape: Shape, seed: int) -> None:
        self.daemon = daemon
        self.shape = shape
        self.newest = (0, 0)
        """Attempt and step of the newest commit that a rank was told of."""
        self.committed: set[tuple[int, int]] = set()
        self.launches = 0
        self.restores = 0
        self._seed = seed
        self._floor = (0, 0)
        self._reader, self._writer = os.pipe()
        self._rest = b""
        self._together: Lockstep | None = None
        self.launch: Launch | None = None

    def start(self) -> None:
        """A new launch of all ranks. Each is forked, so that it starts in milliseconds."""
        self.hear()
        self.launches += 1
        self._floor = self.newest
        token = secrets.token_hex(8)
        self._together = Lockstep(self.shape.world)
        self.launch = Launch([self._fork(rank, token, self._together) for rank in range(self.shape.world)])

    def _fork(self, rank: int, token: str, together: Lockstep) -> int:
        parent, pid = os.getpid(), os.fork()
        if pid:
            return pid
        code = 1
        try:
            # It must not outlive the test, whatever ends that.
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() == parent:
                launch, seed = self.launches, self._seed * 1_000 + self.launches * 10 + rank

                def tell(what: str) -> None:
                    os.write(self._writer, f"{launch} {rank} {what}\n".encode())

                try:
                    _train(self.daemon, self.shape, rank, token, together, tell, seed)
                except AssertionError:
                    tell(f"wrong {traceback.format_exc()!r}")
                except cairn.CairnError as failure:
                    tell(f"left {failure!r}")
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)

    def hear(self, seconds: float = 0.0) -> None:
        """Take in what ranks have written, waiting for some of it up to ``seconds``."""
        while select.select([self._reader], [], [], seconds)[0]:
            self._rest += os.read(self._reader, 1 << 16)
            *lines, self._rest = self._rest.split(b"\n")
            for line in lines:
                self._heard(line.decode())
            seconds = 0.0

    def _heard(self, line: str) -> None:
        launch, rank, what, rest = line.split(" ", 3)
        assert what != "wrong", f"launch {launch}, rank {rank}: {rest}"
        if what == "left":
            return
        attempt, step = map(int, rest.split())
        if what == "committed":
            self.committed.add((attempt, step))
            self.newest = max(self.newest, (attempt, step))
            if self.launch is not None and int(launch) == self.launches:
                self.launch.commits += 1
        elif self.launch is not None and int(launch) == self.launches:
            self.restores += 1
            self.launch.restored[int(rank)] = (attempt, step)
            found = set(self.launch.restored.values())
            assert len(found) == 1, f"ranks of launch {launch} restored {found}"
            assert (attempt, step) >= self._floor, f"launch {launch} restored {(attempt, step)}, {self._floor} had been committed"

    def running(self) -> bool:
        """Whether every rank lives; one that gave up is reaped by ``stop``."""
        how = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return self.launch is not None and all(os.waitid(os.P_PID, pid, how) is None for pid in self.launch.pids)

    def kill(self, ranks: list[int]) -> None:
        assert self.launch is not None
        for rank in ranks:
            os.kill(self.launch.pids[rank], signal.SIGKILL)

    def stop(self) -> None:
        """End the launch, as a launcher does that has lost a rank."""
        launch, self.launch = self.launch, None
        if launch is not None:
            for pid in launch.pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
        if self._together is not None:
            self._together.close()
            self._together = None
        self.hear()

    def commits_again(self, seconds: float = 30.0) -> None:
        """A save is committed that began after now. A launch that gives up, as when its daemon dies in its restore, is followed by
        the next."""
        self.hear()
        before = self.newest

        def again() -> bool:
            if not self.running():
                self.stop()
                self.start()
            self.hear(0.05)
            return self.newest > before

        until("a save commits again", again, seconds)

    def close(self) -> None:
        self.stop()
        os.close(self._reader)
        os.close(self._writer)
