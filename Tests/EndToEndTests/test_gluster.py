"""Cairn on a real parallel filesystem: GlusterFS, three bricks with a copy of everything, each node with a mount of its own.

What is asked of every fault: nothing that was saved is lost, nobody waits without a bound, `status` says what is wrong, and all
is committed, bit for bit, when the filesystem is back.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import guarantees
import numpy as np
import pytest
from gluster import PING_SECONDS, Mount, Unavailable, Volume, missing
from jobs import state
from machine import cli, committed, status, tier, until
from real_daemon import Cluster, Daemon
from test_histories import close_all, launch, save_all
from test_nodes import check_ranks, restore_all
from test_ranks import distributed

import cairn

SAME = [(0, 0), (1, 1)]
SWAPPED = [(0, 1), (1, 0)]
LIMITS = {"commitTimeout": "120s"}
FULL = os.environ.get("CAIRN_GLUSTER") == "full"
"""Also the outages that take long to be noticed, and PyTorch on two nodes."""
OUTAGE_SECONDS = 3 * PING_SECONDS + 20
"""A client asks up to three times before it gives a brick up; the rest is a busy machine's."""


@pytest.fixture(scope="module")
def gluster() -> Iterator[Volume]:
    """One volume for all tests here: it takes seconds to make."""
    why = missing()
    if why is not None:
        pytest.skip(f"no GlusterFS: {why}")
    volume = Volume()
    try:
        try:
            volume.up()
            volume.mount("a")
            volume.mount("b")
        except (Unavailable, TimeoutError) as failure:
            pytest.skip(f"no GlusterFS: {failure}")
        yield volume
    finally:
        volume.close()


class Nodes:
    """Two daemons, each with a local tier on the local disk and its own mount of the volume."""

    def __init__(self, cluster: Cluster, volume: Volume, mounts: list[Mount], **settings: str) -> None:
        name = f"cairn-{secrets.token_hex(4)}"
        self.volume = volume
        self.mounts = mounts
        self.daemons = []
        for number, mount in enumerate(mounts):
            daemon = Daemon(cluster.folder / str(number), mount.path / name, limits=dict(LIMITS), **settings)
            cluster.daemons.append(daemon)
            self.daemons.append(daemon.start())

    def folder(self, number: int = 0, run: str = "run") -> Path:
        shared = self.daemons[number].shared
        assert shared is not None
        return shared / str(os.getuid()) / run

    def is_down(self, number: int = 0) -> str | None:
        """Why a node's global tier is down, as the operator reads it."""
        found = tier(self.daemons[number], "global")
        return found["reason"] if found["state"] == "degraded" else None

    def all_committed(self, expected: list[int]) -> None:
        for daemon in self.daemons:
            committed(daemon, expected, seconds=60)

    def check(self, step: int) -> None:
        """Both nodes restore it, also where only the global tier has their ranks' bytes, and nothing unfinished is in it."""
        for ranks in (SAME, SWAPPED):
            check_ranks(restore_all(self.daemons, ranks, 2, 1), step)
        for folder in self.folder().glob("step-*"):
            left = [name for name in os.listdir(folder) if name.endswith(".part")]
            assert not left, (folder, left)
        assert "every block is good" in cli(self.daemons[0], "verify", "run", str(step), "--tier", "global", timeout=60)


@pytest.fixture
def volume(cluster: Cluster, gluster: Volume) -> Iterator[Volume]:
    """Well again before the daemons of the test are stopped."""
    yield gluster
    gluster.well()


@pytest.fixture
def nodes(cluster: Cluster, volume: Volume) -> Nodes:
    return Nodes(cluster, volume, volume.mounts[:2])


# What the filesystem promises, and Cairn on it without a fault.


def test_it_keeps_what_cairn_asks_of_a_filesystem(gluster: Volume) -> None:
    first, second = gluster.mounts[:2]
    for name, said in guarantees.check(first.path, second.path).items():
        print(f"{name}: {said}")


def save_restore_keep_and_branch(nodes: Nodes) -> None:
    ranks = launch(nodes.daemons)
    for step in range(1, 5):
        save_all(ranks, step)
    close_all(ranks)
    nodes.all_committed([2, 3, 4])
    nodes.check(4)
    assert len(list(nodes.folder().glob(".gone-*"))) == 1
    for daemon in nodes.daemons:
        (folder,) = [found for found in daemon.step_folders() if found.name.startswith("step-3.")]
        assert len(list(folder.glob("rank-*.safetensors"))) == 2
    # Branched by hard links, and gone on with by the other node.
    cli(nodes.daemons[0], "branch", "run@3", "colder", timeout=40)
    with nodes.daemons[1].open("colder") as checkpointer:
        into = state(0, 4)
        assert checkpointer.restore(into, objects="skip") == 3
        checkpointer.save(4, state(4, 4)).wait("committed", timeout=30)
    committed(nodes.daemons[0], [3, 4], run="colder")
    nodes.check(4)


def test_two_nodes_save_restore_keep_and_branch(cluster: Cluster, volume: Volume) -> None:
    keep_three = "{local: {keep: 2}, global: {keep: 3}}"
    save_restore_keep_and_branch(Nodes(cluster, volume, volume.mounts[:2], retention=keep_three))


def test_the_same_where_a_name_s_hash_says_on_which_brick_it_is(cluster: Cluster, volume: Volume) -> None:
    """A distributed volume: a rename or a link may lead from one brick to another."""
    volume.create_distributed()
    mounts = [volume.mount(name, volume="dist") for name in ("d", "e")]
    try:
        guarantees.check(mounts[0].path, mounts[1].path)
        save_restore_keep_and_branch(Nodes(cluster, volume, mounts, retention="{local: {keep: 2}, global: {keep: 3}}"))
    finally:
        cluster.stop_daemons()
        volume.forget(*mounts)


@pytest.mark.skipif(not FULL, reason="CAIRN_GLUSTER=full runs it too: it starts PyTorch three times")
def test_another_sharding_is_restored_on_another_node(nodes: Nodes) -> None:
    """Two ranks of DTensors on one node; then one rank with other placements on the other."""
    assert distributed(2, nodes.daemons[0], "save") == ["committed"] * 2
    assert distributed(1, nodes.daemons[1], "skip") == ["1 True None"]


def test_nodes_that_see_names_and_sizes_late(cluster: Cluster, volume: Volume) -> None:
    """Each mount keeps what it has seen, and what it has not found, for seconds; somebody lists it all the time."""
    late = [f"--{what}-timeout=3" for what in ("entry", "attribute", "negative")]
    mounts = [volume.mount(name, *late) for name in ("f", "g")]
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.01):
            for mount in mounts:
                for folder, _, files in os.walk(mount.path):
                    for file in files:
                        with contextlib.suppress(OSError):
                            os.stat(f"{folder}/{file}")

    looking = threading.Thread(target=look)
    try:
        nodes = Nodes(cluster, volume, mounts)
        ranks = launch(nodes.daemons)
        looking.start()
        for step in range(1, 4):
            save_all(ranks, step)
        close_all(ranks)
        nodes.all_committed([1, 2, 3])
        nodes.check(3)
    finally:
        over.set()
        if looking.ident is not None:
            looking.join(30)
        cluster.stop_daemons()
        volume.forget(*mounts)


# Bricks that fail while a save is being flushed.


def begin_to_save(ranks: list[cairn.Checkpointer], step: int) -> list[cairn.Save]:
    """Returns when it is on the local tiers: its way to the volume begins."""
    saves = [one.save(step, state(step * 100 + rank, 4)) for rank, one in enumerate(ranks)]
    for save in saves:
        save.wait("local", timeout=30)
    return saves


def all_end_committed(saves: list[cairn.Save], seconds: float = OUTAGE_SECONDS + 30) -> None:
    for save in saves:
        save.wait("committed", timeout=seconds)


def test_a_brick_that_dies_hangs_or_is_cut_off_costs_time_only(nodes: Nodes) -> None:
    ranks = launch(nodes.daemons)
    save_all(ranks, 1)
    volume = nodes.volume
    # One and the same brick: what it missed is healed later, and each of the others has everything.
    faults: dict[str, Callable[[], None]] = {
        "dies": lambda: volume.signal_bricks(signal.SIGKILL, (1,)),
        "hangs": lambda: volume.signal_bricks(signal.SIGSTOP, (1,)),
        "is cut off": lambda: volume.cut(1),
    }
    if not volume.can_cut():
        print("not cut off: iptables is not installed or not permitted")
        del faults["is cut off"]
    newest = 1
    for fault, begins in faults.items():
        # One save is on its way, one comes while the fault is not yet noticed.
        saves = begin_to_save(ranks, newest + 1)
        begins()
        begin = time.monotonic()
        saves += begin_to_save(ranks, newest + 2)
        all_end_committed(saves)
        print(f"a brick {fault}: committed {time.monotonic() - begin:.1f} s later")
        newest += 2
        volume.well()
    close_all(ranks)
    nodes.all_committed(list(range(newest - 4, newest + 1)))
    nodes.check(newest)


def die_one_after_the_other(volume: Volume) -> None:
    """With two of three the volume refuses all; then nothing answers at all."""
    volume.signal_bricks(signal.SIGKILL, (0, 2))
    time.sleep(1)
    volume.signal_bricks(signal.SIGKILL, (1,))


def hang(volume: Volume) -> None:
    volume.signal_bricks(signal.SIGSTOP, (0, 1, 2))


def cut_off(volume: Volume) -> None:
    for number in range(3):
        volume.cut(number)


@pytest.mark.skipif(
    not FULL,
    reason="CAIRN_GLUSTER=full runs it too: a folder made while bricks come back is EIO now and then, for a minute",
)
@pytest.mark.parametrize("outage", [die_one_after_the_other, hang, cut_off])
def test_while_the_volume_is_gone_saves_stay_local_and_are_committed_later(nodes: Nodes, outage: Callable[[Volume], None]) -> None:
    ranks = launch(nodes.daemons)
    save_all(ranks, 1)
    saves = begin_to_save(ranks, 2)
    outage(nodes.volume)
    for step in (3, 4):
        saves += begin_to_save(ranks, step)
    for number in (0, 1):
        told = until("status says that the tier is down", lambda number=number: nodes.is_down(number), seconds=OUTAGE_SECONDS)
        print(f"node {number}: {told}")
    assert not all(save.done for save in saves)
    assert not any(save.level == "failed" for save in saves)
    nodes.volume.well()
    all_end_committed(saves)
    close_all(ranks)
    nodes.all_committed([1, 2, 3, 4])
    nodes.check(4)
    until("the tier is up", lambda: not nodes.is_down(), seconds=40)


def test_a_daemon_that_starts_while_the_volume_is_gone_serves_its_local_tier(cluster: Cluster, volume: Volume) -> None:
    nodes = Nodes(cluster, volume, volume.mounts[:1])
    (daemon,) = nodes.daemons
    with daemon.open() as checkpointer:
        checkpointer.save(1, state(1, 4)).wait("committed", timeout=30)
        volume.signal_bricks(signal.SIGKILL, (0, 1, 2))
        checkpointer.save(2, state(2, 4)).wait("local", timeout=30)
    daemon.stop()
    daemon.start()
    until("status says why", lambda: "Transport endpoint" in (nodes.is_down() or ""))
    with daemon.open() as checkpointer:
        into = state(0, 4)
        assert checkpointer.restore(into, timeout=60) == 2
        assert np.array_equal(into["t3"], state(2, 4)["t3"])
        checkpointer.save(3, state(3, 4)).wait("local", timeout=30)
    volume.well()
    committed(daemon, [1, 2, 3], seconds=60)


# Mounts whose client fails.


def die(mount: Mount) -> None:
    mount.client(signal.SIGKILL)


def hang_until_aborted(mount: Mount) -> None:
    """A client that answers nothing: what calls into the mount cannot be killed, until the connection is ended."""
    mount.client(signal.SIGSTOP)
    threading.Timer(2, mount.abort).start()


@pytest.mark.parametrize("fault", [die, hang_until_aborted])
def test_a_mount_that_is_lost_is_used_again_once_it_is_mounted_anew(
    cluster: Cluster, volume: Volume, fault: Callable[[Mount], None]
) -> None:
    own = volume.mount(f"lost-{fault.__name__}")
    nodes = Nodes(cluster, volume, [own, volume.mounts[1]])
    try:
        ranks = launch(nodes.daemons)
        save_all(ranks, 1)
        saves = begin_to_save(ranks, 2)
        fault(own)
        saves += begin_to_save(ranks, 3)
        print(until("status says that the tier is down", nodes.is_down, seconds=OUTAGE_SECONDS))
        assert not nodes.is_down(1)
        own.unmount()
        until("the daemon waits for the mount", lambda: "not there any more" in (nodes.is_down() or ""), seconds=OUTAGE_SECONDS)
        saves += begin_to_save(ranks, 4)
        assert os.listdir(own.path) == [], "something was written where the mount belongs"
        own.up()
        all_end_committed(saves)
        close_all(ranks)
        nodes.all_committed([1, 2, 3, 4])
        nodes.check(4)
    finally:
        own.well()
        cluster.stop_daemons()
        volume.forget(own)


def test_a_mount_that_hangs_is_told_and_goes_on_where_it_stopped(nodes: Nodes) -> None:
    ranks = launch(nodes.daemons)
    save_all(ranks, 1)
    nodes.mounts[0].client(signal.SIGSTOP)
    saves = begin_to_save(ranks, 2)
    begin = time.monotonic()
    status(nodes.daemons[0])
    assert time.monotonic() - begin < 6
    print(until("status says that the tier hangs", nodes.is_down, seconds=30))
    nodes.mounts[0].client(signal.SIGCONT)
    all_end_committed(saves)
    close_all(ranks)
    nodes.check(2)


# What a save costs.

SAVES = 5
DATA = ("READ", "WRITE", "FSYNC", "FINODELK", "FXATTROP", "FALLOCATE", "FTRUNCATE")
"""Of open files; all else is about names, folders and attributes."""


def test_what_a_save_of_two_nodes_asks_of_a_brick(nodes: Nodes) -> None:
    ranks = launch(nodes.daemons)
    save_all(ranks, 1)
    seconds = []
    with nodes.volume.profiled() as counts:
        for step in range(2, 2 + SAVES):
            saves = [one.save(step, state(step * 100 + rank, 4)) for rank, one in enumerate(ranks)]
            for save in saves:
                save.wait("global", timeout=30)
            begin = time.monotonic()
            all_end_committed(saves)
            seconds.append(time.monotonic() - begin)
    close_all(ranks)
    names = {call: count / SAVES for call, count in counts.items() if call not in DATA}
    print("calls on one brick for a save:", ", ".join(f"{call} {count:g}" for call, count in sorted(names.items())))
    print(
        f"in all {sum(names.values()):g} about names, {sum(counts[call] for call in DATA if call in counts) / SAVES:g} about data"
    )
    print("seconds from the last rank's file to the commit:", ", ".join(f"{second:.2f}" for second in sorted(seconds)))
    assert sum(names.values()) < 600
