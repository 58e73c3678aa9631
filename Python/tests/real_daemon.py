"""Starts and ends real `cairnd` processes for the end-to-end tests, and runs trainers as processes of their own."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import pytest

import cairn

ROOT = Path(__file__).parent.parent.parent
START_SECONDS = 20.0
TEST_SECONDS = int(os.environ.get("CAIRN_TEST_SECONDS", "90"))
STOP_SECONDS = 20.0


def binary() -> Path:
    """The daemon under test: CAIRND_BINARY, else CAIRN_BIN/cairnd, else the debug build."""
    folder = os.environ.get("CAIRN_BIN", str(ROOT / ".build" / "debug"))
    return Path(os.environ.get("CAIRND_BINARY", f"{folder}/cairnd"))


def short_folder() -> Path:
    """A Unix socket's path has at most 107 bytes; pytest's own folders can be longer."""
    return Path(tempfile.mkdtemp(prefix="cairn-"))


def until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    """Wait for what a daemon or another thread does in its own time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.005)


class Paused:
    """Processes that stand still (SIGSTOP) until ``resume``, which any thread may call, or the end of the block."""

    def __init__(self, pids: list[int]) -> None:
        self._pids = pids
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        # The signal is only sent by then: a thread on another core runs on for a moment.
        until(lambda: all(map(_stands_still, pids)))

    def resume(self) -> None:
        pids, self._pids = self._pids, []
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def resume_after(self, seconds: float) -> None:
        threading.Timer(seconds, self.resume).start()

    def __enter__(self) -> Paused:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.resume()


def _stands_still(pid: int) -> bool:
    """Whether no thread of it runs: stopped, gone, or in a call that cannot be interrupted and after which it stops."""
    for thread in Path(f"/proc/{pid}/task").glob("*"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if (thread / "stat").read_text().rpartition(")")[2].split()[0] not in "TtDZX":
                return False
    return True


@contextlib.contextmanager
def time_bound(seconds: int = TEST_SECONDS) -> Iterator[None]:
    """No test hangs: one that takes longer than ``seconds`` ends with an error."""

    def expired(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"the test took more than {seconds} s")

    before = signal.signal(signal.SIGALRM, expired)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def needs_daemon() -> None:
    """Skip the test where there is no cairnd."""
    if not binary().exists():
        pytest.skip(f"no daemon at {binary()}: build it, or set CAIRND_BINARY")


class Daemon:
    """One `cairnd` with its own socket and local folder. ``shared`` is the global folder, if it has one."""

    def __init__(
        self, folder: Path, shared: Path | None, *, local: bool = True, environment: dict[str, str] | None = None, **settings: Any
    ):
        self.folder = folder
        self.socket = str(folder / "s")
        self.local = folder / "local"
        self.shared = shared
        self.log = folder / "log"
        self.run = "run"
        """Of the test that has the daemon now."""
        self._environment = environment or {}
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        how = f"io: {settings.pop('io', 'auto')}, direct: {settings.pop('direct', 'auto')}"
        tiers = []
        if local:
            self.local.mkdir(exist_ok=True)
            tiers.append(f"  local: {{paths: [{self.local}], reserve: {settings.pop('reserve', '0B')}, {how}}}")
        if shared is not None:
            shared.mkdir(exist_ok=True)
            packing = "".join(f", {key}: {settings.pop(key)}" for key in ("compression", "compressionThreads") if key in settings)
            tiers.append(f"  global: {{path: {shared}, {how}{packing}}}")
        lines = [f"socket: {self.socket}", f"pool: {{size: {settings.pop('pool', '256MiB')}, chunk: 8MiB}}", "tiers:", *tiers]
        limits = {"fence": "10s", "commitTimeout": "60s", "inFlightPerRank": 2} | settings.pop("limits", {})
        lines.append(f"limits: {{{', '.join(f'{key}: {value}' for key, value in limits.items())}}}")
        lines += [f"{key}: {value}" for key, value in settings.items()]
        self.config = folder / "cairnd.yaml"
        self.config.write_text("\n".join(lines) + "\n")

    @property
    def tier(self) -> Path:
        """The folder where steps are committed."""
        return self.shared if self.shared is not None else self.local

    def start(
        self, command: list[str] | None = None, *, pass_fds: list[int] | None = None, environment: dict[str, str] | None = None
    ) -> Daemon:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command or [str(binary()), "--config", str(self.config)], pass_fds=pass_fds or [],
                stdout=log, stderr=log, env=os.environ | self._environment | (environment or {}), start_new_session=True,
            )  # fmt: skip
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise RuntimeError(f"cairnd ended with {self._process.returncode}: {self.log.read_text()[-2000:]}")
            try:
                with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                    probe.connect(self.socket)
                    return self
            except OSError:
                time.sleep(0.02)
        raise RuntimeError(f"cairnd did not listen within {START_SECONDS} s: {self.log.read_text()[-2000:]}")

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def workers(self) -> dict[str, int]:
        """The workers' process ids: stager, local, global."""
        found = {}
        for entry in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                name, _, rest = entry.read_text().partition("(")[2].rpartition(")")
                if int(rest.split()[1]) == self.pid and name.startswith("cairn"):
                    found[name.rpartition("-")[2]] = int(entry.parent.name)
        return found

    def paused(self, *names: str) -> Paused:
        """Stop ``main`` or workers by name."""
        workers = self.workers()
        return Paused([self.pid if name == "main" else workers[name] for name in names])

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait; a daemon that does not end in time is killed, and that is an error."""
        process, self._process = self._process, None
        if process is None:
            return 0
        process.send_signal(number)
        try:
            return process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(STOP_SECONDS)
            raise RuntimeError(f"cairnd did not end within {STOP_SECONDS} s: {self.log.read_text()[-2000:]}") from None

    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def open(self, run: str | None = None, **options: Any) -> cairn.Checkpointer:
        options.setdefault("attempt", secrets.token_hex(8))
        return cairn.Checkpointer(run or self.run, socket=self.socket, **options)

    def raw(self) -> Raw:
        return Raw(self.socket)

    def run_folder(self, run: str = "run") -> Path:
        return self.tier / str(os.getuid()) / run

    def step_folders(self, run: str = "run") -> list[Path]:
        return sorted(self.run_folder(run).glob("step-*"))


Opener = Callable[..., cairn.Checkpointer]


class Cluster:
    """Daemons that may share a global folder, as the nodes of a job do."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.daemons: list[Daemon] = []

    def daemon(self, *, tiers: int = 1, **settings: Any) -> Daemon:
        """Start one with one tier (local; with ``local=False`` global), or two (a local one, and the cluster's global folder)."""
        shared = self.folder / "global" if tiers == 2 or not settings.get("local", True) else None
        made = Daemon(self.folder / str(len(self.daemons)), shared, **settings)
        self.daemons.append(made)
        return made.start()

    def stop_daemons(self) -> list[str]:
        """What went wrong."""
        errors = []
        for daemon in self.daemons:
            try:
                daemon.stop()
            except RuntimeError as failure:
                errors.append(str(failure))
        return errors

    def stop(self) -> None:
        errors = self.stop_daemons()
        shutil.rmtree(self.folder, ignore_errors=True)
        assert not errors, errors


class Raw:
    """A plain socket that speaks, or misspeaks, the wire."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(10)
        self.socket.connect(path)
        self._buffer = b""

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def receive(self) -> dict[str, Any] | None:
        """The next reply, or None when the daemon closed."""
        while b"\0" not in self._buffer:
            try:
                data = self.socket.recv(1 << 16)
            except ConnectionResetError:
                return None
            if not data:
                return None
            self._buffer += data
        message, _, self._buffer = self._buffer.partition(b"\0")
        reply: dict[str, Any] = json.loads(message)
        return reply

    def call(self, method: str, /, **parameters: Any) -> dict[str, Any]:
        if "." not in method:
            method = "dev.cairn.Checkpoint." + method
        self.send(json.dumps({"method": method, "parameters": parameters}).encode() + b"\0")
        reply = self.receive()
        assert reply is not None, f"{method}: closed"
        return reply

    def error(self, method: str, /, **parameters: Any) -> str:
        """The short name of the error that the call gets; empty: none."""
        return str(self.call(method, **parameters).get("error", "")).rpartition(".")[2]

    def close(self) -> None:
        self.socket.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# What C prints (Gloo tells on stdout whom it is connected to, a piece at a time) must not land in a line of the script's:
# its own stdout is one that only Python knows, and descriptor 1 is stderr.
ONLY_PYTHONS_STDOUT = "import os, sys; sys.stdout = os.fdopen(os.dup(1), 'w'); os.dup2(2, 1)\n"


def trainer(script: str, *arguments: str, environment: dict[str, str] | None = None) -> subprocess.Popen[str]:
    """A Python process that has this package on its path; talk to it by its stdin and stdout."""
    path = str(Path(__file__).parent.parent)
    return subprocess.Popen(
        [sys.executable, "-X", "faulthandler", "-c", ONLY_PYTHONS_STDOUT + script, *arguments],  # a crash in C shows where Python was
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": path} | (environment or {}),
    )  # fmt: skip
