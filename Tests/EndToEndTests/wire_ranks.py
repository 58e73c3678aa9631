"""Ranks in the words of the wire: a job of two that holds a tensor in parts, and restores it in the same parts or in others."""

from __future__ import annotations

import ctypes
import itertools
import json
import mmap
import os
import random
import secrets
import socket
from dataclasses import dataclass, field
from typing import Any

from real_daemon import Daemon

ROWS, COLUMNS = 300, 1024
"""Of one rank's part of `weight`: with its header a file has two blocks."""
LEASE = 1 << 20


def content(run: str, step: int, name: str, count: int) -> bytes:
    """What a run's tensor holds at a step: no two are alike."""
    return random.Random(f"{run} {step} {name}").randbytes(count)


def weight(run: str, step: int) -> bytes:
    return content(run, step, "weight", 2 * ROWS * COLUMNS)


class Refused(Exception):
    """A call's typed error."""

    def __init__(self, reply: dict[str, Any]) -> None:
        self.name = str(reply["error"]).rpartition(".")[2]
        self.parameters: dict[str, Any] = reply.get("parameters") or {}
        super().__init__(f"{self.name} {self.parameters}")


class WireRank:
    """One rank's session; calls are sent and answered one after the other."""

    def __init__(self, daemon: Daemon, run: str, rank: int, world: int, attempt: str, *, origin: str = "", here: int = 0) -> None:
        """``origin``: the run whose bytes these are, of a branch; ``here``: how many ranks this daemon serves, if not all."""
        self.run, self.rank, self.world = origin or run, rank, world
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(30)
        self._socket.connect(daemon.socket)
        self._buffer = b""
        self._memory: mmap.mmap | None = None
        self._kept: list[Any] = []
        self.send("Open", run=run, rank=rank, worldSize=world, localWorldSize=here or world, attempt=attempt)

    def send(self, method: str, **parameters: Any) -> None:
        message = {"method": f"dev.cairn.Checkpoint.{method}", "parameters": parameters}
        self._socket.sendall(json.dumps(message).encode() + b"\0")

    def receive(self) -> dict[str, Any]:
        """The next reply's parameters; a descriptor that comes along is the lease."""
        while b"\0" not in self._buffer:
            data, descriptors, _, _ = socket.recv_fds(self._socket, 1 << 16, 1)
            assert data, "the daemon closed the connection"
            for descriptor in descriptors:
                self._memory = mmap.mmap(descriptor, LEASE)
                os.close(descriptor)
            self._buffer += data
        message, _, self._buffer = self._buffer.partition(b"\0")
        reply = json.loads(message)
        if "error" in reply:
            raise Refused(reply)
        parameters: dict[str, Any] = reply["parameters"]
        return parameters

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self.send(method, **parameters)
        return self.receive()

    def close(self) -> None:
        self._socket.close()

    def _source(self, data: bytes) -> dict[str, Any]:
        buffer = ctypes.create_string_buffer(data, len(data))
        self._kept.append(buffer)
        return {"memory": [{"address": ctypes.addressof(buffer), "bytes": len(data)}]}

    def save(self, step: int) -> None:
        """A part of `weight`, a tensor of its own, an object of its own and one that all ranks share."""
        part = weight(self.run, step)[self.rank * ROWS * COLUMNS : (self.rank + 1) * ROWS * COLUMNS]
        own, note = self._own(step)
        shards = [
            {"name": "weight", "dtype": "U8", "shape": [ROWS, COLUMNS], "globalShape": [2 * ROWS, COLUMNS],
             "offsets": [self.rank * ROWS, 0], "source": self._source(part)},
            {"name": "own", "dtype": "U8", "shape": [len(own)], "private": True, "source": self._source(own)},
        ]  # fmt: skip
        layout = self.call("Register", shards=shards)["layout"]
        objects = [
            {"name": "note", "scope": "rank", "bytes": len(note), "source": self._source(note)},
            {"name": "shared", "scope": "shared", "bytes": 8, "source": self._source(content(self.run, step, "shared", 8))},
        ]
        self.send("Save", step=step, **{"try": 1}, layout=layout, objects=objects)

    def _own(self, step: int) -> tuple[bytes, bytes]:
        return content(self.run, step, f"own {self.rank}", 1000), content(self.run, step, f"note {self.rank}", 10)

    def load(self, step: int, sequence: int) -> str:
        """All that this rank holds of a step, compared byte by byte; the tier that it came from."""
        if self._memory is None:
            self.call("Lease", bytes=LEASE)
        boxes, expected = self._held(step)
        loaded = self.call("Load", step=step, sequence=sequence, boxes=boxes)
        found = self._placed(loaded["placed"], boxes, [len(data) for data in expected])
        for box, got, want in zip(boxes, found, expected, strict=True):
            assert got == want, (
                f"WRONG BYTES: {self.run} step {step} rank {self.rank} of {self.world}: {box} of tier {loaded['tier']}"
            )
        return str(loaded["tier"])

    def _held(self, step: int) -> tuple[list[dict[str, Any]], list[bytes]]:
        """Boxes to ask for, and what must be in them. A world of one holds all of `weight`."""
        rows, first = (ROWS, self.rank * ROWS) if self.world == 2 else (2 * ROWS, 0)
        cuts = [0, COLUMNS] if self.world == 2 else [0, COLUMNS // 3, COLUMNS]
        whole = weight(self.run, step)
        boxes: list[dict[str, Any]] = []
        expected = []
        for begin, end in itertools.pairwise(cuts):
            boxes.append({"name": "weight", "offsets": [first, begin], "shape": [rows, end - begin]})
            expected.append(b"".join(whole[row * COLUMNS + begin : row * COLUMNS + end] for row in range(first, first + rows)))
        boxes += [{"name": "own", "rank": self.rank}, {"name": "note", "rank": self.rank}, {"name": "shared", "rank": 0}]
        return boxes, [*expected, *self._own(step), content(self.run, step, "shared", 8)]

    def _placed(self, pieces: list[dict[str, Any]], boxes: list[dict[str, Any]], sizes: list[int]) -> list[bytes]:
        """The bytes of each box; its pieces come in order."""
        assert self._memory is not None
        found = [b""] * len(boxes)
        for piece in pieces:
            at = next(i for i, box in enumerate(boxes) if box["name"] == piece["name"] and len(found[i]) < sizes[i])
            assert piece["begin"] == len(found[at]), piece
            found[at] += self._memory[piece["offset"] : piece["offset"] + piece["bytes"]]
        return found


def save_steps(daemon: Daemon, run: str, steps: list[int]) -> None:
    """Both ranks save each step until it is committed."""
    ranks = open_all(daemon, run, 2)
    for step in steps:
        for rank in ranks:
            rank.save(step)
        saves = [rank.receive()["save"] for rank in ranks]
        for rank, save in zip(ranks, saves, strict=True):
            assert rank.call("Wait", save=save, level="committed", timeoutMs=30_000)["level"] == "committed"
    for rank in ranks:
        rank.close()


def open_all(daemon: Daemon, run: str, world: int, attempt: str | None = None, origin: str = "") -> list[WireRank]:
    attempt = attempt or secrets.token_hex(8)
    ranks = [WireRank(daemon, run, rank, world, attempt, origin=origin) for rank in range(world)]
    for rank in ranks:
        rank.receive()
    return ranks


@dataclass
class Restored:
    """How a launch's restore ended: the step that all ranks have, or the error that says why there is none."""

    step: int | None = None
    error: str = ""
    tiers: set[str] = field(default_factory=set)
    refusals: list[str] = field(default_factory=list)


def restore(
    daemon: Daemon, run: str, world: int = 2, attempt: str | None = None, first: int = 1, origin: str = ""
) -> Restored:
    """A launch restores as the Python client does: what one rank cannot load, all leave for an older step."""
    done = Restored()
    ranks: list[WireRank] = []
    try:
        ranks = open_all(daemon, run, world, attempt, origin)
        for number in range(first, first + 8):
            for rank in ranks:
                rank.send("Choose", restore=number, timeoutMs=20_000)
            chosen = [rank.receive() for rank in ranks]
            assert all(choice == chosen[0] for choice in chosen), f"I12: {chosen}"
            oks = []
            for rank in ranks:
                try:
                    done.tiers.add(rank.load(**chosen[0]))
                    oks.append(True)
                except Refused as refused:
                    done.refusals.append(str(refused))
                    oks.append(False)
            for rank, ok in zip(ranks, oks, strict=True):
                rank.send("Settle", restore=number, ok=ok)
            again = [rank.receive()["again"] for rank in ranks]
            assert again == [not all(oks)] * len(ranks), f"I12: {oks} {again}"
            if all(oks):
                done.step = chosen[0]["step"]
                return done
        done.error = "no end"
    except (Refused, TimeoutError) as refused:
        done.error = str(refused)
    finally:
        for rank in ranks:
            rank.close()
    return done
