"""What all subjects have in common: a save in flight, and the subject that makes it.

A subject saves one and the same State again and again, each time into a place of its own, and keeps the newest one only. All are
equally durable: `durable` is set once the files, their folders and the name that leads to them are synced.
"""

from __future__ import annotations

import shutil
import threading
import time
from abc import ABC, abstractmethod
from concurrent.futures import Future
from pathlib import Path

from machine import forget_pages, sync_tree
from workload import State

WAIT_SECONDS = 240.0
"""Bound of every wait for a save or a fence: the slowest peer takes a tenth of it."""


class Failed(Exception):
    """A subject cannot do what is measured; the text says why, and stands in the report."""


class Pending:
    """A save in flight. ``at``: seconds of time.monotonic() at which it reached a level, `durable` the one that all have."""

    def __init__(self) -> None:
        self.at: dict[str, float] = {}
        self.error: BaseException | None = None
        self.ended = threading.Event()

    def fence(self) -> None:
        """Wait until the trainer may change its tensors. A synchronous save has nothing to wait for."""

    def finish(self) -> None:
        """Wait until nothing of the save goes on any more.

        Raises:
            Failed: the save did."""
        if not self.ended.wait(WAIT_SECONDS):
            raise Failed(f"not durable within {WAIT_SECONDS:.0f} s")
        if self.error is not None:
            raise Failed(reason(self.error)) from self.error

    def end(self, error: BaseException | None = None) -> None:
        if error is None:
            self.at.setdefault("durable", time.monotonic())
        self.error = error
        self.ended.set()


class Background(Pending):
    """A save that a peer goes on with by itself: ``staged`` and ``written`` are its futures."""

    def __init__(self, folder: Path, staged: Future[object] | None, written: Future[object]) -> None:
        super().__init__()
        self._folder, self._staged = folder, staged
        if staged is not None:
            staged.add_done_callback(lambda _: self.at.setdefault("staged", time.monotonic()))
        written.add_done_callback(self._written)

    def fence(self) -> None:
        if self._staged is not None:
            self._staged.result(WAIT_SECONDS)

    def _written(self, future: Future[object]) -> None:
        """In the peer's thread: its files are there, and synced where it does that; what is left are the folders."""
        error = future.exception()
        try:
            if error is None:
                sync_tree(self._folder)
        except OSError as failure:
            error = failure
        self.end(error)


class Subject(ABC):
    """One way to save and restore a State. ``settings``: how it is set up, and why that is its best."""

    name = ""
    settings = ""
    asynchronous = True

    def __init__(self, state: State, folder: Path) -> None:
        self.state, self.folder = state, folder
        self.count = 0
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def target(self) -> Path:
        """Of the newest save."""
        return self.folder / f"step-{self.count}"

    def save(self) -> Pending:
        self.count += 1
        return self.begin()

    @abstractmethod
    def begin(self) -> Pending:
        """Save into ``target``, which does not exist yet."""

    @abstractmethod
    def load(self) -> None:
        """Restore the newest save into the state's own tensors."""

    def cool(self) -> None:
        """Make the next load read the drive."""
        forget_pages(self.folder)

    def tidy(self) -> None:
        """Remove all saves but the newest. Not timed."""
        for path in self.folder.iterdir():
            if path != self.target:
                shutil.rmtree(path, ignore_errors=True)

    def helpers(self) -> list[int]:
        """Processes that save besides this one and its children."""
        return []

    def close(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


class Synchronous(Subject):
    """A subject whose call returns once everything is on the drive."""

    asynchronous = False

    @abstractmethod
    def write(self) -> None:
        """Write into ``target``, an empty folder."""

    def begin(self) -> Pending:
        self.target.mkdir()
        self.write()
        sync_tree(self.target)
        pending = Pending()
        pending.end()
        return pending


def reason(error: BaseException) -> str:
    """One line of what a peer said, without this run's paths."""
    root = error
    while root.__cause__ is not None:
        root = root.__cause__
    lines = [line.strip() for line in str(root).splitlines() if line.strip()]
    return f"{type(root).__name__}: {lines[-1] if lines else ''}"[:160]
