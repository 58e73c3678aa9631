"""A daemon that the trainer starts itself: one for all ranks of the node, which outlives them; and what is said where that cannot be."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from real_daemon import binary, needs_daemon, short_folder, trainer, until

import cairn
from cairn import autostart, limits
from cairn.wire import Connection

RANK = """
import sys, cairn
import numpy as np
state = {"weights": np.full(1000, 7.0)}
with cairn.Checkpointer("run", rank=int(sys.argv[1]), world_size=2, attempt="first", autostart=True) as ckpt:
    print(ckpt.save(1, state).wait(timeout=30).level, flush=True)
"""


def daemons(path: str) -> list[int]:
    """The main processes that listen at ``path``."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if entry.read_bytes().split(b"\0")[1:3] == [b"--socket", path.encode()]:
                found.append(int(entry.parent.name))
    return found


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home of its own, with a configuration; no daemon is left in it."""
    if Path("/run/cairn/cairn.sock").exists():
        pytest.skip("this machine has a daemon of its own")
    folder = short_folder()
    for variable in ("XDG_RUNTIME_DIR", "XDG_STATE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    tier = folder / "tier"
    tier.mkdir()
    config = folder / "cairnd.yaml"
    config.write_text(f"pool: {{size: 128MiB, chunk: 8MiB}}\ntiers:\n  local: {{paths: [{tier}], reserve: 0B}}\n")
    for name, value in {"HOME": folder, "CAIRND_CONFIG": config, "CAIRND_BINARY": binary()}.items():
        monkeypatch.setenv(name, str(value))
    yield folder
    own = limits.own_socket()
    for pid in daemons(own):
        os.kill(pid, signal.SIGTERM)
    with contextlib.suppress(ChildProcessError):
        for started in autostart._started:
            started.wait(20)
    until(lambda: not daemons(own))
    autostart._started.clear()
    shutil.rmtree(folder)


@pytest.mark.daemon
def test_two_ranks_at_once_start_one_daemon_that_outlives_them(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs_daemon()
    ranks = [trainer(RANK, str(rank)) for rank in range(2)]
    assert [rank.communicate(timeout=60)[0].strip() for rank in ranks] == ["committed"] * 2
    own = str(home / ".local" / "state" / "cairn" / "cairn.sock")
    assert limits.own_socket() == own
    (pid,) = daemons(own)
    with contextlib.closing(Connection(own)) as connection:
        assert connection.peer_pid() == pid
    assert os.getsid(pid) == pid  # not of the trainer's session
    assert Path(f"/proc/{pid}/fd/1").readlink() == home / ".local" / "state" / "cairn" / "cairnd.log"
    # The next trainer finds it, by the environment's wish.
    monkeypatch.setenv("CAIRN_AUTOSTART", "1")
    with cairn.Checkpointer("run") as ckpt:
        assert ckpt.latest_step() == 1
    assert daemons(own) == [pid]


@pytest.mark.daemon
def test_a_daemon_that_ends_at_once_is_told_with_its_words(home: Path) -> None:
    needs_daemon()
    (home / "cairnd.yaml").write_text("tiers: 7\n")
    with pytest.raises(cairn.CannotStart, match=r"ended with 2.*cairnd\.yaml:1"):
        cairn.Checkpointer("run", autostart=True)
    assert daemons(limits.own_socket()) == []


def test_without_a_cairnd_the_ways_to_one_are_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAIRND_BINARY", str(home / "none"))
    with pytest.raises(cairn.CannotStart, match="CAIRND_BINARY is"):
        autostart.ensure(None)
    monkeypatch.delenv("CAIRND_BINARY")
    monkeypatch.setenv("PATH", str(home))
    monkeypatch.setattr(autostart.sys, "executable", str(home / "python"))
    with pytest.raises(cairn.CannotStart, match="make release"):
        autostart.ensure(None)


def test_one_that_does_not_answer_is_ended_and_told(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deaf = home / "deaf"
    deaf.write_text('#!/bin/sh\necho "I hear nothing"\nexec sleep 60\n')
    deaf.chmod(0o700)
    monkeypatch.setenv("CAIRND_BINARY", str(deaf))
    monkeypatch.setattr(limits, "AUTOSTART_SECONDS", 0.5)
    with pytest.raises(cairn.CannotStart, match=r"did not answer within 0\.5 s: I hear nothing"):
        autostart.ensure(None)
    assert autostart._started[-1].returncode == -signal.SIGKILL


def test_a_lock_that_another_process_holds_is_waited_for_with_a_bound(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    monkeypatch.setattr(limits, "AUTOSTART_SECONDS", 0.3)
    named = str(home / "s")
    with open(named + ".autostart", "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        begin = time.monotonic()
        with pytest.raises(cairn.CannotStart, match="another process of yours holds"):
            autostart.ensure(named)
        assert time.monotonic() - begin < 5
    with pytest.raises(cairn.CannotStart, match="a folder of your own"):
        autostart.ensure("/proc/none/s")


def test_where_a_daemon_answers_nothing_is_started(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named = str(home / "s")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(named)
        listener.listen()
        assert autostart.ensure(named) == named
    assert not (home / "s.autostart").exists()
    monkeypatch.setenv("CAIRN_AUTOSTART", "yes")
    with pytest.raises(ValueError, match="CAIRN_AUTOSTART"):
        cairn.Checkpointer("run")
