"""Whether the job is about to be ended: a signal to any rank, told to all ranks at the same step, with whether a save still fits.

Schedulers send SIGTERM (or what they are asked to, as Slurm's ``--signal=USR1@120``) and SIGKILL some time later. The handler only
notes when; the ranks agree where the loop asks, by one all_reduce of two numbers over a gloo group of their own, so that none of
them saves a step that another is not at. Nothing is installed before it is asked for.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from types import FrameType
from typing import Any

from .agreement import Agreement
from .errors import CannotWatch
from .saves import Save


@dataclass(frozen=True)
class Preempted:
    """The same on all ranks of the job.

    Attributes:
        enough: whether ``seconds_left`` is at least ``needed``. True where nothing is measured yet and time is left: a save that is
            cut off leaves no step, and does no harm to those before it.
        seconds_left: of the grace period, when the ranks agreed: of the rank that was signalled first.
        needed: seconds from save() until it is staged, by the last saves of each rank: the longest. None: no rank has one.
    """

    enough: bool
    seconds_left: float
    needed: float | None


class Preemption:
    """This process's handlers, and the agreement of its world.

    Args:
        world_size: the ranks that ask.
        saves: this rank's last ones, whose staging is the measure.
        signals, grace, every: see Checkpointer.watch_preemption.
    Raises:
        CannotWatch: not the main thread, or a handler that Python does not know. ValueError: a wrong number."""

    def __init__(self, world_size: int, saves: Collection[Save], signals: Iterable[int], grace: float, every: int) -> None:
        if grace <= 0 or every < 1:
            raise ValueError(f"grace is in seconds and every in calls, both more than 0, not {grace!r} and {every!r}")
        if threading.current_thread() is not threading.main_thread():
            raise CannotWatch("only the main thread may set handlers of signals: call watch_preemption() there, before training")
        self._world_size = world_size
        self._saves = saves
        self._grace = grace
        self._every = every
        self._calls = 0
        self._pid = os.getpid()
        self._signalled: float | None = None
        self._outcome: Preempted | None = None
        self._agreement = Agreement(
            world_size,
            CannotWatch,
            "at which step they stop",
            "preempted()",
            "Without torch.distributed, tell a signal to all ranks by the job's own means",
        )
        self._former: dict[int, Any] = {}
        for number in signals:
            if signal.getsignal(number) is None:
                self.remove()
                raise CannotWatch(
                    f"{signal.Signals(number).name} has a handler that was not set by Python and cannot be called from it: leave "
                    "this signal out of signals=, or call watch_preemption() before what sets it"
                )
            self._former[int(number)] = signal.signal(number, self._noted)

    def _noted(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:  # a forked child that has not come to remove() yet
            self.remove()
            os.kill(os.getpid(), number)
            return
        if self._signalled is None:
            self._signalled = time.monotonic()
        former = self._former.get(number)
        if callable(former):  # not the default action, which would end the process here
            former(number, frame)

    def remove(self) -> None:
        """Set back the handlers that are still these: at the end, and in a forked child, which must die of SIGTERM as before."""
        former, self._former = self._former, {}
        for number, handler in former.items():
            with contextlib.suppress(ValueError):  # not the main thread
                if signal.getsignal(number) == self._noted:
                    signal.signal(number, handler)

    def ask(self) -> Preempted | None:
        """What all ranks agree on now, or did before; between two agreements None."""
        self._calls += 1
        if self._outcome is None and (self._calls - 1) % self._every == 0:
            self._outcome = self._agree()
        return self._outcome

    def _agree(self) -> Preempted | None:
        left = None if self._signalled is None else self._signalled + self._grace - time.monotonic()
        needed = max((seconds for save in self._saves if (seconds := save.staging_seconds) is not None), default=None)
        if self._world_size > 1:
            left, needed = self._over_all(left, needed)
        if left is None:
            return None
        left = max(left, 0.0)
        return Preempted(left >= needed if needed is not None else left > 0, left, needed)

    def _over_all(self, left: float | None, needed: float | None) -> tuple[float | None, float | None]:
        """The least time left, and the longest time needed."""
        never = -float("inf")
        negative, longest = self._agreement.largest([never if left is None else -left, never if needed is None else needed])
        return (None if negative == never else -negative), (None if longest == never else longest)
