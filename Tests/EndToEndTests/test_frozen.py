"""A global tier whose filesystem hangs: every call into it blocks until it answers, and who calls cannot be killed."""

from __future__ import annotations

import signal
import time

from jobs import check, state, with_global
from machine import Mounts, cli, committed, leftovers, living, status, steps, tier, until, unused, workers
from real_daemon import Cluster


def test_status_answers_and_local_saves_go_on_until_it_thaws(cluster: Cluster, mounts: Mounts) -> None:
    where = mounts.xfs()
    daemon = with_global(cluster.daemon(tiers=2), where / "cairn")
    try:
        with daemon.open() as checkpointer:
            checkpointer.save(1, state(1)).wait("committed", timeout=20)
            mounts.freeze(where)
            saves = [checkpointer.save(step, state(step)) for step in range(2, 8)]
            for save in saves:
                save.wait("local", timeout=20)
            begin = time.monotonic()
            found = status(daemon)
            cli(daemon, "status")
            assert time.monotonic() - begin < 6, "two of them, 3 s each at most"
            assert len(found["saves"]) == 6
            told = until("status tells of it", lambda: tier(daemon, "global").get("reason"), seconds=20)
            assert "does not answer" in told
            assert not any(save.done for save in saves)
            mounts.thaw(where)
            for save in saves:
                save.wait("committed", timeout=20)
        assert steps(daemon)[-1] == 7
        until("the tier is well again", lambda: tier(daemon, "global")["state"] == "up")
        check(daemon, 7)
        assert status(daemon)["pool"]["quarantined"] == 0
    finally:
        mounts_thawed(mounts)
        daemon.stop()


def mounts_thawed(mounts: Mounts) -> None:
    for where in list(mounts.frozen):
        mounts.thaw(where)


def test_a_stop_and_a_new_start_work_while_it_is_frozen(cluster: Cluster, mounts: Mounts) -> None:
    where = mounts.xfs()
    daemon = with_global(cluster.daemon(tiers=2), where / "cairn")
    first = daemon.pid
    try:
        with daemon.open() as checkpointer:
            checkpointer.save(1, state(1)).wait("committed", timeout=20)
            mounts.freeze(where)
            save = checkpointer.save(2, state(2))
            save.wait("local", timeout=20)
            begin = time.monotonic()
            daemon.stop(signal.SIGTERM)
            assert time.monotonic() - begin < 19
            # What hangs in the kernel is left behind, and named.
            if living(first):
                assert "stuck in the kernel" in daemon.log.read_text()
            daemon.start()
            begin = time.monotonic()
            status(daemon)
            assert time.monotonic() - begin < 3
            mounts.thaw(where)
            assert leftovers(first, seconds=10) == []
            checkpointer._link.wait_for_session(40)
            committed(daemon, [1, 2])
            checkpointer.save(3, state(3)).wait("committed", timeout=30)
        check(daemon, 3)
    finally:
        mounts_thawed(mounts)
        daemon.stop()
        for pid in living(first):
            unused(pid)


def test_a_worker_that_is_killed_while_it_hangs_is_replaced_after_the_thaw(cluster: Cluster, mounts: Mounts) -> None:
    where = mounts.xfs()
    daemon = with_global(cluster.daemon(tiers=2), where / "cairn")
    try:
        with daemon.open() as checkpointer:
            checkpointer.save(1, state(1)).wait("committed", timeout=20)
            pid = workers(daemon)["global"]
            mounts.freeze(where)
            save = checkpointer.save(2, state(2))
            save.wait("local", timeout=20)
            unused(pid)
            checkpointer.save(3, state(3)).wait("local", timeout=20)
            status(daemon)
            mounts.thaw(where)
            committed(daemon, [1, 2, 3])
            assert workers(daemon)["global"] != pid
        check(daemon, 3)
    finally:
        mounts_thawed(mounts)
        daemon.stop()
