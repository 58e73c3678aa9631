"""What a run holds: its checkpoints as the daemon lists them, and what can be done with a single one."""

from __future__ import annotations

from typing import Any

from . import errors, limits
from .link import Link
from .saves import level_named
from .wire import CHECKPOINT, OPERATIONS


class History:
    """The questions that a Checkpointer answers about its run."""

    run: str
    _link: Link

    def steps(self) -> list[dict[str, Any]]:
        """The run's checkpoints as the daemon lists them (dev.cairn.Checkpoint.Steps), newest first by sequence.

        Raises:
            Unavailable: there is no daemon."""
        session = self._link.wait_for_session(limits.CONNECT_SECONDS)
        try:
            found = session.load_call("Steps", {"run": self.run}).get("steps", [])
        except errors.NoSuchRun:
            return []
        return [entry for entry in found if isinstance(entry, dict)]

    def all_steps(self) -> list[int]:
        """The committed steps, ascending."""
        return sorted({int(entry["step"]) for entry in self.steps() if entry["level"] == "committed"})

    def latest_step(self) -> int | None:
        """The newest committed step that is not superseded, by sequence: what restore() takes. None: there is none."""
        whole = [entry for entry in self.steps() if entry["level"] == "committed" and not entry["superseded"]]
        return int(max(whole, key=lambda entry: int(entry["sequence"]))["step"]) if whole else None

    def delete(self, step: int) -> None:
        """Delete a committed step on all tiers.

        Raises:
            NoSuchStep: it is not there. NotPermitted: it is the newest, or in use."""
        self._tend(OPERATIONS + "Delete", {"run": self.run, "step": step})

    def promote(self, step: int, level: str = "committed") -> None:
        """Let this rank's newest save of ``step``, which was to end before, go on to ``level``: local, global or committed.

        All ranks must call it, for each has its own part. It returns at once; ``steps()`` tells when the step is there. A daemon
        that is started anew before that has forgotten it: call it again.

        Raises:
            ValueError: no such level. NoSuchStep: this attempt saved no such step, or its bytes are not there any more."""
        name = level_named(level)
        if name == "staged":
            raise ValueError("every save is staged: promote it to local, global or committed")
        self._tend(CHECKPOINT + "Promote", {"step": step, "level": name})

    def _tend(self, method: str, parameters: dict[str, Any]) -> None:
        session = self._link.wait_for_session(limits.CONNECT_SECONDS)
        with session.loads_lock:
            session.loads.call(method, parameters)
