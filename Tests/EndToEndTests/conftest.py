"""Fixtures of the end-to-end tests: real daemons, as an operator and a failing machine see them. A bound on each test."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(ROOT / "Python" / "tests"))
sys.path.insert(0, str(ROOT / "Python"))

from machine import Mounts, leftovers, unused  # noqa: E402
from real_daemon import Cluster, Daemon, needs_daemon, short_folder, time_bound  # noqa: E402

LEFT_BEHIND = [
    "CAIRN_ATTEMPT",
    "CAIRN_SOCKET",
    "CAIRN_NODE",
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
    "SLURM_JOB_ID",
    "JOURNAL_STREAM",
    "STATE_DIRECTORY",
    "NOTIFY_SOCKET",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
]


@pytest.fixture(autouse=True)
def bound(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No test hangs, and none sees this machine's own launch, daemon or service manager."""
    needs_daemon()
    for variable in LEFT_BEHIND:
        monkeypatch.delenv(variable, raising=False)

    with time_bound():
        yield


@pytest.fixture
def folder() -> Iterator[Path]:
    made = short_folder()
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """Real daemons. When the test is over, none of their processes is left."""
    cluster = Cluster(short_folder())
    sessions: list[tuple[Daemon, int]] = []
    start = Daemon.start

    def remember(daemon: Daemon, *how: Any, **options: Any) -> Daemon:
        started = start(daemon, *how, **options)
        sessions.append((daemon, daemon.pid))
        return started

    Daemon.start = remember  # type: ignore[method-assign]
    try:
        yield cluster
        for daemon in cluster.daemons:
            print(f"the log of {daemon.folder}:\n{daemon.log.read_text()[-4000:]}")
        cluster.stop()
        left = {pid: leftovers(pid) for _, pid in sessions}
        assert not any(left.values()), f"processes that outlived their daemon: {left}"
    finally:
        Daemon.start = start  # type: ignore[method-assign]
        for _, session in sessions:
            for pid in leftovers(session, seconds=0):
                unused(pid)
        cluster.stop()


@pytest.fixture
def mounts(folder: Path) -> Iterator[Mounts]:
    """Filesystems of the test's own, thawed and unmounted at its end, whatever happened."""
    mounts = Mounts(folder / "mounts")
    try:
        yield mounts
    finally:
        mounts.remove()
