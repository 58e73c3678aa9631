"""Memory that outlives the daemon: the pool in a service manager's descriptor store, taken up by the next process. The manager
here is the test (service_manager.py); under a real systemd the same runs in test_systemd.py."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from jobs import check, state
from machine import cli, status, steps, tier, until
from real_daemon import Cluster, Daemon
from service_manager import Manager

MIB = 1 << 20


@pytest.fixture
def managed(cluster: Cluster) -> Iterator[Manager]:
    daemon = cluster.daemon(tiers=2)
    daemon.stop()
    manager = Manager(daemon)
    manager.start()
    yield manager
    daemon.stop()
    manager.close()


def said(daemon: Daemon, text: str) -> bool:
    return text in daemon.log.read_text()


def slots_of(manager: Manager, step: int) -> list[int]:
    """Where in the pool's first segment the blocks of tensor t0 of ``step`` begin, by their content."""
    segment = manager.memory("cairn-pool")[0]
    wanted = state(step, 1)["t0"][:16].tobytes()
    size = os.fstat(segment).st_size
    return [at for at in range(0, size, 4096) if os.pread(segment, 64, at) == wanted]


def test_what_was_staged_is_flushed_by_the_next_process_and_futures_resolve(managed: Manager) -> None:
    daemon = managed.daemon
    with daemon.open() as checkpointer:
        checkpointer.save(1, state(1)).wait("committed", timeout=20)
        with daemon.paused("local", "global"):
            save = checkpointer.save(2, state(2), metadata={"loss": "0.5"})
            save.wait("staged", timeout=20)
            managed.kill()
        begin = time.monotonic()
        managed.start()
        reached = save.wait("committed", timeout=30)
        print(f"committed {time.monotonic() - begin:.2f} s after the start")
        assert reached.step == 2
        assert said(daemon, "took up 2 parts of saves")
        checkpointer.save(3, state(3)).wait("committed", timeout=20)
    assert steps(daemon) == [1, 2, 3]
    assert json.loads(cli(daemon, "show", "run", "2", "--json"))["metadata"] == {"loss": "0.5"}
    cli(daemon, "verify", "run", timeout=60)
    check(daemon, 3)


def test_a_restore_is_served_from_the_memory_of_the_former_process(managed: Manager) -> None:
    daemon = managed.daemon
    with daemon.open() as checkpointer:
        checkpointer.save(1, state(1)).wait("committed", timeout=20)
        save = checkpointer.save(2, state(2), level="memory")
        save.wait("staged", timeout=20)
    managed.kill()
    managed.start()
    # Neither tier has step 2 at all.
    into = state(0)
    with daemon.open() as checkpointer:
        assert checkpointer.restore(into) == 2
    for name, expected in state(2).items():
        assert np.array_equal(into[name], expected), name
    assert loaded(daemon)["memory"] >= 16 * MIB
    # The committed one too, in the process after that.
    managed.kill()
    managed.start()
    with daemon.open() as checkpointer:
        assert checkpointer.restore(into, step=1) == 1
    assert np.array_equal(into["t3"], state(1)["t3"])
    assert set(loaded(daemon)) == {"memory"}


def loaded(daemon: Daemon) -> dict[str, int]:
    """Bytes that restores got, by tier."""
    text = cli(daemon, "metrics")
    lines = [line for line in text.splitlines() if line.startswith("cairn_loaded_bytes") and "tier=" in line]
    found = {line.split('tier="')[1].split('"')[0]: int(float(line.split()[-1])) for line in lines}
    return {name: count for name, count in found.items() if count}


def test_a_flipped_byte_is_refused_and_never_flushed(managed: Manager) -> None:
    daemon = managed.daemon
    with daemon.open() as checkpointer:
        checkpointer.save(1, state(1)).wait("committed", timeout=20)
        with daemon.paused("local", "global"):
            save = checkpointer.save(2, state(2))
            save.wait("staged", timeout=20)
            managed.kill()
        at = slots_of(managed, 2)[0]
        segment = managed.memory("cairn-pool")[0]
        byte = os.pread(segment, 1, at + 5)
        os.pwrite(segment, bytes([byte[0] ^ 1]), at + 5)
        managed.start()
        until("it is refused", lambda: said(daemon, "is not taken up: CRC32C"))
        with pytest.raises(Exception, match=r"does not know it any more|void"):
            save.wait("committed", timeout=30)
        assert said(daemon, "took up 1 parts")
        checkpointer.save(3, state(3)).wait("committed", timeout=20)
    assert steps(daemon) == [1, 3]
    assert not list(daemon.tier.rglob("*1-2-1*/*.safetensors"))


HARMS = ["a torn index", "another version", "no index", "a missing segment", "another pool", "a stuck stager"]


@pytest.mark.parametrize("harm", HARMS)
def test_an_index_that_does_not_prove_itself_is_not_believed(managed: Manager, harm: str) -> None:
    daemon = managed.daemon
    with daemon.open() as checkpointer:
        checkpointer.save(1, state(1), level="memory").wait("staged", timeout=20)
    stuck = daemon.workers()["stager"]
    (index,) = managed.memory("cairn-index")
    reason = {
        "a torn index": "wrong checksum", "another version": "version 9",
        "no index": "FileDescriptorStoreMax=", "a missing segment": "segments are missing",
        "another pool": "the configuration now says", "a stuck stager": "stager (process",
    }[harm]  # fmt: skip
    if harm == "a stuck stager":
        # A process that cannot end, as one is that hangs in the kernel: here it holds the lock in the stager's place.
        managed.kill()
        holder = hold_byte(index, 1)
    else:
        managed.kill()
        holder = None
    if harm == "a torn index":
        os.pwrite(index, b"\xff", 30)
    elif harm == "another version":
        os.pwrite(index, b"\x09", 8)
    elif harm == "no index":
        managed.stored = [one for one in managed.stored if one[0] != "cairn-index"]
    elif harm == "a missing segment":
        managed.stored = [one for one in managed.stored if one[0] != "cairn-pool"]
    elif harm == "another pool":
        daemon.config.write_text(daemon.config.read_text().replace("size: 256MiB", "size: 128MiB"))
    begin = time.monotonic()
    managed.start()
    until("it says why", lambda: said(daemon, "the memory of the former process is not taken up: "), seconds=10)
    line = next(line for line in daemon.log.read_text().splitlines() if "is not taken up" in line)
    assert reason in line, line
    until("it is ready", lambda: any("READY=1" in state for state in managed.states[-3:]), seconds=10)
    print(f"{harm}: ready {time.monotonic() - begin:.2f} s after the start")
    assert not said(daemon, "took up")
    with daemon.open() as checkpointer:
        checkpointer.save(2, state(2)).wait("committed", timeout=20)
    if holder is not None:
        os.close(holder)
    assert stuck != daemon.workers()["stager"]
    # What was stored is replaced: the next process takes up this one's.
    managed.kill()
    managed.start()
    until("it takes up", lambda: said(daemon, "took up 1 parts"))


def hold_byte(memory: int, byte: int) -> int:
    """A child that holds a lock on this byte until the pipe that is given back is closed."""
    readable, writable = os.pipe()
    ready, tell = os.pipe()
    if os.fork() == 0:
        try:
            os.close(writable)
            fcntl.lockf(memory, fcntl.LOCK_EX, 1, byte)
            os.write(tell, b".")
            os.read(readable, 1)
        finally:
            os._exit(0)
    os.close(readable)
    assert os.read(ready, 1) == b"."
    os.close(ready)
    os.close(tell)
    return writable


def test_an_orderly_restart_keeps_what_hangs_and_takes_seconds(managed: Manager) -> None:
    daemon = managed.daemon
    with daemon.open() as checkpointer:
        checkpointer.save(1, state(1)).wait("committed", timeout=20)
        paused = daemon.paused("local", "global")
        save = checkpointer.save(2, state(2))
        save.wait("staged", timeout=20)
        begin = time.monotonic()
        daemon.stop()
        paused.resume()
        managed.start()
        until("it serves again", lambda: status(daemon))
        print(f"serving again {time.monotonic() - begin:.2f} s after the stop was asked for")
        assert time.monotonic() - begin < 15
        save.wait("committed", timeout=30)
    check(daemon, 2)


def test_a_tier_that_a_stuck_worker_still_holds_is_waited_for(managed: Manager) -> None:
    """The former process's local worker hangs in the kernel, and with it its lock on the folder."""
    daemon = managed.daemon
    with daemon.open() as checkpointer:
        checkpointer.save(1, state(1), level="memory").wait("staged", timeout=20)
    managed.kill()
    with (daemon.local / ".cairnd.lock").open("r+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        managed.start()
        until("it is ready", lambda: any("READY=1" in state for state in managed.states[-3:]), seconds=10)
        assert tier(daemon, "local")["state"] != "up"
        check(daemon, 1)
    with daemon.open() as checkpointer:
        checkpointer.save(2, state(2)).wait("committed", timeout=40)


def test_a_plain_daemon_keeps_nothing(cluster: Cluster, folder: Path) -> None:
    daemon = cluster.daemon()
    with daemon.open() as checkpointer:
        checkpointer.save(1, state(1)).wait("committed", timeout=20)
    opened = []
    for one in Path(f"/proc/{daemon.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            opened.append(os.readlink(one))
    assert opened
    assert not any("cairn-index" in one for one in opened)
    daemon.stop()
    daemon.start()
    check(daemon, 1)
    assert not said(daemon, "took up")
