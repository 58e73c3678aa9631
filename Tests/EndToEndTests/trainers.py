"""Ranks of one launch in this process, which save step after step, and what they were told."""

from __future__ import annotations

import secrets
import threading
import time
from collections import Counter
from dataclasses import dataclass

from real_daemon import Daemon
from survival import SaveName, pattern
from test_nodes import open_rank

import cairn

FUTURES = {"local": "local", "global": "durable", "committed": "committed"}
NEVER = 1 << 63
OUTSTANDING = 5
"""Saves that wait for their commit: fewer than the daemon's queue holds, which would void one of more."""


@dataclass(frozen=True)
class Told:
    """Of one save: the levels that each rank was told, and when by the daemon's clock."""

    ranks: list[dict[str, int]]

    @property
    def committed(self) -> bool:
        return any("committed" in levels for levels in self.ranks)

    @property
    def everywhere(self) -> bool:
        """On some tier for every rank: then it is finished, whatever happens."""
        return self.committed or all(self.ranks)

    def by_local(self, rank: int) -> bool:
        """The local tier's own word. A higher level told alone says `local` too, with the same time."""
        levels = self.ranks[rank]
        return levels.get("local", NEVER) < levels.get("global", NEVER)

    @property
    def reports(self) -> int:
        return sum(map(len, self.ranks))


class Trainers:
    """``went`` is set once ``point`` has come more than ``skip`` times: `copying`, or `told` and a level."""

    def __init__(self, daemon: Daemon, world: int, kibibytes: int, point: str = "", skip: int = 0) -> None:
        token = secrets.token_hex(8)
        self.ranks = [open_rank(daemon, rank, world, token) for rank in range(world)]
        self.attempt = self.ranks[0]._link.wait_for_session(30).limits["attempt"]
        self.saves: dict[int, list[cairn.Save]] = {}
        self.went = threading.Event()
        self._kibibytes, self._point, self._skip = kibibytes, point, skip
        self._seen: Counter[str] = Counter()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._train, daemon=True)

    def save(self, step: int) -> list[cairn.Save]:
        # Lazy, and never changed: save() returns at once, so that one thread has all ranks copied at the same time.
        made = [
            one.save(step, pattern(self.attempt, step, rank, self._kibibytes), lazy=True) for rank, one in enumerate(self.ranks)
        ]
        self.saves[step] = made
        for level, name in FUTURES.items():
            for each in made:
                getattr(each, name).add_done_callback(lambda done, level=level: done.exception() or self._note(f"told {level}"))
        self._note("copying")
        return made

    def _note(self, what: str) -> None:
        self._seen[what] += 1
        if what == self._point and self._seen[what] > self._skip:
            self.went.set()

    def start(self) -> None:
        self._thread.start()

    def _train(self) -> None:
        step = max(self.saves, default=0)
        while not self._over.is_set():
            if sum(not all(save.done for save in made) for made in self.saves.values()) < OUTSTANDING:
                step += 1
                self.save(step)
            time.sleep(0.002)

    def told(self) -> dict[SaveName, Told]:
        """Of each save that has not failed, which promises nothing."""
        found = {}
        for made in list(self.saves.values()):
            if all(save.id is not None and save.level != "failed" for save in made):
                found[SaveName.read(str(made[0].id))] = Told([_levels(save) for save in made])
        return found

    def end(self, timeout: float = 10.0) -> None:
        """Let what is saved be staged for so long; none where the daemon is dead."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join(20)
        for checkpointer in self.ranks:
            checkpointer.close(timeout=timeout)


def _levels(save: cairn.Save) -> dict[str, int]:
    futures = {level: getattr(save, name) for level, name in FUTURES.items()}
    return {level: done.result().monotonic_ns for level, done in futures.items() if done.done() and not done.exception()}
