"""What a restore into another sharding reads: the blocks that hold wanted bytes, and hardly any other."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from in_process import Job
from layouts import Part, cut, local
from real_daemon import Cluster, Daemon, until

import cairn

pytestmark = pytest.mark.daemon

SIDE = 1024
"""Of a square matrix of F32, saved by four ranks."""
SIZE = 4 * SIDE * SIDE
BLOCK = 256 << 10
GAP = 2
"""Blocks between two that are wanted: so many are read along."""


@dataclass(frozen=True)
class Wanted:
    """A box of the matrix; with one offset, a range of its elements."""

    offsets: tuple[int, ...]
    shape: tuple[int, ...]

    def of(self, matrix: torch.Tensor) -> torch.Tensor:
        return cut(matrix.reshape(-1) if len(self.shape) == 1 else matrix, self.offsets, self.shape)

    def leaf(self, memory: torch.Tensor) -> Any:
        if len(self.shape) == 1:
            return cairn.FlatShard(memory, (SIDE, SIDE), self.offsets[0])
        return Part(memory, (SIDE, SIDE), self.offsets)


HALF, QUARTER, THIRD = SIDE // 2, SIDE // 4, SIDE * SIDE // 3

SAVED: dict[str, Callable[[int], Wanted]] = {
    "rows": lambda rank: Wanted((rank * QUARTER, 0), (QUARTER, SIDE)),
    "columns": lambda rank: Wanted((0, rank * QUARTER), (SIDE, QUARTER)),
    "2x2": lambda rank: Wanted((rank // 2 * HALF, rank % 2 * HALF), (HALF, HALF)),
    "ranges": lambda rank: Wanted((rank * SIDE * QUARTER,), (SIDE * QUARTER,)),
}

WANTED = {
    "the whole": Wanted((0, 0), (SIDE, SIDE)),
    "rows, 1 of 4": Wanted((QUARTER, 0), (QUARTER, SIDE)),
    "range, 1 of 3": Wanted((THIRD,), (THIRD,)),
    "columns, 1 of 4": Wanted((0, QUARTER), (SIDE, QUARTER)),
    "2x2, the last": Wanted((HALF, HALF), (HALF, HALF)),
    "one row": Wanted((77, 0), (1, SIDE)),
}


def allowed(how: str, wanted: Wanted) -> int:
    """Bytes of the blocks that have to be read, counted element by element. A file's data begins behind its header, so where a block
    begins is not known here: each file may need one more, and gaps are read along."""
    numbers = torch.arange(SIDE * SIDE).reshape(SIDE, SIDE)
    chosen = torch.zeros(SIDE * SIDE, dtype=torch.bool)
    chosen[wanted.of(numbers).reshape(-1)] = True
    found = 0
    for rank in range(4):
        blocks = chosen[SAVED[how](rank).of(numbers).reshape(-1)].reshape(-1, BLOCK // 4).any(1).nonzero().reshape(-1).tolist()
        if blocks:
            found += len(blocks) + 1
            found += sum(after - before - 1 for before, after in itertools.pairwise(blocks) if after - before - 1 <= GAP)
    return found * BLOCK


def bytes_read(pid: int) -> int:
    """What a process has got from read calls, as the kernel counts it."""
    return int(next(line for line in Path(f"/proc/{pid}/io").read_text().splitlines() if line.startswith("rchar")).split()[1])


def loaded_bytes(daemon: Daemon) -> int:
    """What the daemon has handed to ranks, as it counts it."""
    raw = daemon.raw()
    text = str(raw.call("dev.cairn.Operations.Metrics")["parameters"]["text"])
    raw.close()
    return sum(int(float(line.split()[-1])) for line in text.splitlines() if line.startswith("cairn_loaded_bytes_total{"))


def test_no_more_is_read_than_blocks_with_wanted_bytes(cluster: Cluster, parts: None) -> None:
    # Threads that use pread: what io_uring reads is in no count of the kernel's.
    daemon = cluster.daemon(io="threads", direct="off", retention="{local: {keep: 9}}")
    matrix = torch.arange(SIDE * SIDE, dtype=torch.int32).reshape(SIDE, SIDE)
    with Job(daemon, 4, shared=True) as job:
        for step, place in enumerate(SAVED.values(), start=1):
            job.commit(step, lambda rank, place=place: {"w": place(rank).leaf(place(rank).of(matrix))})  # type: ignore[misc]
    daemon.stop()  # so that nothing is served from memory
    daemon.start()
    until(lambda: "local" in daemon.workers())
    worker = daemon.workers()["local"]
    table: dict[str, list[str]] = {name: [] for name in SAVED}
    with daemon.open(world_size=1) as checkpointer:

        def cost(state: dict[str, Any], step: int) -> tuple[int, int]:
            before = bytes_read(worker), loaded_bytes(daemon)
            assert checkpointer.restore(state, step, names={}) == step
            return bytes_read(worker) - before[0], loaded_bytes(daemon) - before[1]

        for step, how in enumerate(SAVED, start=1):
            cost({}, step)
            base = cost({}, step)  # what any restore of this step reads, once the layout is known
            for name, wanted in WANTED.items():
                memory = torch.zeros(wanted.shape, dtype=torch.int32)
                read, handed = (total - other for total, other in zip(cost({"w": wanted.leaf(memory)}, step), base, strict=True))
                assert torch.equal(memory, wanted.of(matrix)), (how, name)
                assert handed == memory.nbytes
                most = allowed(how, wanted) + 4096  # and what wakes the worker's threads
                assert read <= most, f"{how} -> {name}: {read} bytes were read for {memory.nbytes}, {most} are allowed"
                table[how].append(f"{read / (1 << 20):.2f}")
    where = os.environ.get("CAIRN_WRITE_READS")
    if where:
        head = [f"{name} ({local(wanted.of(matrix)).nbytes / (1 << 20):.3g})" for name, wanted in WANTED.items()]
        rows = [["saved by four as ↓, wanted →", *head], ["---"] * (len(head) + 1), *([how, *row] for how, row in table.items())]
        Path(where).write_text("".join(f"| {' | '.join(row)} |\n" for row in rows))
