"""What a hostile client does: raw sockets of another user, and a good client that must not notice."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any

import pytest
import torch
from machine import NOBODY, anonymous_bytes, descriptors, until
from real_daemon import Daemon, Raw

PR_SET_DUMPABLE = 4
DATA = ctypes.create_string_buffer(b"x" * 4096, 4096)
ADDRESS = ctypes.addressof(DATA)
MiB = 1 << 20


@contextlib.contextmanager
def another_user() -> Iterator[None]:
    """Sockets that are connected meanwhile belong to a user without any right, as the kernel tells the daemon."""
    if os.getuid() != 0:
        pytest.skip("only root can be two users")
    os.setegid(NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)  # the change of user took it away, and with it what /proc shows


def hostile(daemon: Daemon) -> Raw:
    with another_user():
        return connected(daemon)


def connected(daemon: Daemon) -> Raw:
    """When the queue of connections is full, some are taken before long."""
    while True:
        with contextlib.suppress(BlockingIOError):
            return daemon.raw()
        time.sleep(0.01)


class Session(Raw):
    """A raw socket that has opened a session."""

    token: str


def opened(daemon: Daemon, run: str = "hostile", **options: Any) -> Session:
    with another_user():
        raw = Session(daemon.socket)
    reply = raw.call("Open", **{"run": run, "rank": 0, "worldSize": 1, "attempt": os.urandom(8).hex()} | options)
    assert "error" not in reply, reply
    raw.token = reply["parameters"]["session"]
    return raw


def shard(name: str = "a", **options: Any) -> dict[str, Any]:
    made: dict[str, Any] = {"name": name, "dtype": "F32", "shape": [4], "source": {"memory": [{"address": ADDRESS, "bytes": 16}]}}
    return made | options


def message(method: str, **parameters: Any) -> bytes:
    if "." not in method:
        method = "dev.cairn.Checkpoint." + method
    return json.dumps({"method": method, "parameters": parameters}).encode() + b"\0"


def attach(daemon: Daemon, given: list[int], **parameters: Any) -> dict[str, Any] | None:
    """What the stager's socket answers to an Attach with these descriptors; None: it closed."""
    with another_user():
        peer = Raw(daemon.socket + ".memory")
    try:
        with contextlib.suppress(BrokenPipeError):
            socket.send_fds(peer.socket, [message("Attach", **parameters)], given)
        return peer.receive()
    finally:
        peer.close()


def save(raw: Raw, step: int, shards: list[dict[str, Any]], objects: list[dict[str, Any]] | None = None) -> tuple[str, str]:
    """How a save of these ends: its level and reason, or `refused` and the error's name."""
    reply = raw.call("Register", shards=shards)
    if "error" not in reply:
        reply = raw.call("Save", step=step, **{"try": 1}, layout=reply["parameters"]["layout"], objects=objects or [])
    if "error" in reply:
        return "refused", reply["error"].rpartition(".")[2] + " " + str(reply.get("parameters", {}).get("reason", ""))
    ended = raw.call("Wait", save=reply["parameters"]["save"], level="committed", timeoutMs=30_000)["parameters"]
    return ended["level"], ended.get("reason") or ""


def closed(raws: Sequence[Raw]) -> None:
    for raw in raws:
        raw.close()


class Neighbour:
    """A good client that saves all the time. Each save must be committed, and at the end the daemon must be the same processes as
    before, and as large."""

    # What an allocator keeps after a flood; a leak of what the tests send is far more.
    SLACK_BYTES = 64 * MiB
    # While it lasts: the daemon's limit for one user's messages here is 8 MiB, and parsed they take several times as much.
    PEAK_BYTES = 256 * MiB

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.saves = 0
        self.peak = 0
        self._ended = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run)

    def _pids(self) -> dict[str, int]:
        return {"main": self.daemon.pid} | self.daemon.workers()

    def _run(self) -> None:
        state = {"a": torch.ones(100_000), "step": 0}
        try:
            with self.daemon.open("neighbour") as checkpointer:
                while not self._ended.is_set():
                    step = self.saves + 1
                    state["step"] = step
                    checkpointer.save(step, state).wait("committed", timeout=60)
                    checkpointer.check_for_errors()
                    self.saves = step
                    self.peak = max(self.peak, anonymous_bytes(list(self._before.values())))
                    self._ended.wait(0.05)
        except BaseException as failure:  # raised where the test can see it
            self._failure = failure

    def __enter__(self) -> Neighbour:
        until("the workers have their names", lambda: {"stager", "local"} <= set(self._pids()))
        self._before = self._pids()
        self._thread.start()
        until("the neighbour saves", lambda: self.saves >= 3 or self._failure)
        self.files = {role: descriptors(pid) for role, pid in self._before.items()}
        self.bytes = anonymous_bytes(list(self._before.values()))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        reached = self.saves
        until("the neighbour goes on saving", lambda: self.saves > reached + 1 or self._failure, 60)
        if kind is None and self._failure is None:
            until("its files are closed", lambda: {r: descriptors(p) for r, p in self._before.items()} == self.files)
            until("its memory is given back", lambda: anonymous_bytes(list(self._before.values())) < self.bytes + self.SLACK_BYTES)
        self._ended.set()
        self._thread.join(60)
        if self._failure is not None:
            raise AssertionError(f"the neighbour's save {self.saves + 1} failed") from self._failure
        if kind is None:
            assert self._pids() == self._before, "a process of the daemon ended"
            assert self.peak < self.bytes + self.PEAK_BYTES, f"{self.peak} bytes at most, {self.bytes} before"
            print(f"neighbour: {self.saves} saves; daemon: {self.bytes >> 20} MiB before, {self.peak >> 20} at most")


def open_files() -> int:
    """How many files this process may still open, with some to spare."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard - descriptors(os.getpid()) - 200
