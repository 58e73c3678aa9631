"""Fixtures of all tests: a bound on each test, and real daemons where cairnd is built."""

from __future__ import annotations

import contextlib
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

with contextlib.suppress(ImportError):
    import torch

    torch.set_num_threads(1)  # what tests compute is small, and daemons want the other cores

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent))

from real_daemon import TEST_SECONDS, Cluster, Daemon, Opener, needs_daemon, short_folder, time_bound

import cairn


@pytest.fixture(autouse=True)
def bound(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[None]:
    """No test hangs, and none sees this machine's own launch or daemon. One that starts several processes with a framework, each of which
    takes seconds to be imported, is marked with the seconds that it may take on a busy machine."""
    for variable in (
        "CAIRN_ATTEMPT", "CAIRN_SOCKET", "CAIRN_AUTOSTART", "CAIRND_CONFIG",
        "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "SLURM_JOB_ID",
    ):  # fmt: skip
        monkeypatch.delenv(variable, raising=False)

    marked = request.node.get_closest_marker("seconds")
    with time_bound(max(TEST_SECONDS, marked.args[0]) if marked else TEST_SECONDS):
        yield


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """Real daemons, each with a folder, a socket and a pid of its own."""
    needs_daemon()
    cluster = Cluster(short_folder())
    try:
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture(scope="module")
def shared() -> Iterator[Daemon]:
    """One daemon for all tests of a module that do it no harm; each test has a run of its own."""
    needs_daemon()
    cluster = Cluster(short_folder())
    try:
        yield cluster.daemon(retention="{local: {keep: 1000}}")
    finally:
        cluster.stop()


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package takes layouts.Part for the box that it says it is."""
    from layouts import Part

    from cairn import placement

    box_of = placement.box_of
    monkeypatch.setattr(placement, "box_of", lambda tensor: tensor.box if isinstance(tensor, Part) else box_of(tensor))


@pytest.fixture
def open_run(shared: Daemon) -> Iterator[Opener]:
    """Makes Checkpointers of this test's own run on the shared daemon, and closes them."""
    made: list[cairn.Checkpointer] = []
    run = f"run-{secrets.token_hex(4)}"

    def make(**options: object) -> cairn.Checkpointer:
        made.append(shared.open(run, **options))
        return made[-1]

    yield make
    for checkpointer in made:
        checkpointer.close(timeout=10)
    assert shared.alive()
