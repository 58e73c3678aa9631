"""Fixtures of all tests: a bound on each test, a daemon in this process, and the real daemon where it is built."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent))

from fake_daemon import FakeDaemon, Opener, short_folder
from real_daemon import Cluster, binary

import cairn

TEST_SECONDS = int(os.environ.get("CAIRN_TEST_SECONDS", "90"))


@pytest.fixture(autouse=True)
def bound(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No test hangs, and none sees this machine's own launch or daemon."""
    for variable in ("CAIRN_ATTEMPT", "CAIRN_SOCKET", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "SLURM_JOB_ID"):
        monkeypatch.delenv(variable, raising=False)

    def expired(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"the test took more than {TEST_SECONDS} s")

    before = signal.signal(signal.SIGALRM, expired)
    signal.alarm(TEST_SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def fake() -> Iterator[FakeDaemon]:
    folder = short_folder()
    daemon = FakeDaemon(folder)
    yield daemon
    daemon.release_now.set()
    daemon.stop()
    shutil.rmtree(folder)


@pytest.fixture
def attempt() -> str:
    return secrets.token_hex(8)


@pytest.fixture
def open_run(fake: FakeDaemon) -> Iterator[Opener]:
    """Makes Checkpointers on the daemon in this process and closes them."""
    made: list[cairn.Checkpointer] = []

    def make(**options: object) -> cairn.Checkpointer:
        options.setdefault("attempt", secrets.token_hex(8))
        made.append(cairn.Checkpointer("run", socket=fake.path, **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    fake.release_now.set()
    for checkpointer in made:
        checkpointer.close(timeout=5)


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """Real daemons, each with a folder, a socket and a pid of its own."""
    if not binary().exists():
        pytest.skip(f"no daemon at {binary()}: build it, or set CAIRND_BINARY")
    cluster = Cluster(short_folder())
    try:
        yield cluster
    finally:
        cluster.stop()
