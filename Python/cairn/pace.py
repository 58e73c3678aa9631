"""``every="auto"``: a save as often as wastes least, by what the daemon measured of this run (dev.cairn.Operations.Advise)."""

from __future__ import annotations

import time
from collections.abc import Callable

from . import limits
from .agreement import Agreement
from .errors import CairnError, CannotAgree
from .wire import OPERATIONS, Connection


def advised(path: str, run: str, mtbf: float) -> float | None:
    """The interval that the daemon at ``path`` advises for a run of this user, in seconds; None: nothing measured, or nobody there.
    On a connection of its own: what is slow here ends nothing of the session."""
    try:
        connection = Connection(path)
        try:
            reply = connection.call(OPERATIONS + "Advise", {"run": run, "mtbfSeconds": int(mtbf)}, timeout=limits.ADVICE_SECONDS)
        finally:
            connection.close()
        return int(reply["bestMs"]) / 1000
    except (CairnError, KeyError, TypeError, ValueError):
        return None


class Pace:
    """When the next save is due. Rank 0 decides by its own clock; all ranks get its answer.

    Args:
        ask: the interval in seconds that the daemon of this rank advises; None: it has measured nothing, or is away.
        clock: seconds; for tests."""

    def __init__(
        self, rank: int, world_size: int, ask: Callable[[], float | None], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._is_first = rank == 0
        self._ask = ask
        self._clock = clock
        self._agreement = Agreement(
            world_size,
            CannotAgree,
            "at which step they save",
            "should_save()",
            'Without torch.distributed, give every={"global": 500}',
        )
        self._saved: float | None = None
        self._asked: float | None = None
        self._interval = limits.FIRST_INTERVAL_SECONDS

    def saved(self) -> None:
        """A save begins now."""
        self._saved = self._clock()

    def is_due(self) -> bool:
        """The same on all ranks, which must all ask at the same steps."""
        return self._agreement.largest([1.0 if self._is_first and self._is_due_here() else 0.0])[0] > 0

    def _is_due_here(self) -> bool:
        if self._saved is None:
            return True
        now = self._clock()
        if self._asked is None or now - self._asked >= limits.INTERVAL_ASKED_SECONDS:
            self._asked = now
            advised = self._ask()
            if advised is not None:
                self._interval = advised
        return now - self._saved >= self._interval
