"""Cairn: everything lazy, fenced by ``lock()`` as a guarded optimizer's step is."""

from __future__ import annotations

import functools
import time
from concurrent.futures import Future
from pathlib import Path

from daemon import Daemon
from machine import forget_pages
from workload import State

import cairn

from .base import WAIT_SECONDS, Failed, Pending, Subject, reason


class CairnPending(Pending):
    """The levels' times are the daemon's own, of the same clock, so that a trainer that holds the GIL does not delay them."""

    def __init__(self, ckpt: cairn.Checkpointer, save: cairn.Save) -> None:
        super().__init__()
        self._ckpt = ckpt
        for level, future in (("staged", save.staged), ("local", save.local), ("committed", save.committed)):
            future.add_done_callback(functools.partial(self._reached, level))

    def _reached(self, level: str, done: Future[cairn.Reached]) -> None:
        error = done.exception()
        if error is None:
            self.at[level] = done.result().monotonic_ns / 1e9
        if level == "committed":
            # The local tier is the one copy that the peers write; where there is none, it is the global one.
            self.at["durable"] = min(self.at.get("local", float("inf")), self.at.get("committed", float("inf")))
            self.end(error)

    def fence(self) -> None:
        with self._ckpt.lock():
            pass


class Cairn(Subject):
    name = "cairn"
    settings = "save(lazy=True), fenced by lock(); two tiers on the same drive, a pool of the state's size"

    def __init__(
        self, state: State, folder: Path, daemon: Daemon | None = None, *, socket: Path | None = None, name: str = "cairn"
    ) -> None:
        """With a daemon that is started anew for cold loads, or on the socket of one that somebody else has."""
        super().__init__(state, folder)
        self.name, self._daemon = name, daemon
        self._socket = socket if daemon is None else daemon.socket
        self._run = f"bench-{time.time_ns()}"
        self._open()

    def _open(self) -> None:
        self.ckpt = cairn.Checkpointer(
            self._run, rank=0, world_size=1, socket=self._socket, attempt=f"bench-{time.time_ns()}", on_unavailable="raise"
        )

    @property
    def daemon(self) -> Daemon:
        if self._daemon is None:
            raise Failed("this daemon is somebody else's")
        return self._daemon

    def begin(self) -> Pending:
        return CairnPending(self.ckpt, self.ckpt.save(self.count, self.state.tree, lazy=True))

    def load(self) -> None:
        try:
            if self.ckpt.restore(self.state.tree, allow_pickle=True, timeout=WAIT_SECONDS) != self.count:
                raise Failed(f"restored another step than {self.count}")
        except cairn.CairnError as failure:
            raise Failed(reason(failure)) from failure

    def cool(self) -> None:
        """A new daemon, which has nothing in memory, and nothing of its files in the page cache."""
        self.ckpt.close()
        self.daemon.stop()
        for tier in self.daemon.folders:
            forget_pages(tier)
        self.daemon.start()
        self._open()

    def tidy(self) -> None:
        if self._daemon is not None:
            self._daemon.drop_deleted()

    def helpers(self) -> list[int]:
        return self._daemon.pids if self._daemon is not None else []

    def close(self) -> None:
        self.ckpt.close()
        super().close()
