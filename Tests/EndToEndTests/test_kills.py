"""Processes end in the middle of their work: the daemon's, one by one, by signals that ask and by signals that do not."""

from __future__ import annotations

import concurrent.futures
import os
import secrets
import shutil
import signal
import time

import numpy as np
import pytest
from jobs import check, state
from machine import cli, committed, leftovers, living, status, steps, tier, until, workers
from real_daemon import Cluster
from survival import TierFiles
from test_nodes import open_rank

import cairn


@pytest.mark.parametrize("role", ["main", "stager", "local", "global"])
def test_a_killed_process_costs_some_saves_and_no_more(cluster: Cluster, role: str) -> None:
    daemon = cluster.daemon(tiers=2, retention="{local: {keep: 3}, global: {keep: 3}}")
    session = daemon.pid
    pid = workers(daemon)[role]
    with daemon.open() as checkpointer:
        step, late = 0, 0.0
        for _ in range(3):
            for _ in range(4):
                step += 1
                begin = time.monotonic()
                checkpointer.save(step, state(step))
                late = max(late, time.monotonic() - begin)
            os.kill(pid, signal.SIGKILL)
            if role == "main":
                daemon.stop(signal.SIGKILL)
                assert leftovers(session) == [], "workers that outlived their main process"
                step += 1
                assert checkpointer.save(step, state(step)).level == "failed"
                daemon.start()
                session = daemon.pid
            checkpointer._link.wait_for_session(20)

            def again() -> bool:
                nonlocal step
                step += 1
                save = checkpointer.save(step, state(step))
                try:
                    return save.wait("committed", timeout=20).level == "committed"
                except cairn.CairnError:
                    return False

            until("a save commits again", again, seconds=30)
            pid = until(f"{role} runs again", lambda: workers(daemon).get(role))
            assert late < 15
        checkpointer.wait_until_finished(timeout=30)
    assert steps(daemon)[-1] == step
    check(daemon, step)
    found = status(daemon)
    assert [worker["state"] for worker in found["workers"]] == ["up"] * 3
    assert found["saves"] == []
    if role != "main":
        assert next(worker["restarts"] for worker in found["workers"] if worker["role"] == role) == 3
    assert len(living(session)) == 4


def test_a_stopped_global_worker_is_a_hung_filesystem(cluster: Cluster) -> None:
    """Local saves go on; a main process that is killed meanwhile is started again, and finishes what was local."""
    daemon = cluster.daemon(tiers=2)
    first = daemon.pid
    stuck = workers(daemon)["global"]
    with daemon.open() as checkpointer:
        checkpointer.save(1, state(1)).wait("committed", timeout=20)
        os.kill(stuck, signal.SIGSTOP)
        saves = [checkpointer.save(step, state(step)) for step in (2, 3, 4)]
        for save in saves:
            save.wait("local", timeout=20)
        begin = time.monotonic()
        status(daemon)
        assert time.monotonic() - begin < 3
        assert all(not save.done for save in saves)
        until("it is found stalled", lambda: "does not answer" in cli(daemon, "status"))
        # What is committed is listed from the copies on the local tier.
        assert steps(daemon) == [1]
        daemon.stop(signal.SIGKILL)
        assert leftovers(first) == []
        daemon.start()
        checkpointer._link.wait_for_session(30)
        committed(daemon, [1, 2, 3, 4])
        checkpointer.wait_until_finished(timeout=20)
        assert [save.level for save in saves] == ["committed"] * 3
    check(daemon, 4)


@pytest.mark.parametrize("tiers", [1, 2])
def test_a_stop_in_the_middle_of_a_flush_finishes_it(cluster: Cluster, tiers: int) -> None:
    daemon = cluster.daemon(tiers=tiers, pool="512MiB")
    session = daemon.pid
    with daemon.open() as checkpointer:
        save = checkpointer.save(1, state(1, 256))
        save.wait("staged", timeout=20)
        begin = time.monotonic()
        assert daemon.stop(signal.SIGTERM) == 0
        assert time.monotonic() - begin < 20
    assert leftovers(session) == []
    daemon.start()
    assert steps(daemon) == [1]
    check(daemon, 1, 256)


def test_a_second_signal_ends_at_once_and_the_next_start_recovers(cluster: Cluster) -> None:
    daemon = cluster.daemon(tiers=2, pool="512MiB")
    session, stuck = daemon.pid, workers(daemon)["global"]
    with daemon.open() as checkpointer:
        checkpointer.save(1, state(1, 64)).wait("committed", timeout=20)
        os.kill(stuck, signal.SIGSTOP)
        checkpointer.save(2, state(2, 64)).wait("local", timeout=20)
        os.kill(session, signal.SIGINT)
        until("it says that it stops", lambda: "stopping: 1 saves" in daemon.log.read_text())
        begin = time.monotonic()
        os.kill(session, signal.SIGINT)
        assert until("it ends", lambda: not daemon.alive(), seconds=10)
        assert time.monotonic() - begin < 6
    assert daemon.stop() == 0
    assert leftovers(session) == []
    daemon.start()
    committed(daemon, [1, 2])
    check(daemon, 2, 64)


def test_a_stop_ends_within_its_bound_when_a_tier_does_not_answer(cluster: Cluster) -> None:
    daemon = cluster.daemon(tiers=2)
    session, stuck = daemon.pid, workers(daemon)["global"]
    with daemon.open() as checkpointer:
        os.kill(stuck, signal.SIGSTOP)
        checkpointer.save(1, state(1)).wait("local", timeout=20)
        begin = time.monotonic()
        os.kill(session, signal.SIGTERM)
        until("it ends", lambda: not daemon.alive(), seconds=20)
        assert time.monotonic() - begin < 18
    assert daemon.stop() == 0
    assert leftovers(session) == []
    daemon.start()
    committed(daemon, [1])


def test_a_stop_during_a_stop_of_the_stager_ends(cluster: Cluster) -> None:
    daemon = cluster.daemon(tiers=2)
    session = daemon.pid
    running = workers(daemon)
    with daemon.open() as checkpointer:
        checkpointer.save(1, state(1)).wait("committed", timeout=20)
        for role in ("stager", "local", "global"):
            os.kill(running[role], signal.SIGKILL)
        begin = time.monotonic()
        assert daemon.stop(signal.SIGTERM) == 0
        assert time.monotonic() - begin < 10
    assert leftovers(session) == []


def test_the_group_s_interrupt_of_a_terminal_ends_it_in_order(cluster: Cluster) -> None:
    daemon = cluster.daemon(tiers=2, pool="512MiB")
    session = daemon.pid
    with daemon.open() as checkpointer:
        checkpointer.save(1, state(1, 128)).wait("staged", timeout=20)
        os.killpg(session, signal.SIGINT)
        until("it ends", lambda: not daemon.alive())
    assert daemon.stop() == 0
    daemon.start()
    assert steps(daemon) == [1]
    assert "every block is good" in cli(daemon, "verify", "run")


def test_a_restart_tells_of_no_commit_that_is_not(cluster: Cluster) -> None:
    """A rank that reconnects is told how far its save has come, not how far it was to go."""
    daemon = cluster.daemon(tiers=2)
    attempt = secrets.token_hex(8)
    ranks = [open_rank(daemon, rank, 2, attempt) for rank in range(2)]
    for save in [one.save(1, state(100 + rank, 4)) for rank, one in enumerate(ranks)]:
        save.wait("committed", timeout=20)
    lone = ranks[0].save(2, state(200, 4))
    lone.wait("global", timeout=20)
    heard = lone._progress
    daemon.stop(signal.SIGKILL)
    daemon.start()
    # By its watch, and by what it asks after a reconnect.
    until("the rank has heard of it", lambda: lone.committed.done() or lone._progress >= heard + 2)
    assert not lone.committed.done()
    assert lone.level == "global"
    ranks[1]._link.wait_for_session(20)
    ranks[1].save(2, state(201, 4)).wait("committed", timeout=20)
    lone.wait("committed", timeout=20)
    for one in ranks:
        one.close()


def test_a_restore_waits_for_a_worker_that_is_started_anew(cluster: Cluster) -> None:
    """What only the global tier has is not passed over because its worker died a moment ago."""
    daemon = cluster.daemon(tiers=2)
    with daemon.open() as checkpointer:
        checkpointer.save(1, state(1)).wait("committed", timeout=20)
    daemon.stop()
    for file in daemon.local.glob("*/run/*"):
        shutil.rmtree(file) if file.is_dir() else file.unlink()
    daemon.start()
    killed = workers(daemon)["global"]
    with daemon.open() as checkpointer:
        checkpointer._link.wait_for_session(20)
        os.kill(killed, signal.SIGKILL)
        until("its death is known", lambda: "the global tier is down" in daemon.log.read_text())
        into = state(0)
        assert checkpointer.restore(into) == 1
        assert np.array_equal(into["t3"], state(1)["t3"])


def test_a_restore_outlives_the_worker_that_reads_for_it(cluster: Cluster) -> None:
    """It waits for the next one: an older step would take the place of the newest."""
    daemon = cluster.daemon(pool="512MiB")
    with daemon.open() as checkpointer:
        for step in (1, 2):
            checkpointer.save(step, state(step, 200)).wait("committed", timeout=30)
    daemon.stop()
    daemon.start()
    into = state(0, 200)
    with daemon.open() as checkpointer, concurrent.futures.ThreadPoolExecutor(1) as pool:
        session = checkpointer._link.wait_for_session(20)
        pid = workers(daemon)["local"]
        restored = pool.submit(checkpointer.restore, into)
        until("it reads", lambda: session.leases)
        os.kill(pid, signal.SIGKILL)
        assert restored.result(60) == 2
    for name, expected in state(2, 200).items():
        assert np.array_equal(into[name], expected), name


@pytest.mark.parametrize("role", ["local", "global"])
def test_what_a_killed_worker_had_not_published_is_removed(cluster: Cluster, role: str) -> None:
    daemon = cluster.daemon(tiers=2, pool="512MiB")
    files = TierFiles(daemon.local if role == "local" else daemon.tier)
    pid = workers(daemon)[role]
    with daemon.open() as checkpointer:
        save = checkpointer.save(1, state(1, 200), lazy=True)
        until("it writes", lambda: any(path.name.endswith(".part") for path in files.leftovers()))
        os.kill(pid, signal.SIGKILL)
        save.wait("committed", timeout=30)
        until("nothing unpublished is left", lambda: not files.leftovers())
    check(daemon, 1, 200)


def test_a_worker_started_anew_goes_on_to_remove_what_is_only_local(cluster: Cluster) -> None:
    """It gets no scan, for main knows: the drive of a daemon that lives for months would fill."""
    daemon = cluster.daemon(tiers=2, retention="{local: {keep: 2}, global: {keep: 2}}")
    with daemon.open() as checkpointer:
        checkpointer.save(1, state(1)).wait(timeout=30)
        os.kill(workers(daemon)["local"], signal.SIGKILL)
        for step in range(2, 8):
            checkpointer.save(step, state(step), level="local").wait(timeout=30)
        for step in (8, 9):
            checkpointer.save(step, state(step)).wait(timeout=30)
        # Two, and what was not recorded yet, or in flight, when it was last looked at.
        until("the older ones are removed", lambda: len(list(daemon.local.glob("*/run/*.safetensors"))) <= 4)
    check(daemon, 9)


def test_kills_at_any_moment_never_show_a_step_that_is_not_whole(cluster: Cluster) -> None:
    """Main and all workers at once, as a node's power cut would; twelve times, at different moments of a save."""
    daemon = cluster.daemon(tiers=2)
    committed = 0
    for round in range(12):
        step = round + 1
        with daemon.open() as checkpointer:
            save = checkpointer.save(step, state(step, 24))
            time.sleep(round * 0.008)
            for pid in living(daemon.pid):
                os.kill(pid, signal.SIGKILL)
            daemon.stop(signal.SIGKILL)
            known = save.level == "committed"
        daemon.start()
        with daemon.open() as checkpointer:
            checkpointer._link.wait_for_session(20)
            into = state(0, 24)
            restored = checkpointer.restore(into)
            if known:
                committed = step
            assert (restored or 0) >= committed
            if restored is not None:
                committed = restored
                for name, expected in state(restored, 24).items():
                    assert np.array_equal(into[name], expected), (restored, name)
    # Nothing half done is left for ever.
    with daemon.open() as checkpointer:
        checkpointer.save(100, state(100, 24)).wait("committed", timeout=20)
    assert "every block is good" in cli(daemon, "verify", "run")
    tier(daemon, "global")
