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


def is_mounted(where: Path) -> bool:
    return any(line.split()[1] == str(where) for line in Path("/proc/mounts").read_text().splitlines())


class FaultFs:
    """A filesystem whose calls fail, sleep or hang as a test says (faultfs.py). What is written there lies in ``root``."""

    PYTHON = "/usr/bin/python3"

    def __init__(self, root: Path, where: Path) -> None:
        self.root, self.where = root, where
        self._rules = root.with_name(f"{root.name}.rules")
        root.mkdir(parents=True, exist_ok=True)
        where.mkdir(parents=True, exist_ok=True)
        self._server: subprocess.Popen[bytes] | None = None
        self.mount()

    def mount(self) -> None:
        program = str(Path(__file__).with_name("faultfs.py"))
        self._server = subprocess.Popen(
            [self.PYTHON, program, str(self.root), str(self.where), str(self._rules)], stderr=subprocess.DEVNULL
        )
        until("it is mounted", lambda: is_mounted(self.where))

    def fail(self, *rules: str) -> None:
        """From now on; no rule: nothing fails any more."""
        if rules:
            self._rules.write_text("\n".join(rules) + "\n")
        else:
            self._rules.unlink(missing_ok=True)

    def struck(self) -> int:
        """How often a rule was applied."""
        counted = self._rules.with_name(f"{self._rules.name}.struck")
        return counted.stat().st_size if counted.exists() else 0

    def hang(self) -> None:
        """Every call waits, and cannot be interrupted by who makes it."""
        assert self._server is not None
        self._server.send_signal(signal.SIGSTOP)

    def answer(self) -> None:
        assert self._server is not None
        self._server.send_signal(signal.SIGCONT)

    def die(self) -> None:
        """As a filesystem's client that crashed: ENOTCONN, until it is unmounted and mounted again."""
        if self._server is not None:
            self._server.kill()
            self._server.wait(10)
            self._server = None

    def unmount(self) -> None:
        """Fails while anybody has something open there."""
        self.die()
        if is_mounted(self.where):
            unmount(self.where)


def unmount(where: Path, seconds: float = 10.0) -> None:
    # Busy for a moment after the death of a process that had I/O in flight there.
    until(f"{where} is unmounted", lambda: subprocess.run(["umount", str(where)], capture_output=True).returncode == 0, seconds)


class Mounts:
    """Small filesystems; a test is skipped, saying why, where they cannot be made."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.mounted: list[Path] = []
        self.frozen: set[Path] = set()
        self.faulty: list[FaultFs] = []

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
        return self._loop("mkfs.xfs", "-q", "-f", size=size, name=name)

    def ext4(self, size: str = "64M", name: str = "ext4", files: int = 4096) -> Path:
        """With room for so many files and folders."""
        return self._loop("mkfs.ext4", "-q", "-F", "-m", "0", "-e", "remount-ro", "-N", str(files), size=size, name=name)

    def _loop(self, *make: str, size: str, name: str) -> Path:
        for tool in (make[0], "fsfreeze", "xfs_io"):
            if shutil.which(tool) is None:
                pytest.skip(f"{tool} is not here")
        self.folder.mkdir(parents=True, exist_ok=True)
        image = self.folder / f"{name}.img"
        _run("truncate", "-s", size, str(image))
        _run(*make, str(image))
        return self._mount(name, "-o", "loop", str(image))

    def faultfs(self, name: str = "faulty") -> FaultFs:
        if os.getuid() != 0 or not Path("/dev/fuse").exists():
            pytest.skip("FUSE is not here")
        if subprocess.run([FaultFs.PYTHON, "-c", "import fusepy"], capture_output=True).returncode != 0:
            pytest.skip(f"{FaultFs.PYTHON} has no fusepy (Debian: python3-fusepy)")
        self.faulty.append(FaultFs(self.folder / f"{name}.root", self.folder / name))
        return self.faulty[-1]

    def shut_down(self, where: Path) -> None:
        """The disk is gone: every call is EIO until it is unmounted by all and mounted again."""
        _run("xfs_io", "-x", "-c", "shutdown", str(where))

    def turn_read_only(self, where: Path) -> None:
        """What an error in an ext4's own data does to it."""
        device = next(line.split()[0] for line in Path("/proc/mounts").read_text().splitlines() if line.split()[1] == str(where))
        trigger = Path("/sys/fs/ext4") / Path(device).name / "trigger_fs_error"
        if not trigger.exists():
            pytest.skip(f"no {trigger}")
        trigger.write_text("by a test\n")

    def mount_again(self, where: Path) -> None:
        """After `unmount`."""
        _run("mount", "-o", "loop", str(self.folder / f"{where.name}.img"), str(where))

    def freeze(self, where: Path) -> None:
        _run("fsfreeze", "-f", str(where))
        self.frozen.add(where)

    def thaw(self, where: Path) -> None:
        _run("fsfreeze", "-u", str(where))
        self.frozen.discard(where)

    def remove(self) -> None:
        for where in list(self.frozen):
            self.thaw(where)
        for faulty in self.faulty:
            faulty.unmount()
        for where in reversed(self.mounted):
            if is_mounted(where):
                unmount(where)
        self.mounted.clear()
        self.faulty.clear()
