"""What the caller of a Checkpointer says, checked: every wrong word is a ValueError that names it, before anything happens."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from . import limits

_RUN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_BRANCH = re.compile(r"(?P<run>[^@]+)(?:@(?P<step>\d{1,18})(?:\.(?P<attempt>\d{1,9})-(?P<count>\d{1,9}))?)?")
_EVERY = {"global": "committed", "local": "local", "memory": "staged"}


def check_run(run: str) -> str:
    if not _RUN.fullmatch(run):
        raise ValueError(f"run '{run}' must be letters, digits, '.', '_' and '-', begin with a letter or digit, at most 100")
    return run


def wants_raise(name: str, value: str) -> bool:
    """Of on_unavailable and on_failure, which are 'warn' or 'raise'."""
    if value not in ("warn", "raise"):
        raise ValueError(f"{name} is 'warn' or 'raise', not {value!r}")
    return value == "raise"


def ring_bytes_of(count: int) -> int:
    least, most = limits.RING_LEAST_BYTES, limits.RING_MOST_BYTES
    if not least <= count <= most:
        raise ValueError(f"ring_bytes is {least} to {most}, not {count!r}")
    return count


class Every:
    """How often a save goes how far."""

    def __init__(self, periods: Mapping[str, int] | str | None) -> None:
        self.is_auto = periods == "auto"
        if isinstance(periods, str):
            if not self.is_auto:
                raise ValueError(f"every is 'auto' or a number of steps for some of {', '.join(sorted(_EVERY))}, not {periods!r}")
            periods = None
        if periods is not None and (not periods or not set(periods) <= set(_EVERY) or min(periods.values()) < 1):
            raise ValueError(f"every has steps of at least 1 for some of {', '.join(sorted(_EVERY))}, not {dict(periods)!r}")
        self._periods = dict(periods) if periods is not None else None

    def level(self, step: int) -> str:
        """The furthest level that is due at ``step``; where none is, the nearest that the caller named."""
        if self._periods is None:
            return "committed"
        named = [name for name in _EVERY if name in self._periods]
        return _EVERY[next((name for name in named if step % self._periods[name] == 0), named[-1])]

    def is_due(self, step: int) -> bool:
        return self._periods is None or any(step % period == 0 for period in self._periods.values())


def mtbf_of(seconds: float) -> float:
    if not 60 <= seconds <= 1e9:
        raise ValueError(f"mtbf is in seconds, from 60 to 1e9, not {seconds!r}")
    return seconds


@dataclass(frozen=True)
class Branch:
    """Where a run begins: a committed step of another run of the same user. ``step`` of None: its newest."""

    run: str
    step: int | None
    sequence: int | None


def branch_of(text: str) -> Branch:
    """From ``run``, ``run@step`` or ``run@step.17-41``, the step's name on disk."""
    found = _BRANCH.fullmatch(text)
    if found is None:
        raise ValueError(f"branch_from is 'run', 'run@step' or 'run@step.attempt-count', as 'pretrain@1200.17-41', not {text!r}")
    step = None if found["step"] is None else int(found["step"])
    sequence = None if found["attempt"] is None else (int(found["attempt"]) << 32) + int(found["count"])
    return Branch(check_run(found["run"]), step, sequence)


def participants_of(ranks: Iterable[int] | None, rank: int, world_size: int) -> list[int] | None:
    """The ranks that take part in a save, ascending; None: all."""
    if ranks is None:
        return None
    given = list(ranks)
    if not all(type(each) is int and 0 <= each < world_size for each in given) or len(set(given)) != len(given):
        raise ValueError(f"participants are different ranks of a world of {world_size}, not {given!r}")
    for needed, why in ((0, "it counts the saves of an attempt"), (rank, "it is the one that saves: others must not call save()")):
        if needed not in given:
            raise ValueError(f"rank {needed} is not among the participants {sorted(given)}, but {why}")
    return sorted(given) if len(given) < world_size else None
