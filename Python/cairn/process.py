"""What belongs to the whole process: its environment, its end, and its forked children."""

from __future__ import annotations

import atexit
import os
import weakref
from typing import Protocol


class Holder(Protocol):
    """What must be told when the process forks or ends."""

    def close(self) -> None:
        """Called at exit: wait, bounded, until what was saved is staged."""

    def forked(self) -> None:
        """Called in a forked child, before it does anything else: drop what is the parent's."""


_live: weakref.WeakSet[Holder] = weakref.WeakSet()


def register(holder: Holder) -> None:
    """Tell ``holder`` of forks and of the end, as long as it lives."""
    _live.add(holder)


def number(variable: str, given: int | None, default: int) -> int:
    """``given``, else the environment's ``variable``, else ``default``."""
    found = optional(variable, given)
    return default if found is None else found


def optional(variable: str, given: int | None) -> int | None:
    """``given``, else the environment's ``variable``, else None.

    Raises:
        ValueError: the variable is not a number."""
    if given is not None:
        return given
    text = os.environ.get(variable)
    if not text:
        return None
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{variable} is '{text}', not a number") from None


def _forked() -> None:
    for holder in list(_live):
        holder.forked()


def _exit() -> None:
    for holder in list(_live):
        holder.close()


os.register_at_fork(after_in_child=_forked)
atexit.register(_exit)
