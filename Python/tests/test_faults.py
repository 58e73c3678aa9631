"""Refusals and failures of a real daemon: training goes on, is told once, and checkpoints come back."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from typing import Any

import pytest
import torch
from real_daemon import Cluster, Daemon, until

import cairn
from cairn import limits
from cairn.loader import Loader

pytestmark = pytest.mark.daemon


def back(checkpointer: cairn.Checkpointer) -> None:
    checkpointer._link.wait_for_session(30)


def test_a_refused_save_is_a_failed_one(cluster: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    daemon = cluster.daemon(limits={"messageBytes": "1MiB"})
    with daemon.open() as checkpointer:
        many = {f"t{number}": torch.ones(1) for number in range(20_000)}
        with caplog.at_level(logging.WARNING, "cairn"):
            save = checkpointer.save(1, many)
        assert save.level == "failed"
        assert "TooLarge" in str(save.reason)
        assert "TooLarge" in caplog.text
        assert checkpointer.failures == 1
        back(checkpointer)
        assert checkpointer.save(2, {"a": torch.ones(1)}).wait(timeout=20).level == "committed"


def test_a_draining_daemon_refuses_and_training_goes_on(cluster: Cluster) -> None:
    daemon = cluster.daemon(tiers=2)
    with daemon.open() as checkpointer, daemon.paused("global") as pause:
        checkpointer.save(1, {"a": torch.ones(1)}).wait("local", timeout=20)
        assert daemon._process is not None
        daemon._process.send_signal(signal.SIGTERM)
        until(lambda: checkpointer.save(2, {"a": torch.ones(1)}).level == "failed")
        pause.resume()
        assert daemon._process.wait(30) == 0
        daemon.start()
        back(checkpointer)
        checkpointer.save(3, {"a": torch.ones(1)}).wait(timeout=20)
        assert {1, 3} <= set(checkpointer.all_steps())  # 2 may have come before the signal


def test_failures_are_raised_where_asked_for(cluster: Cluster) -> None:
    daemon = cluster.daemon(reserve="900TiB")
    with daemon.open(on_failure="raise") as checkpointer:
        save = checkpointer.save(1, {"a": torch.ones(1)})
        with pytest.raises(cairn.CheckpointFailed):
            save.wait(timeout=30)
        with pytest.raises(cairn.CheckpointFailed, match="step 1"):
            checkpointer.save(2, {"a": torch.ones(1)})
        checkpointer.save(3, {"a": torch.ones(1)})
    with daemon.open(max_without_commit=0.05) as checkpointer:
        until(lambda: time.monotonic() - checkpointer._link.last_commit > 0.05)
        with pytest.raises(cairn.NoCommit):
            checkpointer.save(2, {"a": torch.ones(1)})


def test_without_a_daemon_training_goes_on(cluster: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    daemon = cluster.daemon()
    daemon.stop()
    with caplog.at_level(logging.WARNING, "cairn"):
        checkpointer = daemon.open()
        begin = time.monotonic()
        saves = [checkpointer.save(step, {"a": torch.ones(1)}) for step in range(50)]
        assert time.monotonic() - begin < 10  # a client that waited would take 5 s each
    assert all(save.level == "failed" for save in saves)
    assert len(caplog.records) == 2
    assert checkpointer.failures == 50
    checkpointer.wait_until_finished(timeout=1)
    with daemon.open("raising", on_unavailable="raise") as raising, pytest.raises(cairn.Unavailable):
        raising.save(1, {"a": torch.ones(1)})
    daemon.start()
    back(checkpointer)
    assert checkpointer.save(50, {"a": torch.ones(1)}).wait(timeout=20)
    checkpointer.close()


def test_a_restore_without_a_daemon_is_no_fresh_start(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    daemon = cluster.daemon()
    daemon.stop()
    monkeypatch.setattr(limits, "CALL_SECONDS", 0.2)
    with daemon.open() as checkpointer, pytest.raises(cairn.Unavailable, match="CAIRN_SOCKET"):
        checkpointer.restore({})


def test_a_daemon_that_stands_still_holds_up_no_trainer(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Stopped, it still takes connections, and answers nothing."""
    daemon = cluster.daemon()
    monkeypatch.setattr(limits, "START_SECONDS", 0.5)
    with daemon.paused("main") as pause:
        begin = time.monotonic()
        with caplog.at_level(logging.WARNING, "cairn"):
            checkpointer = daemon.open()
            assert 0.4 < time.monotonic() - begin < 3
            saves = [checkpointer.save(step, {"a": torch.ones(1)}) for step in range(20)]
        assert time.monotonic() - begin < 3
        assert all(save.level == "failed" and "has not opened the session" in str(save.reason) for save in saves)
        assert len(caplog.records) == 2
        with pytest.raises(cairn.Unavailable, match="stopped"):
            checkpointer._link.wait_for_session(0.1, opening=0.3)
        closed = daemon.open("closed")
        begin = time.monotonic()
        closed.close()
        assert time.monotonic() - begin < 2
        pause.resume()
        assert checkpointer.restore({}) is None  # waits for the session that is being opened
        assert checkpointer.save(50, {"a": torch.ones(1)}).wait(timeout=20)
        checkpointer.close()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_training_goes_on_over_a_daemon_restart(cluster: Cluster, how: signal.Signals) -> None:
    daemon = cluster.daemon(tiers=2)
    tensor = torch.zeros(1 << 20)
    with daemon.open() as checkpointer:
        checkpointer.save(1, {"a": tensor}).wait(timeout=30)
        daemon.stop(how)
        begin = time.monotonic()
        saves = [checkpointer.save(step, {"a": tensor.fill_(step)}, lazy=True) for step in range(2, 30)]
        with checkpointer.lock():
            pass
        assert time.monotonic() - begin < 5
        assert all(save.level == "failed" for save in saves)
        daemon.start()
        back(checkpointer)
        checkpointer.save(40, {"a": tensor.fill_(40)}).wait(timeout=30)
        assert {1, 40} <= set(checkpointer.all_steps())
        into = {"a": torch.zeros(1 << 20)}
        assert checkpointer.restore(into) == 40
        assert bool((into["a"] == 40).all())


def test_a_daemon_killed_in_mid_save_fails_it_at_once(cluster: Cluster) -> None:
    daemon = cluster.daemon(pool="128MiB")
    tensor = torch.ones(40 << 20)  # more than the pool
    with daemon.open() as checkpointer:
        with daemon.paused("local"):
            pending = checkpointer.save(1, {"a": tensor}, lazy=True)
            assert not pending.free
            daemon.stop(signal.SIGKILL)
            begin = time.monotonic()
            with checkpointer.lock():
                tensor.zero_()
            assert time.monotonic() - begin < 5
        with pytest.raises(cairn.CheckpointFailed, match="ended before it was staged"):
            pending.wait(timeout=10)
        daemon.start()
        back(checkpointer)
        assert checkpointer.save(3, {"a": tensor}).wait(timeout=30).level == "committed"
        assert checkpointer.all_steps() == [3]


def test_a_staged_save_is_followed_over_a_restart(cluster: Cluster) -> None:
    daemon = cluster.daemon(tiers=2)
    with daemon.open() as checkpointer:
        with daemon.paused("global"):
            save = checkpointer.save(1, {"a": torch.ones(1)})
            save.wait("local", timeout=20)
            daemon.stop(signal.SIGKILL)
        assert save.level == "local"
        daemon.start()
        assert save.wait("committed", timeout=40).level == "committed"


@pytest.mark.parametrize("worker", ["stager", "local", "global"])
def test_a_worker_that_dies_is_replaced(cluster: Cluster, worker: str) -> None:
    daemon = cluster.daemon(tiers=2)
    with daemon.open() as checkpointer:
        checkpointer.save(1, {"a": torch.ones(1 << 16)}).wait(timeout=20)
        dead = daemon.workers()[worker]
        with daemon.paused(worker):
            save = checkpointer.save(2, {"a": torch.ones(40 << 20)}, lazy=True) if worker != "stager" else None
            os.kill(dead, signal.SIGKILL)
        until(lambda: daemon.workers().get(worker, dead) != dead)
        if save is not None:
            assert save.wait(timeout=60).level == "committed"
        until(lambda: checkpointer.save(3, {"a": torch.ones(1 << 16)}).level != "failed")
        checkpointer.wait_until_finished(timeout=60)
        assert 3 in checkpointer.all_steps()
        into = {"a": torch.zeros(1 << 16)}
        assert checkpointer.restore(into, 1) == 1
        assert into["a"].all()


def test_what_a_tier_was_asked_for_and_did_not_answer_goes_into_no_lease_of_another(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read that was given up may still end: nothing else may be in its lease then."""
    daemon = cluster.daemon(tiers=2)
    old = {"a": torch.arange(6 << 20, dtype=torch.int32), "b": torch.arange(1000)}
    with daemon.open() as checkpointer:
        checkpointer.save(1, old).wait(timeout=30)
    daemon.stop()
    daemon.start()
    until(lambda: "local" in daemon.workers())
    dead, losses = daemon.workers()["local"], []
    ask, load = Loader._ask, Loader._load

    def ask_and_kill(self: Loader, batch: Any) -> None:
        if losses or batch.boxes[0][1].bytes < 1000:
            return ask(self, batch)
        losses.append(0)
        os.kill(dead, signal.SIGSTOP)
        ask(self, batch)
        threading.Timer(0.5, os.kill, (dead, signal.SIGKILL)).start()

    def watched(self: Loader, targets: Any) -> None:
        segments = [lease.segment for lease in self._leases]
        try:
            load(self, targets)
        except cairn.LeaseLost as loss:
            losses.append(loss.parameters["segment"])
            raise
        assert not losses or losses[-1] not in segments

    monkeypatch.setattr(Loader, "_ask", ask_and_kill)
    monkeypatch.setattr(Loader, "_load", watched)
    into = {"a": torch.zeros(6 << 20, dtype=torch.int32), "b": torch.zeros(1000, dtype=torch.int64)}
    with daemon.open() as checkpointer:
        assert checkpointer.restore(into) == 1
        restored = checkpointer.last_restore
        assert restored is not None
        assert "global" in restored.tiers
    assert len(losses) == 2
    assert torch.equal(into["a"], old["a"])
    assert torch.equal(into["b"], old["b"])


def damage(daemon: Daemon, step: int) -> None:
    """Flip a bit in the tensors of a committed step, while nothing is kept in memory."""
    folder = next(folder for folder in daemon.step_folders() if folder.name.startswith(f"step-{step}."))
    with (folder / "rank-00000.safetensors").open("r+b") as file:
        file.seek(-2, 2)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 1]))


def test_a_corrupt_step_gives_way_to_an_older_one(cluster: Cluster) -> None:
    daemon = cluster.daemon()
    with daemon.open() as checkpointer:
        for step in (1, 2):
            checkpointer.save(step, {"a": torch.full((3,), float(step)), "v": step}).wait(timeout=20)
    daemon.stop()
    damage(daemon, 2)
    daemon.start()
    state: dict[str, Any] = {"a": torch.zeros(3), "v": 0}
    with daemon.open() as checkpointer:
        assert checkpointer.restore(state) == 1
    assert state["v"] == 1
    assert torch.equal(state["a"], torch.full((3,), 1.0))
    daemon.stop()
    damage(daemon, 1)
    daemon.start()
    with daemon.open() as checkpointer, pytest.raises(cairn.Corrupt):
        checkpointer.restore(state)


def test_a_daemon_that_stands_still_hangs_no_restore_for_ever(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    daemon = cluster.daemon()
    with daemon.open() as checkpointer:
        checkpointer.save(1, {"a": torch.ones(1000)}).wait(timeout=20)
        with daemon.paused("main"), monkeypatch.context() as patch:
            patch.setattr(limits, "CALL_SECONDS", 0.5)
            begin = time.monotonic()
            with pytest.raises(cairn.Unavailable):
                checkpointer.restore({}, timeout=0.5)
            assert time.monotonic() - begin < 10
        back(checkpointer)
        into = {"a": torch.zeros(1000)}
        assert checkpointer.restore(into) == 1
        assert into["a"].all()
