"""What processes cost, what the page cache keeps, and what machine this is."""

from __future__ import annotations

import contextlib
import os
import platform
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType

TICKS = os.sysconf("SC_CLK_TCK")


def family(pid: int) -> list[int]:
    """A process and its children, as the kernel lists them."""
    children: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that has ended meanwhile
            children += [int(child) for child in (task / "children").read_text().split()]
    return [pid, *(one for child in children for one in family(child))]


def cpu_seconds(pids: Iterable[int]) -> float:
    """User and system time of these processes so far; one that has gone counts nothing."""
    total = 0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        total += int(fields[11]) + int(fields[12])
    return total / TICKS


def memory(pids: Iterable[int]) -> int:
    """Bytes that these processes keep in memory; what they share with others counts by their share (PSS). No page cache."""
    total = 0
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total * 1024


def own_memory(pids: Iterable[int]) -> int:
    """Bytes of memory of their own: a daemon's pool, which is a memfd, is not in it."""
    total = 0
    for pid in pids:
        try:
            lines = _lines(f"/proc/{pid}/status")
        except (FileNotFoundError, ProcessLookupError):
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("RssAnon:"))
    return total * 1024


def available() -> int:
    """Bytes of memory that can be taken without swapping."""
    return next(int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemAvailable")) * 1024


class Peak:
    """The most that ``value`` was while a ``with`` lasted, looked at every 10 ms."""

    def __init__(self, value: Callable[[], int]) -> None:
        self._value, self.most = value, 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="peak")

    def _watch(self) -> None:
        while not self._over.wait(0.01):
            self.most = max(self.most, self._value())

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()


def forget_pages(folder: Path) -> None:
    """Takes a folder's files out of the page cache, so that a load reads the drive. Needs no root: they are synced."""
    for path in folder.rglob("*"):
        if path.is_file():
            sync(path)
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)


def sync(path: Path) -> None:
    """fsync of a file or folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """What makes a finished checkpoint durable: its files, its folders, and the folder that has its name."""
    for path in folder.rglob("*"):
        sync(path)
    sync(folder)
    sync(folder.parent)


def about() -> dict[str, str | int]:
    """This machine, as far as it bears on the figures."""
    model = next((line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), "?")
    total = next((int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), 0)
    pages = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    return {"cpu": model, "cores": os.cpu_count() or 1, "memoryBytes": total * 1024, "kernel": platform.release(),
            "hugePages": pages.read_text().partition("[")[2].partition("]")[0] if pages.exists() else "none"}  # fmt: skip


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines()
