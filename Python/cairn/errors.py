"""Every error of the package. Those of the wire carry the daemon's fields; the others say what to change.

The name is API, the text is not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class CairnError(Exception):
    """Any error of this package."""


class Unavailable(CairnError):
    """No daemon answers, or the session with it ended."""


class ProtocolError(CairnError):
    """The daemon sent what this client does not understand."""


class WireError(CairnError):
    """A typed error that the daemon answered. ``parameters`` are its fields, as sent."""

    text = "the daemon refused the call"

    def __init__(self, name: str, parameters: Mapping[str, Any]) -> None:
        self.name = name
        self.parameters = dict(parameters)
        fields = ", ".join(f"{key}={value!r}" for key, value in self.parameters.items())
        super().__init__(f"{self.text} ({name.rpartition('.')[2]}{': ' + fields if fields else ''})")


class NotOpen(WireError):
    """The connection has no session: ``Open`` or ``Attach`` must come first."""

    text = "this connection has no session"


class AttemptEnded(WireError):
    """A later launch of the job has the run now; this one's ranks may no longer save. Fields: ``by``, that launch's number."""

    text = "a later launch of this job has taken over the run; this one may no longer save"


class RankTaken(WireError):
    """Another live process holds this rank of the run. Fields: ``pid``, that process's."""

    text = "another live process holds this rank of the run"


class UnknownLayout(WireError):
    """The daemon has no such layout (it was restarted): register it again. Fields: ``layout``."""

    text = "the daemon does not know this layout"


class UnknownSave(WireError):
    """The daemon has no such save. Fields: ``save``."""

    text = "the daemon does not know this save"


class Busy(WireError):
    """Too many saves of this rank are not staged yet. Nothing was taken, the call may be repeated. Fields: ``step``."""

    text = "too many saves of this rank are not staged yet; nothing was taken, the call may be repeated"


class TooLarge(WireError):
    """More than a limit of the daemon's allows. Fields: ``bytes`` and ``limit``, in bytes."""

    text = "more than the daemon's limit; raise limits in cairnd.yaml or send less"


class LeaseLost(WireError):
    """A tier that has not answered may still write into this lease: another one must be taken. Fields: ``segment``."""

    text = "a tier that did not answer may still write into this lease"


class NoSuchRun(WireError):
    """There is no such run, or none that this user may see. Fields: ``run``."""

    text = "no such run, or none that this user may see"


class NoSuchStep(WireError):
    """The run has no such step, or none at all. Fields: ``step``, or None."""

    text = "no such step in this run"


class NotWhole(WireError):
    """Parts of the step are missing. Fields: ``step``, and ``missing``, the ranks."""

    text = "the step is not whole: ranks are missing"


class Corrupt(WireError):
    """Stored bytes are not what was staged, by their CRC32C. Fields: ``path``, and ``block``, counted in 256 KiB."""

    text = "stored bytes do not match their checksum"


class NoSpace(WireError):
    """A tier is full. Fields: ``tier``, and ``needed`` and ``available`` in bytes."""

    text = "a tier has no space left"


class TierDown(WireError):
    """A tier does not answer, or cannot be used. Fields: ``tier``, ``reason``."""

    text = "a tier does not answer"


class NotPermitted(WireError):
    """This user may not do that. Fields: ``reason``."""

    text = "not permitted"


class InvalidShard(WireError):
    """The daemon refused a tensor. Fields: ``name``, ``reason``."""

    text = "the daemon refused a tensor"


class TimedOut(WireError):
    """The save did not reach a level within the time given. Fields: ``level``."""

    text = "the save did not reach the level in time"


class Draining(WireError):
    """The daemon is ending and takes no new saves."""

    text = "the daemon is shutting down and takes no new saves"


class NotSupported(WireError):
    """This daemon does not serve that. Fields: ``feature``."""

    text = "this daemon does not serve that"


class Failed(WireError):
    """The daemon could not do it. Fields: ``reason``."""

    text = "the daemon could not do it"


def checkpoint_of(step: int) -> str:
    """In words; a negative step: it was staged, and is not known yet."""
    return f"checkpoint of step {step}" if step >= 0 else "checkpoint of a step that is not known yet"


class CheckpointFailed(CairnError):
    """A save ended in ``failed``, or never began. ``reason`` is the daemon's or the client's own."""

    def __init__(self, step: int, reason: str, save: str | None = None) -> None:
        self.step = step
        self.reason = reason
        self.save = save
        super().__init__(f"{checkpoint_of(step)} failed: {reason}")


class LevelNotAsked(CairnError):
    """A future above the level that the save was asked for."""


class UnsupportedTensor(CairnError, TypeError):
    """A tensor that cannot be saved; the text names it and says why."""


class Mismatch(CairnError, ValueError):
    """The state given to restore() does not fit what was saved. ``missing``: names of its tensors that were not saved;
    ``different``: how others differ."""

    def __init__(self, text: str, *, missing: Sequence[str] = (), different: Sequence[str] = ()) -> None:
        self.missing = list(missing)
        self.different = list(different)
        super().__init__(text)


class WorldSizeChanged(CairnError):
    """The step was saved by another number of ranks, and the state holds what belongs to single ranks."""


class PickleRefused(CairnError):
    """A stored leaf needs a class that is not on the list of harmless ones."""


class CannotConvert(CairnError):
    """A step does not go into a form of another tool, or a file not into a step (cairn.convert); the text says what to do."""


class CannotStart(Unavailable):
    """No daemon answers, and ``autostart`` could not start one; the text says what to do."""


class NoAttempt(CairnError):
    """The ranks of a larger world have no way to agree on the attempt's token."""


class CannotWatch(CairnError):
    """Preemption cannot be watched for, or the ranks cannot agree on it; the text says what to do."""


class CannotAgree(CairnError):
    """The ranks cannot agree on when to save (``every="auto"``); the text says what to do."""


class NoCommit(CairnError):
    """Nothing was committed for longer than ``max_without_commit``."""


_BY_NAME: dict[str, type[WireError]] = {
    kind.__name__: kind
    for kind in (
        NotOpen, AttemptEnded, RankTaken, UnknownLayout, UnknownSave, Busy, TooLarge, LeaseLost, NoSuchRun, NoSuchStep, NotWhole,
        Corrupt, NoSpace, TierDown, NotPermitted, InvalidShard, TimedOut, Draining, NotSupported, Failed,
    )
}  # fmt: skip


def from_wire(name: str, parameters: Mapping[str, Any]) -> WireError:
    """The error that a reply's ``error`` and ``parameters`` stand for; unknown names become a plain WireError."""
    _, _, short = name.rpartition(".")
    kind = _BY_NAME.get(short, WireError) if name.startswith("dev.cairn.") else WireError
    return kind(name, parameters)
