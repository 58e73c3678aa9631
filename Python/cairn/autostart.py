"""Starts a daemon of this user's where none answers: without root, once for all ranks of the node, and not tied to any of them.

The daemon is a session of its own (setsid) and outlives the trainer, as it must to finish what was staged; nobody ends it but the
user, or whoever ends everything of a job, as Slurm does with its cgroup. It runs on ``cairnd``'s embedded default, or on the file
that CAIRND_CONFIG names. The ranks take a lock beside the socket (flock, gone with its holder), so that one of them starts it and
the others find it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from . import limits
from .errors import CannotStart, Unavailable
from .wire import Connection

_started: list[Any] = []
"""What this process started: kept, for a Popen that is collected while its process runs complains."""

_NOT_ITS = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES")
"""What systemd told the trainer about itself."""


def is_wanted(given: bool | None) -> bool:
    """``given``, else CAIRN_AUTOSTART.

    Raises:
        ValueError: the variable is neither 0 nor 1."""
    if given is not None:
        return given
    text = os.environ.get("CAIRN_AUTOSTART", "")
    if text not in ("", "0", "1"):
        raise ValueError(f"CAIRN_AUTOSTART is 1 or 0, not '{text}'")
    return text == "1"


def ensure(named: str | None) -> str:
    """The socket at which a daemon answers, started if need be.

    Args:
        named: the one that the caller, or CAIRN_SOCKET, asks for; None: where it usually listens, else the user's own.
    Raises:
        CannotStart: no cairnd is found, it ended at once, or it did not answer within limits.AUTOSTART_SECONDS.
    """
    path = os.path.abspath(named) if named else limits.default_socket()
    if _answers(path):
        return path
    path = path if named else limits.own_socket()
    deadline = time.monotonic() + limits.AUTOSTART_SECONDS
    lock = path + ".autostart"
    try:
        os.makedirs(os.path.dirname(lock) or ".", mode=0o700, exist_ok=True)
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as failure:
        raise CannotStart(
            f"no daemon answers at '{path}', and none can be started there: '{failure.filename}': {failure.strerror}. Point "
            "CAIRN_SOCKET at a path in a folder of your own on this node"
        ) from failure
    try:
        while not _answers(path):
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if not _answers(path):  # another rank may have started it between the two lines above
                    _start(path, deadline)
                break
            if time.monotonic() > deadline:
                raise CannotStart(
                    f"no daemon answers at '{path}' after {limits.AUTOSTART_SECONDS:g} s, in which another process of yours holds "
                    f"'{lock}': is that one stopped? See '{_log()}'"
                )
            time.sleep(limits.AUTOSTART_POLL_SECONDS)
    finally:
        os.close(descriptor)
    return path


def binary() -> str:
    """CAIRND_BINARY, else in the package's folder ``bin``, beside the interpreter, or on the PATH.

    Raises:
        CannotStart: there is none."""
    named = os.environ.get("CAIRND_BINARY")
    if named:
        if os.access(named, os.X_OK):
            return named
        raise CannotStart(f"CAIRND_BINARY is '{named}', which is not a program: correct it, or unset it to have cairnd looked for")
    folders = [Path(__file__).parent / "bin", Path(sys.executable).parent]
    beside = (str(folder / "cairnd") for folder in folders if os.access(folder / "cairnd", os.X_OK))
    found = next(beside, None) or shutil.which("cairnd")
    if found is None:
        raise CannotStart(
            f"there is no daemon to start: no cairnd in '{folders[0]}', '{folders[1]}' or on the PATH. Name it with CAIRND_BINARY, "
            "build it with `make release`, or start a daemon yourself and do without autostart"
        )
    return found


def _log() -> Path:
    return Path.home() / ".local" / "state" / "cairn" / "cairnd.log"


def _answers(path: str) -> bool:
    try:
        Connection(path).close()
    except Unavailable:
        return False
    return True


def _start(path: str, deadline: float) -> None:
    """Start it and wait until it answers; one that does not is ended again."""
    command = [binary(), "--socket", path]
    config = os.environ.get("CAIRND_CONFIG")
    if config:
        command += ["--config", os.path.abspath(config)]
    environment = {name: value for name, value in os.environ.items() if name not in _NOT_ITS}
    try:
        _log().parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _log().open("ab") as log:
            begin = log.tell()
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, cwd="/", start_new_session=True
            )
    except OSError as failure:
        raise CannotStart(
            f"cannot start '{command[0]}' with its log in '{_log()}': '{failure.filename}': {failure.strerror}. Name "
            "another program with CAIRND_BINARY, or another HOME"
        ) from failure
    _started.append(process)
    while not _answers(path):
        if process.poll() is not None:
            raise CannotStart(f"'{' '.join(command)}' ended with {process.returncode}: {_said(begin)}")
        if time.monotonic() > deadline:
            process.kill()  # its workers end with it
            process.wait()
            raise CannotStart(f"'{' '.join(command)}' did not answer within {limits.AUTOSTART_SECONDS:g} s: {_said(begin)}")
        time.sleep(limits.AUTOSTART_POLL_SECONDS)


def _said(begin: int) -> str:
    """What the daemon wrote, or where to look."""
    with contextlib.suppress(OSError), _log().open("rb") as log:
        log.seek(begin)
        text = log.read(limits.AUTOSTART_LOG_BYTES).decode(errors="replace").strip()
        if text:
            return text
    return f"it wrote nothing into '{_log()}'"
