"""Jobs of several ranks, on one daemon and on daemons that share nothing but the global folder."""

from __future__ import annotations

import concurrent.futures
import secrets
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jobs import state
from machine import steps, until
from real_daemon import Cluster, Daemon

import cairn


def open_rank(daemon: Daemon, rank: int, world: int, attempt: str, *, here: int | None = None) -> cairn.Checkpointer:
    local = world if here is None else here
    return daemon.open(rank=rank, world_size=world, local_rank=rank % local, local_world_size=local, attempt=attempt)


def restore_all(
    daemons: list[Daemon], ranks: list[tuple[int, int]], world: int, here: int
) -> list[tuple[int | None, dict[str, Any]]]:
    """A new launch; ``ranks`` are pairs of rank and index of its daemon. All ranks restore at the same time."""
    attempt = secrets.token_hex(8)

    def one(rank: int, index: int) -> tuple[int | None, dict[str, Any]]:
        into = state(0, 4)
        with open_rank(daemons[index], rank, world, attempt, here=here) as checkpointer:
            return checkpointer.restore(into, timeout=40), into

    with concurrent.futures.ThreadPoolExecutor(len(ranks)) as pool:
        return [future.result(60) for future in [pool.submit(one, *rank) for rank in ranks]]


def check_ranks(found: list[tuple[int | None, dict[str, Any]]], step: int) -> None:
    for rank, (restored, into) in enumerate(found):
        assert restored == step
        for name, expected in state(step * 100 + rank, 4).items():
            assert np.array_equal(into[name], expected), (rank, name)


def test_two_ranks_of_one_daemon_commit_together(cluster: Cluster) -> None:
    daemon = cluster.daemon(tiers=2)
    attempt = secrets.token_hex(8)
    ranks = [open_rank(daemon, rank, 2, attempt) for rank in range(2)]
    for step in (1, 2):
        first = ranks[0].save(step, state(step * 100, 4))
        first.wait("global", timeout=20)
        assert not first.done
        assert steps(daemon) == list(range(1, step))
        second = ranks[1].save(step, state(step * 100 + 1, 4))
        for save in (first, second):
            save.wait("committed", timeout=20)
    for checkpointer in ranks:
        checkpointer.close()
    check_ranks(restore_all([daemon], [(0, 0), (1, 0)], 2, 2), 2)


@pytest.fixture
def nodes(cluster: Cluster) -> list[Daemon]:
    limits = {"commitTimeout": "8s"}
    return [cluster.daemon(tiers=2, limits=limits), cluster.daemon(tiers=2, limits=limits)]


def test_two_nodes_commit_only_what_both_have(nodes: list[Daemon]) -> None:
    attempt = secrets.token_hex(8)
    ranks = [open_rank(nodes[rank], rank, 2, attempt, here=1) for rank in range(2)]
    first = ranks[0].save(1, state(100, 4))
    first.wait("global", timeout=20)
    assert not first.done
    assert steps(nodes[0]) == steps(nodes[1]) == []
    second = ranks[1].save(1, state(101, 4))
    for save in (second, first):
        save.wait("committed", timeout=20)
    assert steps(nodes[0]) == steps(nodes[1]) == [1]
    for checkpointer in ranks:
        checkpointer.close()
    # Also with the ranks on the other node each, where only the global tier has their files.
    check_ranks(restore_all(nodes, [(0, 0), (1, 1)], 2, 1), 1)
    check_ranks(restore_all(nodes, [(0, 1), (1, 0)], 2, 1), 1)


def test_a_save_that_one_rank_never_makes_is_void_for_all(nodes: list[Daemon]) -> None:
    attempt = secrets.token_hex(8)
    ranks = [open_rank(nodes[rank], rank, 2, attempt, here=1) for rank in range(2)]
    lone = ranks[0].save(1, state(100, 4))
    with pytest.raises(cairn.CheckpointFailed) as failed:
        lone.wait("committed", timeout=25)
    assert "1" in str(failed.value)
    saves = [checkpointer.save(2, state(200 + rank, 4)) for rank, checkpointer in enumerate(ranks)]
    for save in saves:
        save.wait("committed", timeout=20)
    for checkpointer in ranks:
        checkpointer.close()
    check_ranks(restore_all(nodes, [(0, 0), (1, 1)], 2, 1), 2)


@pytest.mark.parametrize("victim", [0, 1])
def test_a_node_that_dies_in_a_save_is_void_or_committed_by_the_other(nodes: list[Daemon], victim: int) -> None:
    """Which of the two depends on the moment; both nodes say the same, and the next launch restores it."""
    attempt = secrets.token_hex(8)
    ranks = [open_rank(nodes[rank], rank, 2, attempt, here=1) for rank in range(2)]
    for save in [checkpointer.save(1, state(100 + rank, 4)) for rank, checkpointer in enumerate(ranks)]:
        save.wait("committed", timeout=20)
    ranks[victim].save(2, state(200 + victim, 4))
    other = ranks[1 - victim].save(2, state(200 + 1 - victim, 4))
    nodes[victim].stop(signal.SIGKILL)
    until("the other's save ends", lambda: other.done, seconds=25)
    assert other.level in ("committed", "failed")
    nodes[victim].start()
    begin = time.monotonic()
    for checkpointer in ranks:
        checkpointer.close()
    expected = 2 if other.level == "committed" else 1
    check_ranks(restore_all(nodes, [(0, 0), (1, 1)], 2, 1), expected)
    assert steps(nodes[0]) == steps(nodes[1]) == list(range(1, expected + 1))
    assert time.monotonic() - begin < 25


def test_a_node_that_is_gone_for_good_leaves_the_global_tier_s_steps(nodes: list[Daemon]) -> None:
    attempt = secrets.token_hex(8)
    ranks = [open_rank(nodes[rank], rank, 2, attempt, here=1) for rank in range(2)]
    for step in (1, 2):
        for save in [checkpointer.save(step, state(step * 100 + rank, 4)) for rank, checkpointer in enumerate(ranks)]:
            save.wait("committed", timeout=20)
    for checkpointer in ranks:
        checkpointer.close()
    nodes[0].stop(signal.SIGKILL)
    remove(nodes[0].local)
    check_ranks(restore_all([nodes[1]], [(0, 0), (1, 0)], 2, 2), 2)


def remove(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()


def test_a_whole_cluster_that_loses_power_restores_the_same_step_everywhere(nodes: list[Daemon]) -> None:
    committed = 0
    for round in range(4):
        attempt = secrets.token_hex(8)
        ranks = [open_rank(nodes[rank], rank, 2, attempt, here=1) for rank in range(2)]
        for checkpointer in ranks:
            checkpointer._link.wait_for_session(30)
        step = round + 1
        saves = [checkpointer.save(step, state(step * 100 + rank, 4)) for rank, checkpointer in enumerate(ranks)]
        time.sleep(round * 0.02)
        for node in nodes:
            node.stop(signal.SIGKILL)
        if any(save.level == "committed" for save in saves):
            committed = step
        for node in nodes:
            node.start()
        for checkpointer in ranks:
            checkpointer.close()
        found = restore_all(nodes, [(0, 0), (1, 1)], 2, 1)
        assert found[0][0] == found[1][0], "ranks restored different steps"
        restored = found[0][0] or 0
        assert restored >= committed
        committed = restored
        if restored:
            check_ranks(found, restored)
