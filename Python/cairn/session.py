"""One session with the daemon: the connections that belong to it, and the leases that restores read through.

`calls` is the session socket: when it is hung up, the daemon says staged of nothing any more. `watch` streams events, `loads`
answers restores and questions, since replies on one connection come in order.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import sys
import threading
import time
from dataclasses import dataclass
from typing import Any

from . import errors, limits
from .wire import CHECKPOINT, Connection

PR_SET_PTRACER = 0x59616D61


@dataclass(frozen=True)
class Who:
    """Which rank of which launch of which run this process is."""

    run: str
    rank: int
    world_size: int
    local_rank: int | None
    local_world_size: int | None
    attempt: str


class Lease:
    """A segment of shared memory that the daemon fills. ``address`` is valid until close()."""

    def __init__(self, segment: int, count: int, descriptor: int) -> None:
        self.segment = segment
        self.bytes = count
        try:
            flags = mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0)  # the pages are there: map them at once
            self._map = mmap.mmap(descriptor, count, flags, mmap.PROT_READ | mmap.PROT_WRITE)
        finally:
            os.close(descriptor)
        self._anchor: Any = ctypes.c_char.from_buffer(self._map)
        self.address = ctypes.addressof(self._anchor)
        self.pinned = False
        """For a GPU's copies; see streams.pin."""

    def close(self) -> None:
        if self.pinned:
            self.pinned = False
            sys.modules["torch"].cuda.cudart().cudaHostUnregister(self.address)
        self._anchor = None
        with contextlib.suppress(BufferError):  # someone still looks at it: the garbage collector unmaps it later
            self._map.close()


class Session:
    """Open connections to the daemon. Broken ones are never repaired: the session is shut and another one opened."""

    def __init__(self, path: str, who: Who, number: int | None = None, *, reads_only: bool = False) -> None:
        """``reads_only``: of no launch, for what is committed; ``who`` says which rank's own parts are wanted."""
        self.path = path
        self.who = who
        self.number = number
        self._reads_only = reads_only
        self.calls_lock = threading.Lock()
        self.loads_lock = threading.Lock()
        self.puts_lock = threading.Lock()
        self.leases: list[Lease] = []
        self._open: list[Connection] = []
        self._is_shut = False

    def open(self) -> None:
        """Connect, open the session and attach its further connections. Another thread may end that by ``hang_up``.

        Raises:
            Unavailable: no daemon answers. WireError: it refuses (RankTaken, AttemptEnded, NotPermitted, ...).
        """
        path, who = self.path, self.who
        try:
            self.calls = self._connect(path)
            if not self._reads_only:
                _permit_reading(self.calls.peer_pid())
            reply = self.calls.call(
                CHECKPOINT + "Open",
                {
                    "run": who.run,
                    "rank": who.rank,
                    "worldSize": who.world_size,
                    "localRank": who.local_rank,
                    "localWorldSize": who.local_world_size,
                    **({"readOnly": True} if self._reads_only else {"attempt": who.attempt, "number": self.number}),
                },
                timeout=limits.OPEN_SECONDS,
            )
            try:
                self.id = str(reply["session"])
                self.node = str(reply["node"])
                self.limits: dict[str, int] = {str(key): int(value) for key, value in reply["limits"].items()}
                wants_memory = bool(reply["memory"])
            except (KeyError, TypeError, ValueError, AttributeError) as failure:
                raise errors.ProtocolError(f"Open answered {reply!r}") from failure
            self.calls.message_bytes = self.limits.get("messageBytes")
            if wants_memory:
                self._pass_memory(path)
            self.loads = self.attach()
            if self._reads_only:
                return
            self.watch = self.attach()
            self.watch.send(CHECKPOINT + "Watch", {"run": who.run, "rank": who.rank}, more=True)
        except BaseException:
            self.shut()
            raise

    @property
    def fence_seconds(self) -> float:
        return self.limits.get("fenceMs", int(limits.FENCE_SECONDS * 1000)) / 1000

    def hurry(self, save: str) -> None:
        """Say that this rank waits until ``save`` is staged, so that it is copied at normal priority. Only a wish: what breaks is
        seen by whoever waits."""
        if self.calls_lock.acquire(blocking=False):
            try:
                with contextlib.suppress(errors.CairnError):
                    wait = {"save": save, "level": "staged", "timeoutMs": int(self.fence_seconds * 1000)}
                    self.calls.send(CHECKPOINT + "Wait", wait, oneway=True, timeout=limits.CONNECT_SECONDS)
            finally:
                self.calls_lock.release()

    def close(self) -> None:
        """Give back the leases, say that the session ends, and shut it."""
        with contextlib.suppress(errors.CairnError, OSError):
            self.give_back_leases()
            with self.calls_lock:
                self.calls.call(CHECKPOINT + "Close", {}, timeout=limits.CONNECT_SECONDS)
        self.shut()

    def load_call(self, method: str, parameters: dict[str, Any], *, timeout: float = limits.CALL_SECONDS) -> dict[str, Any]:
        """A call on the connection for loads and questions."""
        with self.loads_lock:
            return self.loads.call(CHECKPOINT + method, parameters, timeout=timeout)

    def take_leases(self, count: int, wanted: int, into: list[Lease] | None = None) -> list[Lease]:
        """Up to ``count`` leases, of ``wanted`` bytes or less where other ranks have most of what the daemon lends; ``into``: the
        list that has them, by default that of the restore's.

        Raises:
            TooLarge: the daemon lends nothing for longer than a call may take, and the list has none.
        """
        taken: list[Lease] = []
        into = self.leases if into is None else into
        deadline = time.monotonic() + limits.CALL_SECONDS
        while len(taken) < count:
            try:
                lease = self._lease(wanted)
                taken.append(lease)
                into.append(lease)
            except errors.TooLarge as refusal:
                left = int(refusal.parameters.get("limit", 0)) // limits.LEASE_ALIGNMENT * limits.LEASE_ALIGNMENT
                if limits.LEAST_LEASE_BYTES <= left < wanted:
                    wanted = left
                elif into:
                    break
                elif time.monotonic() > deadline:
                    raise
                else:
                    time.sleep(limits.LEASE_RETRY_SECONDS)
        return taken

    def give_back_leases(self) -> None:
        """Release them: the daemon's memory is for staging between restores."""
        leases, self.leases = self.leases, []
        for lease in leases:
            lease.close()
            with contextlib.suppress(errors.CairnError):
                self.load_call("Release", {"segment": lease.segment})

    def attach(self) -> Connection:
        """A further connection of this session."""
        connection = self._connect(self.path)
        connection.call(CHECKPOINT + "Attach", {"session": self.id}, timeout=limits.CONNECT_SECONDS)
        connection.message_bytes = self.calls.message_bytes
        return connection

    def is_hung_up(self) -> bool:
        return self._is_shut or self.calls.is_hung_up()

    def hang_up(self) -> None:
        """End the session at once, from any thread: its socket first, for the daemon looks at that before it says staged."""
        self._is_shut = True
        for connection in list(self._open):
            connection.shutdown()

    def shut(self) -> None:
        """Hang up, wait until no other thread uses the connections, and close them. Leases belong to their restore."""
        self.hang_up()
        with self.calls_lock, self.loads_lock, self.puts_lock:
            self.forget()

    def forget(self) -> None:
        """Close this process's descriptors, without a word to the daemon: for a forked child."""
        for connection in self._open:
            connection.close()

    def _connect(self, path: str) -> Connection:
        connection = Connection(path)
        self._open.append(connection)
        if self._is_shut:  # between the two lines above, or before them
            connection.shutdown()
        return connection

    def _lease(self, count: int) -> Lease:
        with self.loads_lock:
            reply = self.loads.call(CHECKPOINT + "Lease", {"bytes": count})
            descriptors = self.loads.take_descriptors()
        if len(descriptors) != 1:
            for descriptor in descriptors:
                os.close(descriptor)
            raise errors.ProtocolError(f"a lease came with {len(descriptors)} descriptors instead of one")
        return Lease(int(reply["segment"]), int(reply["bytes"]), descriptors[0])

    def _pass_memory(self, path: str) -> None:
        """Hand the stager a read-only descriptor of this process's memory: a capability, so that it needs no privilege."""
        descriptor = os.open("/proc/self/mem", os.O_RDONLY | os.O_CLOEXEC)
        try:
            connection = self._connect(path + ".memory")
            connection.call(
                CHECKPOINT + "Attach",
                {"session": self.id, "memory": 0},
                timeout=limits.CONNECT_SECONDS,
                descriptors=[descriptor],
            )
        finally:
            os.close(descriptor)


def _permit_reading(pid: int) -> None:
    """Under Yama, let the daemon and its workers read this process's memory. Without Yama this does nothing."""
    if pid > 0:
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PTRACER, ctypes.c_ulong(pid), 0, 0, 0)
