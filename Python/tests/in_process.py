"""The ranks of a job as Checkpointers of this process: quick, and what each of them is told is at hand."""

from __future__ import annotations

import mmap
import os
import secrets
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
from real_daemon import Daemon

import cairn

Answer = TypeVar("Answer")


class Job:
    """``world`` ranks at one daemon, or shared evenly by those given. ``each`` gives further options by rank."""

    def __init__(
        self,
        daemons: Daemon | list[Daemon],
        world: int,
        *,
        run: str | None = None,
        attempt: str | None = None,
        each: Callable[[int], dict[str, Any]] = lambda rank: {},
        **options: Any,
    ) -> None:
        places = daemons if isinstance(daemons, list) else [daemons]
        self.attempt = attempt or secrets.token_hex(8)
        here = [places[rank * len(places) // world] for rank in range(world)]

        def make(rank: int) -> cairn.Checkpointer:
            local = {"local_rank": here[:rank].count(here[rank]), "local_world_size": here.count(here[rank])}
            known = {"rank": rank, "world_size": world, "attempt": self.attempt, **local}
            return here[rank].open(run, **known | options | each(rank))

        self.ranks: list[cairn.Checkpointer] = together(make, range(world))

    def all(self, work: Callable[[cairn.Checkpointer], Answer], ranks: Iterable[int] | None = None) -> list[Answer]:
        """What ``work`` gives for each rank, at the same time."""
        return together(work, self.ranks if ranks is None else [self.ranks[rank] for rank in ranks])

    def save(self, step: int, state: Callable[[int], Any], ranks: Iterable[int] | None = None, **options: Any) -> list[cairn.Save]:
        return self.all(lambda checkpointer: checkpointer.save(step, state(checkpointer.rank), **options), ranks)

    def commit(self, step: int, state: Callable[[int], Any], ranks: Iterable[int] | None = None, **options: Any) -> None:
        for save in self.save(step, state, ranks, **options):
            assert save.wait("committed", timeout=30).level == "committed"

    def __enter__(self) -> Job:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for checkpointer in self.ranks:
            checkpointer.close(timeout=5)


def together(work: Callable[[Any], Answer], items: Iterable[Any]) -> list[Answer]:
    """Call ``work`` for each item in a thread of its own; its first exception is raised, once all have ended."""
    todo = list(items)
    answers: list[Any] = [None] * len(todo)
    failures: list[BaseException] = []

    def one(index: int) -> None:
        try:
            answers[index] = work(todo[index])
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=one, args=(index,), daemon=True) for index in range(len(todo))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "a rank hangs"
    if failures:
        raise failures[0]
    return answers


def reason(save: cairn.Save) -> str:
    """Why a save failed, as its committed future tells."""
    failure = save.committed.exception(30)
    assert isinstance(failure, cairn.CheckpointFailed), f"{save!r} did not fail: {failure!r}"
    return failure.reason


class Gone:
    """An array whose memory is gone: a save of it fails while it is staged, and this process lives on."""

    def __init__(self) -> None:
        size = 1 << 20
        # Cut away below its mapping, which stays: an address that is free may be another thread's memory a moment later.
        file = os.memfd_create("gone")
        os.truncate(file, size)
        self._hole = mmap.mmap(file, size)
        os.truncate(file, 0)
        os.close(file)
        address = np.frombuffer(self._hole, dtype=np.uint8).ctypes.data
        self.__array_interface__ = {"data": (address, False), "shape": (size // 4,), "typestr": "<f4", "version": 3}

    @property
    def array(self) -> np.ndarray[Any, Any]:
        return np.asarray(self)


def written(folder: Path) -> list[int]:
    """The bytes of each rank's file in a step folder."""
    return [os.path.getsize(path) for path in sorted(folder.glob("rank-*.safetensors"))]
