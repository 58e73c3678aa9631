"""Tiers of each kind, tiers that are full, and files whose bytes are not what was staged."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jobs import check, state, with_global, with_paths
from machine import Mounts, cli, committed, status, steps, until
from real_daemon import Cluster, Daemon

import cairn

BLOCK = 256 << 10
MODES: dict[str, dict[str, Any]] = {
    "io threads": {"io": "threads"},
    "direct off": {"direct": "off"},
    "threads and direct off": {"io": "threads", "direct": "off"},
    "memory descriptor": {"environment": {"CAIRN_FORCE_MEMORY_DESCRIPTOR": "1"}},
    "unlocked pool": {"lock": False},
}


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_saves_restores_and_verifies(cluster: Cluster, mode: str) -> None:
    options = dict(MODES[mode])
    lock = options.pop("lock", True)
    daemon = cluster.daemon(tiers=2, **options)
    if not lock:
        daemon.stop()
        daemon.config.write_text(daemon.config.read_text().replace("chunk: 8MiB", "chunk: 8MiB, lock: false"))
        daemon.start()
        assert status(daemon)["pool"]["lockedBytes"] == 0
    with daemon.open() as checkpointer:
        checkpointer.save(1, state(1, 40)).wait("committed", timeout=30)
    found = {worker["role"]: worker for worker in status(daemon)["workers"]}
    assert found["local"]["io"] == ("threads" if options.get("io") == "threads" else found["global"]["io"])
    if options.get("direct") == "off":
        assert found["local"]["direct"] is False
    check(daemon, 1, 40)
    daemon.stop()
    daemon.start()
    check(daemon, 1, 40)
    assert cli(daemon, "verify", "run").count("every block is good") >= 1


def test_a_tmpfs_is_a_tier_like_others(cluster: Cluster, mounts: Mounts) -> None:
    daemon = with_global(cluster.daemon(tiers=2), mounts.tmpfs("200m") / "cairn")
    try:
        with daemon.open() as checkpointer:
            checkpointer.save(1, state(1, 40)).wait("committed", timeout=30)
        daemon.stop()
        daemon.start()
        check(daemon, 1, 40)
    finally:
        daemon.stop()


def test_files_are_spread_over_several_local_folders(cluster: Cluster, folder: Path) -> None:
    paths = [folder / name for name in ("a", "b", "c")]
    daemon = with_paths(cluster.daemon(tiers=2), paths)
    for number in range(1, 9):
        with daemon.open(f"run{number}") as checkpointer:
            checkpointer.save(number, state(number, 4)).wait("committed", timeout=30)
    held = [len(list(path.glob("*/*/*.safetensors"))) for path in paths]
    assert sum(held) == 8
    assert sum(count > 0 for count in held) >= 2, held
    daemon.stop()
    # Without the global tier's copies a restore must find them.
    assert daemon.shared is not None
    for file in daemon.shared.glob("*/*/step-*/*.safetensors"):
        file.unlink()
    daemon.start()
    for number in range(1, 9):
        with daemon.open(f"run{number}") as checkpointer:
            into = state(0, 4)
            assert checkpointer.restore(into) == number
            assert np.array_equal(into["t3"], state(number, 4)["t3"])
        assert "every block is good" in cli(daemon, "verify", f"run{number}", "--tier", "local")


def test_a_state_larger_than_the_pool_reaches_both_tiers(cluster: Cluster) -> None:
    """The global tier gets what left the pool from the local one's file."""
    daemon = cluster.daemon(tiers=2, pool="128MiB")
    with daemon.open() as checkpointer:
        checkpointer.save(1, state(1, 400), lazy=True).wait("committed", timeout=60)
    check(daemon, 1, 400)
    out = cli(daemon, "verify", "run", "--tier", "global") + cli(daemon, "verify", "run", "--tier", "local")
    assert out.count("every block is good") == 2
    assert status(daemon)["pool"]["needed"] == 0


def used(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def test_a_full_tier_fails_saves_and_recovers_once_there_is_space(cluster: Cluster, mounts: Mounts) -> None:
    where = mounts.tmpfs("100m")
    daemon = with_paths(cluster.daemon(tiers=1), [where / "cairn"])
    ballast = where / "ballast"
    ballast.write_bytes(b"x" * (80 << 20))
    try:
        with daemon.open() as checkpointer:
            with pytest.raises(cairn.CheckpointFailed) as failed:
                checkpointer.save(1, state(1, 40)).wait("committed", timeout=30)
            assert f"no space on '{where / 'cairn'}': 19 MiB are free, 41 MiB are needed" in str(failed.value)
            ballast.unlink()
            checkpointer.save(2, state(2, 40)).wait("committed", timeout=30)
            assert steps(daemon) == [2]
        check(daemon, 2, 40)
        assert status(daemon)["pool"]["needed"] == 0
        until("what the failed tries had written is gone", lambda: used(where) < 45 << 20)
    finally:
        daemon.stop()


def test_a_full_global_tier_is_waited_for(cluster: Cluster, mounts: Mounts) -> None:
    """The local tier goes on, status says why, a stop does not wait, and all is committed once there is space."""
    where = mounts.tmpfs("100m")
    daemon = with_global(cluster.daemon(tiers=2), where / "cairn")
    ballast = where / "ballast"
    ballast.write_bytes(b"x" * (80 << 20))
    try:
        with daemon.open() as checkpointer:
            save = checkpointer.save(1, state(1, 40))
            save.wait("local", timeout=30)
            until("status says why", lambda: "no space on" in cli(daemon, "status"))
            begin = time.monotonic()
            assert daemon.stop() == 0
            assert time.monotonic() - begin < 8
            daemon.start()
            checkpointer._link.wait_for_session(20)
            checkpointer.save(2, state(2, 40)).wait("local", timeout=30)
            assert steps(daemon) == []
            ballast.unlink()
            committed(daemon, [1, 2])
        check(daemon, 2, 40)
    finally:
        daemon.stop()


def flip(file: Path, block: int) -> None:
    with file.open("r+b") as opened:
        opened.seek(block * BLOCK + 1000)
        byte = opened.read(1)
        opened.seek(block * BLOCK + 1000)
        opened.write(bytes([byte[0] ^ 0x10]))


def files(daemon: Daemon, tier: str, step: int) -> list[Path]:
    if tier == "global":
        assert daemon.shared is not None
        return list(daemon.shared.glob(f"*/run/step-{step}.*/*.safetensors"))
    return [file for file in daemon.local.glob("*/run/*.safetensors") if f"-{step}-" in file.name]


@pytest.fixture
def two_steps(cluster: Cluster) -> Daemon:
    daemon = cluster.daemon(tiers=2)
    with daemon.open() as checkpointer:
        for step in (1, 2):
            checkpointer.save(step, state(step)).wait("committed", timeout=30)
    # Nothing is served from memory after a restart.
    daemon.stop()
    return daemon.start()


def test_a_flipped_byte_on_the_local_tier_costs_nothing(two_steps: Daemon) -> None:
    daemon = two_steps
    (file,) = files(daemon, "local", 2)
    flip(file, 7)
    check(daemon, 2)
    text = cli(daemon, "verify", "run", "--tier", "local", code=1)
    assert str(file) in text
    assert " 7 " in text
    assert "every block is good" in cli(daemon, "verify", "run", "--tier", "global")
    assert "block 7" in daemon.log.read_text() or "local tier" in daemon.log.read_text()


def test_a_flipped_byte_on_both_tiers_gives_the_older_step(two_steps: Daemon) -> None:
    daemon = two_steps
    for name, block in (("local", 7), ("global", 9)):
        (file,) = files(daemon, name, 2)
        flip(file, block)
    check(daemon, 1)
    found = json.loads(cli(daemon, "verify", "run", "2", "--tier", "global", "--json", code=1))
    assert [(bad["path"], bad["block"]) for bad in found["bad"]] == [(str(file), 9)]


def test_a_torn_file_is_not_restored(two_steps: Daemon) -> None:
    daemon = two_steps
    for name in ("local", "global"):
        (file,) = files(daemon, name, 2)
        with file.open("r+b") as opened:
            opened.truncate(file.stat().st_size - 5 * BLOCK)
    check(daemon, 1)
    cli(daemon, "verify", "run", "2", "--tier", "global", code=1)


def test_records_that_are_damaged_make_the_older_step_the_newest(two_steps: Daemon) -> None:
    daemon = two_steps
    assert daemon.shared is not None
    # The commit stands twice: one of them is enough.
    (copy,) = daemon.shared.glob("*/run/step-2.*/checkpoint.json")
    (decision,) = daemon.shared.glob("*/run/attempts/*/*-2-1.json")
    copy.write_bytes(copy.read_bytes().replace(b"2", b"3", 1))
    check(daemon, 2)
    assert str(copy) in cli(daemon, "verify", "run", "2", code=1)
    decision.write_bytes(decision.read_bytes().replace(b"2", b"3", 1))
    for file in files(daemon, "local", 2):
        file.unlink()
    daemon.stop()
    daemon.start()
    begin = time.monotonic()
    check(daemon, 1)
    assert time.monotonic() - begin < 20
