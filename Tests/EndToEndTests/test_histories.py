"""Histories of jobs on several nodes: launches one after the other or at once, nodes that go, and which step is restored."""

from __future__ import annotations

import concurrent.futures
import json
import secrets
import signal
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from jobs import state, with_global
from machine import Mounts, cli, committed, status, steps, until
from real_daemon import Cluster, Daemon
from test_nodes import check_ranks, open_rank, restore_all
from test_tiers import files, flip

import cairn

Ranks = list[cairn.Checkpointer]


@pytest.fixture
def nodes(cluster: Cluster) -> list[Daemon]:
    retention = "{local: {keep: 4}, global: {keep: 20}}"
    return [cluster.daemon(tiers=2, retention=retention) for _ in range(2)]


def launch(nodes: list[Daemon], attempt: str | None = None) -> Ranks:
    """A rank on each node."""
    token = attempt or secrets.token_hex(8)
    ranks = [open_rank(node, rank, len(nodes), token, here=1) for rank, node in enumerate(nodes)]
    for checkpointer in ranks:
        checkpointer._link.wait_for_session(30)
    return ranks


def at_once(ranks: Ranks, call: Callable[[int, cairn.Checkpointer], Any]) -> list[Any]:
    with concurrent.futures.ThreadPoolExecutor(len(ranks)) as pool:
        return [future.result(60) for future in [pool.submit(call, rank, one) for rank, one in enumerate(ranks)]]


def save_all(ranks: Ranks, step: int, until: str = "committed", **options: Any) -> list[cairn.Save]:
    saves = [one.save(step, state(step * 100 + rank, 4), **options) for rank, one in enumerate(ranks)]
    for save in saves:
        save.wait(until, timeout=20)
    return saves


def close_all(ranks: Ranks) -> None:
    for checkpointer in ranks:
        checkpointer.close()


def test_a_quick_restart_keeps_the_save_that_was_being_flushed(nodes: list[Daemon]) -> None:
    ranks = launch(nodes)
    save_all(ranks, 1)
    with nodes[1].paused("global") as paused:
        save_all(ranks, 2, "local")
        close_all(ranks)
        paused.resume_after(2)
        begin = time.monotonic()
        check_ranks(restore_all(nodes, [(0, 0), (1, 1)], 2, 1), 2)
    assert time.monotonic() - begin < 12
    assert steps(nodes[0]) == [1, 2]


def test_a_save_that_a_dead_launch_never_completed_is_void_at_once(nodes: list[Daemon]) -> None:
    """Rank 1's daemon says that it served rank 1 and has nothing of the save: nobody waits for it."""
    ranks = launch(nodes)
    save_all(ranks, 1)
    lone = ranks[0].save(2, state(200, 4))
    lone.wait("global", timeout=20)
    close_all(ranks)
    begin = time.monotonic()
    check_ranks(restore_all(nodes, [(0, 0), (1, 1)], 2, 1), 1)
    assert time.monotonic() - begin < 8
    until("the log says why", lambda: "its attempt ended before ranks 1 were durable" in nodes[0].log.read_text())


def test_a_node_that_never_comes_back_is_waited_for_a_while(nodes: list[Daemon]) -> None:
    ranks = launch(nodes)
    save_all(ranks, 1)
    with nodes[1].paused("global"):
        save_all(ranks, 2, "local")
        nodes[1].stop(signal.SIGKILL)
    close_all(ranks)
    begin = time.monotonic()
    check_ranks(restore_all([nodes[0]], [(0, 0), (1, 0)], 2, 2), 1)
    assert 10 < time.monotonic() - begin < 30
    # What comes back late learns that its save is void.
    nodes[1].start()
    until("the late node knows", lambda: status(nodes[1])["saves"] == [])
    assert steps(nodes[1]) == [1]


def test_an_older_launch_that_lives_on_is_ended(nodes: list[Daemon]) -> None:
    """Also where the new one has no rank on its node: its daemon finds the newer attempt on the global tier."""
    old = open_rank(nodes[1], 0, 1, secrets.token_hex(8))
    old.save(1, state(100, 4)).wait("committed", timeout=20)
    new = open_rank(nodes[0], 0, 1, secrets.token_hex(8))
    into = state(0, 4)
    assert new.restore(into, timeout=30) == 1
    told: list[str] = []
    deadline = time.monotonic() + 20
    while not any("later launch" in text for text in told):
        assert time.monotonic() < deadline, told[-3:]
        save = old.save(2 + len(told), state(200, 4))
        told.append(str(save.committed.exception(timeout=10)) if save.level == "failed" else "")
        time.sleep(0.2)
    new.save(50, state(5000, 4)).wait("committed", timeout=20)
    assert steps(nodes[0])[-1] == 50
    close_all([old, new])
    # The newest by sequence, whatever the older launch committed meanwhile.
    check_ranks(restore_all([nodes[1]], [(0, 0)], 1, 1), 50)


def test_another_daemon_commits_where_rank_0_s_is_dead(nodes: list[Daemon]) -> None:
    ranks = launch(nodes)
    save_all(ranks, 1)
    first = ranks[0].save(2, state(200, 4))
    first.wait("global", timeout=20)
    nodes[0].stop(signal.SIGKILL)
    second = ranks[1].save(2, state(201, 4))
    begin = time.monotonic()
    second.wait("committed", timeout=50)
    assert time.monotonic() - begin > 25
    nodes[0].start()
    close_all(ranks)
    check_ranks(restore_all(nodes, [(0, 0), (1, 1)], 2, 1), 2)


def test_steps_that_stay_local_are_restored_where_every_rank_has_its_own(nodes: list[Daemon]) -> None:
    ranks = launch(nodes)
    save_all(ranks, 1)
    save_all(ranks, 2, "local", level="local")
    for node in nodes:
        node.stop(signal.SIGKILL)
        node.start()
    close_all(ranks)
    check_ranks(restore_all(nodes, [(0, 0), (1, 1)], 2, 1), 2)
    # With the ranks on the other node each, nobody has its own.
    check_ranks(restore_all(nodes, [(0, 1), (1, 0)], 2, 1), 1)


def test_steps_in_memory_are_restored_while_every_daemon_lives(nodes: list[Daemon]) -> None:
    ranks = launch(nodes)
    save_all(ranks, 1)
    save_all(ranks, 2, "staged", level="staged")
    close_all(ranks)
    check_ranks(restore_all(nodes, [(0, 0), (1, 1)], 2, 1), 2)
    ranks = launch(nodes)
    save_all(ranks, 3, "staged", level="staged")
    close_all(ranks)
    nodes[1].stop(signal.SIGKILL)
    nodes[1].start()
    check_ranks(restore_all(nodes, [(0, 0), (1, 1)], 2, 1), 1)


def test_a_corrupt_copy_on_one_node_is_read_from_the_global_tier_or_all_go_back(nodes: list[Daemon]) -> None:
    ranks = launch(nodes)
    for step in (1, 2):
        save_all(ranks, step)
    close_all(ranks)
    for node in nodes:
        node.stop()
    (local,) = files(nodes[1], "local", 2)
    flip(local, 5)
    for node in nodes:
        node.start()
    check_ranks(restore_all(nodes, [(0, 0), (1, 1)], 2, 1), 2)
    for file in files(nodes[0], "global", 2):
        if "00001" in file.name:
            flip(file, 5)
    check_ranks(restore_all(nodes, [(0, 0), (1, 1)], 2, 1), 1)


def test_a_job_that_starts_while_the_global_tier_hangs_goes_on_from_its_node(cluster: Cluster) -> None:
    """Numbered, restored and saved on the local tier; when the global tier answers again, all of it is committed there."""
    daemon = cluster.daemon(tiers=2)
    with daemon.open() as checkpointer:
        checkpointer.save(1, state(1, 4)).wait("committed", timeout=20)
    with daemon.paused("global"), daemon.open() as checkpointer:
        into = state(0, 4)
        assert checkpointer.restore(into, timeout=45) == 1
        checkpointer.save(2, state(2, 4)).wait("local", timeout=20)
        assert np.array_equal(into["t3"], state(1, 4)["t3"])
    committed(daemon, [1, 2])
    with daemon.open() as checkpointer:
        assert checkpointer.restore(state(0, 4), timeout=30) == 2
    numbers = [step["sequence"] for run in json.loads(cli(daemon, "ls", "--json"))["runs"] for step in run["steps"]]
    assert len(set(numbers)) == 2


def test_a_daemon_that_starts_anew_while_the_global_tier_is_out_goes_on_saving_locally(cluster: Cluster, mounts: Mounts) -> None:
    """The ranks say which attempt they are; a later launch is numbered above it, and all of it is committed in the end."""
    where = mounts.xfs("300M", "pfs")
    daemon = with_global(cluster.daemon(tiers=2), where / "cairn")
    try:
        with daemon.open() as checkpointer:
            checkpointer.save(1, state(1, 4)).wait("committed", timeout=20)
            mounts.freeze(where)
            daemon.stop(signal.SIGKILL)
            daemon.start()
            checkpointer._link.wait_for_session(45)
            checkpointer.save(2, state(2, 4)).wait("local", timeout=20)
        with daemon.open() as checkpointer:
            assert checkpointer.restore(state(0, 4), timeout=45) == 2
            checkpointer.save(3, state(3, 4)).wait("local", timeout=20)
        mounts.thaw(where)
        committed(daemon, [1, 2, 3])
        with daemon.open() as checkpointer:
            assert checkpointer.restore(state(0, 4), timeout=30) == 3
    finally:
        daemon.stop()


def test_the_same_saves_are_dropped_on_all_nodes_while_the_global_tier_is_behind(nodes: list[Daemon]) -> None:
    ranks = launch(nodes)
    saves: dict[int, list[cairn.Save]] = {}
    with nodes[0].paused("global"), nodes[1].paused("global"):
        for step in range(1, 17):
            # Only what stands locally, and so is safe without the global tier, is dropped.
            saves[step] = save_all(ranks, step, "local")
    ends = {step: {until("it ends", lambda save=save: save.done and save.level) for save in both} for step, both in saves.items()}
    assert all(len(levels) == 1 for levels in ends.values()), ends
    kept = [step for step, levels in ends.items() if levels == {"committed"}]
    assert steps(nodes[0]) == steps(nodes[1]) == kept
    # Those kept lie further apart the older they are.
    assert {8, 12, 16} <= set(kept), kept
    assert len(kept) < 14, kept
    dropped = next(step for step in saves if step not in kept)
    assert "superseded" in str(saves[dropped][0].committed.exception(timeout=5))
    close_all(ranks)
    check_ranks(restore_all(nodes, [(0, 0), (1, 1)], 2, 1), 16)


def test_going_back_supersedes_what_came_after(nodes: list[Daemon]) -> None:
    ranks = launch(nodes)
    for step in (1, 2, 3):
        save_all(ranks, step)
    close_all(ranks)
    ranks = launch(nodes)
    assert at_once(ranks, lambda rank, one: one.restore(state(0, 4), step=1, timeout=30)) == [1, 1]
    save_all(ranks, 2)
    close_all(ranks)
    check_ranks(restore_all(nodes, [(0, 0), (1, 1)], 2, 1), 2)
    runs = json.loads(cli(nodes[1], "ls", "--json"))["runs"]
    superseded = sorted(step["step"] for run in runs for step in run["steps"] if step["superseded"])
    assert superseded == [2, 3]
    text = cli(nodes[0], "ls", "run")
    assert "superseded" in text


def test_a_save_of_some_ranks(nodes: list[Daemon]) -> None:
    ranks = launch(nodes)
    save_all(ranks, 1)
    ranks[0].save(2, state(200, 4), participants=[0]).wait("committed", timeout=20)
    save_all(ranks, 3)
    assert steps(nodes[1]) == [1, 2, 3]
    close_all(ranks)
    check_ranks(restore_all(nodes, [(0, 0), (1, 1)], 2, 1), 3)


def test_a_rank_that_skips_a_save_voids_it_when_it_goes_on(nodes: list[Daemon]) -> None:
    """Whichever rank it is: the next commit's manifests say who went on without the save before."""
    ranks = launch(nodes)
    save_all(ranks, 1)
    for step, skipping in ((2, 0), (4, 1)):
        lone = ranks[1 - skipping].save(step, state(step * 100 + 1 - skipping, 4))
        lone.wait("global", timeout=20)
        save_all(ranks, step + 1)
        with pytest.raises(cairn.CheckpointFailed) as failed:
            lone.wait("committed", timeout=15)
        assert str(skipping) in str(failed.value)
    assert steps(nodes[0]) == steps(nodes[1]) == [1, 3, 5]
    close_all(ranks)
    check_ranks(restore_all(nodes, [(0, 0), (1, 1)], 2, 1), 5)
