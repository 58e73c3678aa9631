"""What the tests do to a machine and see of it: the CLI, processes and what they use, signals, filesystems to mount and freeze."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
from real_daemon import Daemon, binary

Value = TypeVar("Value")
NOBODY = 65534
DEAD = "ZX"


def until(what: str, condition: Callable[[], Value], seconds: float = 20.0) -> Value:
    """The first true value of ``condition``; what it was last is told when the time is up."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what} (last seen: {value!r})"
        time.sleep(0.02)


def binary_beside(name: str) -> Path:
    """A program of the build under test."""
    found = binary().parent / name
    if not found.exists():
        pytest.skip(f"no program at {found}")
    return found


def cli(daemon: Daemon, *arguments: str, code: int = 0, timeout: float = 20.0) -> str:
    """What `cairn` prints; its exit code must be as expected."""
    done = subprocess.run(
        [str(binary_beside("cairn")), *arguments, "--socket", daemon.socket], capture_output=True, text=True, timeout=timeout
    )
    assert done.returncode == code, f"cairn {' '.join(arguments)} ended with {done.returncode}: {done.stdout}{done.stderr}"
    return done.stdout if code == 0 else done.stdout + done.stderr


def status(daemon: Daemon) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(cli(daemon, "status", "--json"))
    return found


def committed(daemon: Daemon, expected: list[int], seconds: float = 30.0, run: str = "run") -> None:
    """These steps, and no others, are committed in time."""
    deadline = time.monotonic() + seconds
    while (found := steps(daemon, run)) != expected:
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {expected} committed, but {found}: {cli(daemon, 'ls', run)}"
        time.sleep(0.05)


def workers(daemon: Daemon) -> dict[str, int]:
    """The processes of a daemon by role, `main` among them."""
    found = status(daemon)
    return {"main": found["daemon"]["pid"]} | {worker["role"]: worker["pid"] for worker in found["workers"] if worker.get("pid")}


def tier(daemon: Daemon, name: str) -> dict[str, Any]:
    return next(entry for entry in status(daemon)["tiers"] if entry["tier"] == name)


def steps(daemon: Daemon, run: str = "run") -> list[int]:
    """Committed steps as the CLI lists them, ascending."""
    runs = json.loads(cli(daemon, "ls", "--json"))["runs"]
    return sorted(step["step"] for found in runs if found["run"] == run for step in found["steps"] if step["level"] == "committed")


# Processes.


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on; none when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def living(session: int) -> list[int]:
    """The processes of a session: a daemon leads one of its own, its workers are in it."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            fields = _stat(int(entry))
            if fields and int(fields[3]) == session and fields[0] not in DEAD:
                found.append(int(entry))
    return found


def leftovers(session: int, seconds: float = 5.0) -> list[int]:
    """What of a session lives on after a while."""
    deadline = time.monotonic() + seconds
    while (found := living(session)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return found


def unused(pid: int) -> None:
    """End a process of a test that failed."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)
        os.kill(pid, signal.SIGKILL)


def cpu_seconds(pids: list[int]) -> float:
    total = sum(int(fields[11]) + int(fields[12]) for fields in map(_stat, pids) if fields)
    return total / os.sysconf("SC_CLK_TCK")


def anonymous_bytes(pids: list[int]) -> int:
    """Memory of their own; the pool and other memfds are not in it."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                total += int(line.split()[1]) * 1024
    return total


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def as_nobody(command: list[str]) -> list[str]:
    """The command run by a user without any right."""
    if os.getuid() != 0:
        return command
    if shutil.which("setpriv") is None:
        pytest.skip("setpriv is not here")
    return ["setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups", *command]


# Filesystems.


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=20)


class Mounts:
    """Small filesystems; a test is skipped, saying why, where they cannot be made."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.mounted: list[Path] = []
        self.frozen: set[Path] = set()

    def _mount(self, name: str, *command: str) -> Path:
        where = self.folder / name
        where.mkdir(parents=True)
        if os.getuid() != 0:
            pytest.skip("only root can mount")
        try:
            _run("mount", *command, str(where))
        except (FileNotFoundError, subprocess.CalledProcessError) as failure:
            pytest.skip(f"cannot mount here: {getattr(failure, 'stderr', b'') or failure!r}")
        self.mounted.append(where)
        return where

    def tmpfs(self, size: str, name: str = "tmpfs") -> Path:
        return self._mount(name, "-t", "tmpfs", "-o", f"size={size}", "cairn-test")

    def xfs(self, size: str = "1G", name: str = "xfs") -> Path:
        for tool in ("mkfs.xfs", "fsfreeze"):
            if shutil.which(tool) is None:
                pytest.skip(f"{tool} is not here")
        self.folder.mkdir(parents=True, exist_ok=True)
        image = self.folder / f"{name}.img"
        _run("truncate", "-s", size, str(image))
        _run("mkfs.xfs", "-q", "-f", str(image))
        return self._mount(name, "-o", "loop", str(image))

    def freeze(self, where: Path) -> None:
        _run("fsfreeze", "-f", str(where))
        self.frozen.add(where)

    def thaw(self, where: Path) -> None:
        _run("fsfreeze", "-u", str(where))
        self.frozen.discard(where)

    def remove(self) -> None:
        for where in list(self.frozen):
            self.thaw(where)
        for where in reversed(self.mounted):
            # Busy for a moment after the death of a process that had I/O in flight there.
            for _ in range(100):
                if subprocess.run(["umount", str(where)], capture_output=True).returncode == 0:
                    break
                time.sleep(0.1)
            else:
                raise RuntimeError(f"{where} cannot be unmounted")
        self.mounted.clear()
