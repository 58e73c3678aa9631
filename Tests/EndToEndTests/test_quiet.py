"""What a daemon takes when nothing is to be done, and what clients cannot make it take."""

from __future__ import annotations

import json
import os
import resource
import socket
import time

from jobs import MIB, check, check_small, small, state
from machine import anonymous_bytes, cpu_seconds, descriptors, living, status, until
from real_daemon import Cluster, Raw

MEMORY_BYTES = 64 * MIB


def test_an_idle_daemon_uses_no_processor(cluster: Cluster) -> None:
    daemon = cluster.daemon(tiers=2)
    with daemon.open() as checkpointer:
        checkpointer.save(1, state(1)).wait("committed", timeout=20)
        until("it is done", lambda: status(daemon)["saves"] == [])
        until("the pool is filled", lambda: status(daemon)["pool"]["filledBytes"] == 256 * MIB)
        # Its client stays connected, and watches.
        pids = living(daemon.pid)
        assert len(pids) == 4
        before = cpu_seconds(pids)
        time.sleep(3)
        assert cpu_seconds(pids) - before <= 0.03


def test_memory_does_not_grow_with_saves(cluster: Cluster) -> None:
    daemon = cluster.daemon(tiers=2, retention="{local: {keep: 2}, global: {keep: 3}}")
    used = []
    with daemon.open() as checkpointer:
        for part in range(3):
            for step in range(part * 20 + 1, part * 20 + 21):
                checkpointer.save(step, small(step)).wait("committed", timeout=20)
            used.append(anonymous_bytes(living(daemon.pid)))
        assert used[2] < MEMORY_BYTES, [count // MIB for count in used]
        assert used[2] - used[1] < 4 * MIB, [count // MIB for count in used]
        until("retention keeps three", lambda: len(checkpointer.all_steps()) == 3)
        session = daemon.pid
        open_files = [descriptors(pid) for pid in living(session)]
        for step in range(100, 110):
            checkpointer.save(step, small(step)).wait("committed", timeout=20)
        assert sum(descriptors(pid) for pid in living(session)) <= sum(open_files) + 8
    check_small(daemon, 109)


def test_memory_does_not_grow_with_sessions_and_restores(cluster: Cluster) -> None:
    daemon = cluster.daemon(tiers=2)
    with daemon.open() as checkpointer:
        checkpointer.save(1, small(1)).wait("committed", timeout=20)
    used = []
    for _ in range(3):
        for _ in range(8):
            check_small(daemon, 1)
        used.append(anonymous_bytes(living(daemon.pid)))
    assert used[2] < MEMORY_BYTES, [count // MIB for count in used]
    assert used[2] - used[1] < 4 * MIB, [count // MIB for count in used]
    assert status(daemon)["sessions"]["count"] == 0


def test_a_watcher_that_does_not_read_holds_up_nobody(cluster: Cluster) -> None:
    daemon = cluster.daemon(tiers=2)
    watchers = []
    for _ in range(20):
        watcher = socket.socket(socket.AF_UNIX)
        watcher.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        watcher.connect(daemon.socket)
        watcher.sendall(json.dumps({"method": "dev.cairn.Operations.Watch", "parameters": {}, "more": True}).encode() + b"\0")
        watchers.append(watcher)
    with daemon.open() as checkpointer:
        for step in range(1, 60):
            checkpointer.save(step, small(step, 20)).wait("committed", timeout=20)
        begin = time.monotonic()
        status(daemon)
        assert time.monotonic() - begin < 3
        assert anonymous_bytes(living(daemon.pid)) < MEMORY_BYTES
    for watcher in watchers:
        watcher.close()


def test_five_hundred_connections_are_served_and_forgotten(cluster: Cluster) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 2000:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(2000, hard), hard))
    daemon = cluster.daemon()
    before = descriptors(daemon.pid)
    many = [Raw(daemon.socket) for _ in range(500)]
    for one in many:
        one.send(b'{"method":"org.varlink.service.GetInfo"}\0')
    for one in many:
        reply = one.receive()
        assert reply is not None
        assert "dev.cairn.Checkpoint" in reply["parameters"]["interfaces"]
    with daemon.open() as checkpointer:
        checkpointer.save(1, state(1)).wait("committed", timeout=20)
    begin = time.monotonic()
    status(daemon)
    assert time.monotonic() - begin < 3
    for one in many[::2]:
        one.send(b'{"method":"org.varl')  # and never the rest
    for one in many:
        one.close()
    until("their descriptors are closed", lambda: descriptors(daemon.pid) <= before + 2)
    assert anonymous_bytes(living(daemon.pid)) < MEMORY_BYTES
    check(daemon, 1)


def test_half_sent_and_endless_messages_are_bounded(cluster: Cluster) -> None:
    daemon = cluster.daemon()
    flood = Raw(daemon.socket)
    try:
        for _ in range(200):
            flood.send(b"x" * MIB)
        closed = flood.receive() is None
    except OSError:
        closed = True
    assert closed, "a message without an end"
    flood.close()
    assert anonymous_bytes(living(daemon.pid)) < MEMORY_BYTES
    assert os.path.exists(daemon.socket)
    with daemon.open() as checkpointer:
        checkpointer.save(1, state(1)).wait("committed", timeout=20)
