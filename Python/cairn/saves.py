"""One save as the trainer sees it: how far it has come, as futures.

Levels, in order: accepted, staged, local, global, committed; or failed, with a reason. A save that was asked for less than
`committed` ends at its own level; the futures above it then hold LevelNotAsked.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from . import limits
from .errors import CheckpointFailed, LevelNotAsked, Unavailable

if TYPE_CHECKING:
    from .streams import Stream

LEVELS = ("accepted", "staged", "local", "global", "committed")
ORDER = {level: order for order, level in enumerate(LEVELS)}
_ALIASES = {"durable": "global", "memory": "staged"}


def level_named(level: str) -> str:
    """The wire's name of a level; `durable` is global, `memory` is staged.

    Raises:
        ValueError: there is no such level.
    """
    level = _ALIASES.get(level, level)
    if level not in ORDER or level == "accepted":
        raise ValueError(f"no level '{level}': staged (memory), local, global (durable) or committed")
    return level


@dataclass(frozen=True)
class Reached:
    """A level that a save has reached. ``monotonic_ns`` is the daemon's CLOCK_MONOTONIC, the same clock as time.monotonic_ns()."""

    step: int
    save: str
    level: str
    bytes: int
    monotonic_ns: int


class Watched(Protocol):
    """See layout.Unchanged."""

    def changed(self) -> str | None: ...


class Save:
    """The handle of one ``save()``.

    Attributes:
        staged, local, durable, committed: concurrent.futures.Future each; the result is a Reached, the exception
            CheckpointFailed, or LevelNotAsked where the save was not asked to go that far.
        bytes: of this rank's file, once accepted.
    """

    def __init__(self, step: int, upto: str) -> None:
        self.step = step
        self.upto = upto
        self.id: str | None = None
        self.bytes = 0
        self.level = "accepted"
        self.reason: str | None = None
        self.staged: Future[Reached] = Future()
        self.local: Future[Reached] = Future()
        self.durable: Future[Reached] = Future()
        self.committed: Future[Reached] = Future()
        self._lock = threading.Lock()
        self._futures = {"staged": self.staged, "local": self.local, "global": self.durable, "committed": self.committed}
        for future in self._futures.values():
            future.set_running_or_notify_cancel()  # cancel() is refused: the daemon goes on anyway
        # The client's own: what must live until staged, what of it the caller must not change, and signs of life.
        self._held: list[Any] = []
        self._lazy: Watched | None = None
        self._stream: Stream | None = None
        self._progress = 0
        self._began_ns = time.monotonic_ns()
        self._staged_ns: int | None = None

    def __repr__(self) -> str:
        return f"Save(step={self.step}, level={self.level!r}{f', reason={self.reason!r}' if self.reason else ''})"

    @property
    def done(self) -> bool:
        """Whether it has ended: at the level asked for, or failed."""
        return self.level == "failed" or ORDER[self.level] >= ORDER[self.upto]

    @property
    def free(self) -> bool:
        """Whether the caller may change its tensors: staged or failed."""
        return self.level != "accepted"

    @property
    def staging_seconds(self) -> float | None:
        """From the call of save() until it was staged; until now, where it is not yet. None: it failed before."""
        if self._staged_ns is None and self.level == "failed":
            return None
        return ((self._staged_ns or time.monotonic_ns()) - self._began_ns) / 1e9

    def wait(self, level: str | None = None, *, timeout: float = limits.FINISH_SECONDS) -> Reached:
        """Wait until the save is at ``level`` (default: the one it was asked for) or beyond.

        Raises:
            CheckpointFailed: it failed. LevelNotAsked: it does not go that far. TimeoutError: not within ``timeout`` s.
        """
        name = self.upto if level is None else level_named(level)
        try:
            return self._futures[name].result(timeout)
        except FutureTimeout:
            raise TimeoutError(f"step {self.step} is {self.level}, not {name}, after {timeout:g} s") from None

    # What follows is called by the link.

    def _changed(self) -> str | None:
        """The name of a lazy tensor that was changed before it was known to be staged."""
        watched = self._lazy
        return None if watched is None or self.free else watched.changed()

    def _reach(self, level: str, count: int, monotonic_ns: int) -> None:
        """Everything up to ``level`` is reached; events may skip levels, or come twice."""
        with self._lock:
            self._progress += 1
            if level not in ORDER or self.level == "failed" or ORDER[level] <= ORDER[self.level]:
                return
            self.level = level
            self._staged_ns = self._staged_ns or monotonic_ns
            self._held, self._lazy, self._stream = [], None, None
            due = [name for name in LEVELS[1 : ORDER[level] + 1] if not self._futures[name].done()]
            above = list(LEVELS[ORDER[self.upto] + 1 :]) if self.done else []
        for name in due:
            self._futures[name].set_result(Reached(self.step, self.id or "", name, count, monotonic_ns))
        for name in above:
            if not self._futures[name].done():
                self._futures[name].set_exception(LevelNotAsked(f"step {self.step} was asked to go to {self.upto} only"))

    def _fail(self, reason: str) -> bool:
        """End as failed, unless it has ended; tells whether it has failed now."""
        with self._lock:
            if self.done:
                return False
            self.level = "failed"
            self.reason = reason
            self._held, self._lazy, self._stream = [], None, None
            due = [future for future in self._futures.values() if not future.done()]
        for future in due:
            future.set_exception(CheckpointFailed(self.step, reason, self.id))
        return True

    def _abandon(self, reason: str) -> None:
        """Nobody will tell how it went on: what is not reached by now stays unknown."""
        with self._lock:
            self._held, self._lazy, self._stream = [], None, None
            due = [future for future in self._futures.values() if not future.done()]
        for future in due:
            future.set_exception(Unavailable(f"step {self.step} was {self.level} when the link ended: {reason}"))


class Failures:
    """The saves that failed, for whoever asks. Any thread may note one."""

    KEPT = 64
    """Enough to tell what is wrong; ``count`` counts all."""

    def __init__(self) -> None:
        self.count = 0
        self._kept: list[Save] = []
        self._lock = threading.Lock()

    def note(self, save: Save) -> None:
        with self._lock:
            self.count += 1
            self._kept.append(save)
            del self._kept[: -self.KEPT]

    def check(self) -> None:
        """Raise CheckpointFailed for the first since the last check; its text counts the others."""
        with self._lock:
            failed, self._kept = self._kept, []
        if failed:
            more = f" (and {len(failed) - 1} more saves failed)" if len(failed) > 1 else ""
            raise CheckpointFailed(failed[0].step, f"{failed[0].reason}{more}", failed[0].id)
