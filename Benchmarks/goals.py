"""What Cairn is to reach, each as a ratio of figures of one run: the one place of the goals.

A sample is formed of rows of the same round. `m` in a title is one memcpy of the state.
"""

from __future__ import annotations

import operator
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from results import Row, Rows
from subjects import DCP_ASYNC

MIB = 1 << 20
LEAST_LOST = 0.02
"""Memcpys: less than this cannot be told from none, so a peer's loss is divided by this at least."""
COMPARE = {"<": operator.lt, "<=": operator.le, ">=": operator.ge}
Samples = Callable[[Rows], list[float]]


@dataclass(frozen=True)
class Goal:
    """``samples``: one figure a repeat; ``compare`` and ``bound``: how its median must stand to be met."""

    title: str
    compare: str
    bound: float
    unit: str
    samples: Samples

    def met(self, median: float) -> bool:
        return bool(COMPARE[self.compare](median, self.bound))


def by_round(rows: Rows, above: Row, below: Row) -> Iterator[tuple[Row, Row]]:
    """Rows of ``above`` with those of ``below`` of the same round; where that has none, its last before."""
    found = {row["round"]: row for row in rows.where(**below) if "failed" not in row}
    for row in rows.where(**above):
        earlier = [round for round in found if round <= row["round"]]
        if "failed" not in row and earlier:
            yield row, found[max(earlier)]


def speed(measure: str, since: str, until: str, limit: str, subject: str = "cairn", **where: Any) -> Samples:
    """Bytes per second from one level to another, over the limit."""

    def samples(rows: Rows) -> list[float]:
        pairs = by_round(rows, {"measure": measure, "subject": subject, **where}, {"measure": measure, "subject": "limits"})
        return [row["bytes"] / (row[until] - row.get(since, 0.0)) / limits[limit] for row, limits in pairs if until in row]

    return samples


def memcpys(row: Row, limits: Row) -> float:
    """What a save cost the trainer, in memcpys of the state. A synchronous one costs its call."""
    return float(row.get("lost", row["call"]) * limits["memcpy"] / row["bytes"])


def lost(work: str, subject: str = "cairn") -> Samples:
    def samples(rows: Rows) -> list[float]:
        kind = work if rows.where(measure="saves", subject=subject, work=work) else "idle"
        pairs = by_round(rows, {"measure": "saves", "subject": subject, "work": kind}, {"measure": "saves", "subject": "limits"})
        return [memcpys(row, limits) for row, limits in pairs]

    return samples


def least_of_peers(rows: Rows, samples: Callable[[str], list[float]], peers: list[str]) -> tuple[str, float] | None:
    """The peer with the smallest median, and that."""
    found = [(statistics.median(values), name) for name in peers if (values := samples(name))]
    return (min(found)[1], min(found)[0]) if found else None


def peers_lose_more(work: str) -> Samples:
    def samples(rows: Rows) -> list[float]:
        names = sorted({row["subject"] for row in rows.where(measure="saves")} - {"cairn", "limits"})
        best = least_of_peers(rows, lambda name: lost(work, name)(rows), names)
        return [best[1] / max(each, LEAST_LOST) for each in lost(work)(rows)] if best is not None else []

    return samples


def dcp_blocks_longer(rows: Rows) -> list[float]:
    """DCP's shorter of its two ways, by round and work, over Cairn's."""
    found = []
    for row in rows.where(measure="saves", subject="cairn"):
        if row["work"] in ("launch", "matmul"):
            same = {"measure": "saves", "work": row["work"], "round": row["round"]}
            theirs = [value for name in DCP_ASYNC for value in rows.values("blocked", subject=name, **same)]
            found += [min(theirs) / row["blocked"]] if theirs else []
    return found


def held(subject: str) -> Samples:
    """Durable while the trainer holds the GIL, over durable beside an idle trainer."""

    def samples(rows: Rows) -> list[float]:
        base = {"measure": "saves", "subject": subject}
        pairs = by_round(rows, base | {"work": "python"}, base | {"work": "idle"})
        return [row["durable"] / idle["durable"] for row, idle in pairs]

    return samples


def dcp_takes_longer(key: str) -> Samples:
    """With 20,000 tensors (or the most that were measured below)."""

    def samples(rows: Rows) -> list[float]:
        found = []
        for row in rows.where(measure="tiny", subject="cairn"):
            same = {"measure": "tiny", "tensors": row.get("tensors"), "round": row["round"]}
            theirs = [value for name in ("dcp.save", *DCP_ASYNC) for value in rows.values(key, subject=name, **same)]
            found += [min(theirs) / row[key]] if theirs else []
        return found

    return samples


def safetensors_takes(rows: Rows) -> list[float]:
    base = {"measure": "restores", "kind": "cold"}
    pairs = by_round(rows, base | {"subject": "cairn"}, base | {"subject": "safetensors"})
    return [theirs["loaded"] / row["loaded"] for row, theirs in pairs]


def of(key: str, factor: float = 1.0, /, **where: Any) -> Samples:
    return lambda rows: [value * factor for value in rows.values(key, **where)]


def per_byte(key: str, factor: float = 1.0, /, **where: Any) -> Samples:
    return lambda rows: [row[key] / row["bytes"] * factor for row in rows.where(**where) if key in row]


def calls(rows: Rows) -> list[float]:
    return [1000 * value for measure in ("saves", "sizes") for value in rows.values("call", measure=measure, subject="cairn")]


def many_calls(rows: Rows) -> list[float]:
    counts = sorted({row["tensors"] for row in rows.where(measure="tiny") if "tensors" in row})
    return of("call", 1000, measure="tiny", subject="cairn", tensors=counts[0])(rows) if counts else []


ours: dict[str, Any] = {"subject": "cairn"}
GOALS = (
    Goal("save() call, 400 lazy tensors of any size", "<", 1.0, "ms", calls),
    Goal("save() call, 20,000 tensors", "<", 10.0, "ms", many_calls),
    Goal("call + fence, 0.5 s of compute between: DCP's best over Cairn", ">=", 100, "x", dcp_blocks_longer),
    Goal("lost to a save, launch-bound step", "<=", 0.2, "m", lost("launch")),
    Goal("lost to a save, matmul step", "<=", 0.2, "m", lost("matmul")),
    Goal("lost, launch-bound step: best peer over Cairn", ">=", 15, "x", peers_lose_more("launch")),
    Goal("lost, matmul step: best peer over Cairn", ">=", 4, "x", peers_lose_more("matmul")),
    Goal("durable while the GIL is held, over an idle trainer", "<=", 1.1, "x", held("cairn")),
    Goal("throughput with a save every 10 s, Python-bound step", ">=", 99, "%",
         of("relative", 100, measure="throughput", work="python", **ours)),
    Goal("throughput with a save every 10 s, matmul on all cores", ">=", 97, "%",
         of("relative", 100, measure="throughput", work="matmul", **ours)),
    Goal("staging, over memcpy", ">=", 0.8, "x", speed("saves", "accepted", "staged", "memcpy", work="idle")),
    Goal("local durable from accepted, over fio write", ">=", 0.9, "x", speed("saves", "accepted", "local", "write", work="idle")),
    Goal("committed on both tiers of one drive, over fio write", ">=", 0.45, "x",
         speed("saves", "accepted", "committed", "write", work="idle")),
    Goal("committed on a global tier with the drive to itself, over fio write", ">=", 0.9, "x",
         speed("one tier", "accepted", "committed", "write", "cairn, global tier alone")),
    Goal("cold restore, same sharding, over fio read", ">=", 0.9, "x", speed("restores", "", "loaded", "read", kind="cold")),
    Goal("cold restore, other sharding, over fio read", ">=", 0.9, "x", speed("sharded", "", "loaded", "read")),
    Goal("cold restore: safetensors (mmap) over Cairn", ">=", 1.0, "x", safetensors_takes),
    Goal("restore from memory, over memcpy", ">=", 0.8, "x", speed("restores", "", "loaded", "memcpy", kind="memory")),
    Goal("20,000 tensors of 1 KiB, durable: DCP over Cairn", ">=", 20, "x", dcp_takes_longer("durable")),
    Goal("20,000 tensors of 1 KiB, restored: DCP over Cairn", ">=", 20, "x", dcp_takes_longer("loaded")),
    Goal("CPU seconds per GB saved to both tiers", "<=", 0.3, "s", per_byte("cpu", 1e9, measure="saves", work="idle", **ours)),
    Goal("extra memory while saving, pool included, over the state", "<=", 1.0, "x", per_byte("extra", measure="memory", **ours)),
    Goal("pool of a quarter of the state: local durable over fio write", ">=", 0.9, "x",
         speed("one tier", "accepted", "local", "write", "cairn, a quarter's pool")),
    Goal("daemon's memory beyond the pool", "<=", 64, "MiB", of("own", 1 / MIB, measure="daemon")),
    Goal("idle daemon, of one core", "<=", 0.0, "%", of("idle", 100, measure="daemon")),
    Goal("daemon answers after its start, pool of 4 GiB", "<", 1.0, "s", of("ready", measure="daemon")),
)  # fmt: skip
