"""What a run holds: its checkpoints as the daemon lists them, and what can be done with a single one."""

from __future__ import annotations

import os
from typing import Any

from . import errors, limits, options
from .link import Link
from .saves import level_named
from .wire import CHECKPOINT, OPERATIONS, Connection


def newest_step(run: str, *, socket: str | os.PathLike[str] | None = None) -> int | None:
    """The newest committed step of a run of this user, which a restore would take; None: there is none. Asked for without being a
    rank, as by a script that is to say where to resume before it knows who it is.

    Raises:
        Unavailable: no daemon answers. ValueError: the run's name cannot be."""
    found = [each.get("newestCommitted") for each in runs_of(options.check_run(run), str(socket or limits.default_socket()))]
    return int(found[0]) if found and found[0] is not None else None


def runs_of(run: str, socket: str) -> list[dict[str, Any]]:
    """A run of this user, as Runs of dev.cairn.Operations lists it; nothing where there is none."""
    return of_run(run, ask(socket, "Runs", {"run": run, "uid": os.getuid()}).get("runs", []))


def ask(socket: str, method: str, parameters: dict[str, Any]) -> dict[str, Any]:
    """A call of dev.cairn.Operations, on a connection of its own."""
    connection = Connection(socket)
    try:
        return connection.call(OPERATIONS + method, parameters)
    finally:
        connection.close()


def of_run(run: str, entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [each for each in entries if each.get("run") == run and each.get("uid") == os.getuid()]


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

    def pin(self, step: int) -> None:
        """Keep a committed step from retention until it is unpinned.

        Raises:
            NoSuchStep: it is not there."""
        self._tend(OPERATIONS + "Pin", {"run": self.run, "step": step})

    def unpin(self, step: int) -> None:
        """Leave a step to retention again."""
        self._tend(OPERATIONS + "Unpin", {"run": self.run, "step": step})

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
