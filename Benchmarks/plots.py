"""A run in pictures, as SVG: bench-blocked, -slowdown, -stages and -scaling. Bars reach the median, their lines least and most."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
from goals import lost
from results import Rows, Spread, spread

matplotlib.use("svg")
import matplotlib.pyplot as plt

MIB = 1 << 20
OURS, PEER, LIMIT = "#1f6f8b", "#b0b7bd", "#e0a458"
LINES = (("blocked", "call + fence"), ("call", "save() call"), ("staged", "staged"), ("local", "local durable"),
         ("committed", "committed"), ("loaded", "restored from memory"), ("cold", "restored cold"))  # fmt: skip
FLOOR = 0.01
"""Memcpys, the least that a logarithmic axis shows: a loss that is smaller, or negative by noise, is drawn as this."""


def draw(record: dict[str, Any], folder: Path) -> list[Path]:
    """Those plots for which there are rows; the paths written."""
    rows = Rows(record["rows"])
    folder.mkdir(parents=True, exist_ok=True)
    plt.rcParams.update({"svg.hashsalt": "bench", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    written = []
    for name, make in (("blocked", blocked), ("slowdown", slowdown), ("stages", stages), ("scaling", scaling)):
        figure = make(rows)
        if figure is not None:
            path = folder / f"bench-{name}.svg"
            figure.tight_layout()
            figure.savefig(path, metadata={"Date": None})
            plt.close(figure)
            written.append(path)
    return written


def names(rows: Rows) -> list[str]:
    return list(dict.fromkeys(row["subject"] for row in rows.where(measure="saves") if row["subject"] != "limits"))


def bars(axis: Any, found: dict[str, Spread], colours: list[str], *, floor: float = 0.0) -> None:
    labels = list(found)
    medians = [max(floor, found[label].median) for label in labels]
    below = [median - max(floor, min(median, found[label].least)) for label, median in zip(labels, medians, strict=True)]
    above = [max(0.0, found[label].most - median) for label, median in zip(labels, medians, strict=True)]
    axis.barh(labels, medians, xerr=(below, above), color=colours, ecolor="#444444", capsize=2)
    axis.invert_yaxis()


def colour(name: str) -> str:
    return OURS if name == "cairn" else PEER


def blocked(rows: Rows) -> Any:
    """save() and the fence, where the next step takes half a second."""

    def values(name: str) -> list[float]:
        work = "launch" if rows.where(measure="saves", subject=name, work="launch") else "idle"
        return [value * 1000 for value in rows.values("blocked", measure="saves", subject=name, work=work)]

    return of_subjects(rows, {"save() + fence, ms": values}, "How long a save holds the trainer up", floor=0.01)


def slowdown(rows: Rows) -> Any:
    works = {"launch-bound step": "launch", "matmul on all cores": "matmul"}
    columns = {f"{title}: lost, in memcpys of the state": losses(rows, work) for title, work in works.items()}
    return of_subjects(rows, columns, "All that training loses to one save", floor=FLOOR)


def losses(rows: Rows, work: str) -> Callable[[str], list[float]]:
    return lambda name: lost(work, name)(rows)


def of_subjects(rows: Rows, columns: dict[str, Callable[[str], list[float]]], title: str, *, floor: float) -> Any:
    found = {
        column: {name: at for name in names(rows) if (at := spread(values(name))) is not None} for column, values in columns.items()
    }
    if not any(found.values()):
        return None
    figure, axes = plt.subplots(1, len(found), figsize=(4.5 * len(found) + 1.5, 3.2), squeeze=False)
    for axis, (column, spreads) in zip(axes[0], found.items(), strict=True):
        bars(axis, spreads, [colour(name) for name in spreads], floor=floor)
        axis.set_xscale("log")
        axis.set_xlim(left=floor)
        axis.set_xlabel(column)
    figure.suptitle(title)
    return figure


def stages(rows: Rows) -> Any:
    """GB/s of each stage beside the limit that it has."""

    def through(measure: str, since: str, until: str, **where: Any) -> list[float]:
        return [row["bytes"] / (row[until] - row.get(since, 0.0)) / 1e9
                for row in rows.where(measure=measure, subject="cairn", **where) if until in row]  # fmt: skip

    groups: dict[str, tuple[list[float], str]] = {
        "memcpy": ([value / 1e9 for value in rows.values("memcpy", subject="limits")], LIMIT),
        "staging": (through("saves", "accepted", "staged", work="idle"), OURS),
        "restore from memory": (through("restores", "", "loaded", kind="memory"), OURS),
        "fio write": ([value / 1e9 for value in rows.values("write", subject="limits")], LIMIT),
        "local durable": (through("saves", "accepted", "local", work="idle"), OURS),
        "committed (two copies)": (through("saves", "accepted", "committed", work="idle"), OURS),
        "fio read": ([value / 1e9 for value in rows.values("read", subject="limits")], LIMIT),
        "cold restore": (through("restores", "", "loaded", kind="cold"), OURS),
        "cold, other sharding": (through("sharded", "", "loaded"), OURS),
    }
    found = {name: at for name, (values, _) in groups.items() if (at := spread(values)) is not None}
    if not found:
        return None
    figure, axis = plt.subplots(figsize=(6, 3.4))
    bars(axis, found, [groups[name][1] for name in found])
    axis.set_xlabel("GB/s")
    figure.suptitle("Throughput of each stage, and the limits")
    return figure


def scaling(rows: Rows) -> Any:
    panels = [panel for panel in (("sizes", "bytes", "MiB", MIB), ("counts", "tensors", "tensors of the same bytes in all", 1),
                                  ("ranks", "ranks", "ranks, the same bytes in all", 1), ("steps", "round", "step, each saved", 1))
              if rows.where(measure=panel[0], subject="cairn")]  # fmt: skip
    if not panels:
        return None
    figure, axes = plt.subplots(1, len(panels), figsize=(3.3 * len(panels) + 0.5, 3.2), squeeze=False)
    for axis, (measure, by, label, unit) in zip(axes[0], panels, strict=True):
        for index, (key, title) in enumerate(LINES):
            if key == "blocked" and measure != "steps":
                continue
            points: dict[float, list[float]] = {}
            for row in rows.where(measure=measure, subject="cairn"):
                if key in row:
                    points.setdefault(row[by] / unit, []).append(row[key])
            middles = [(at, found.median) for at, values in sorted(points.items()) if (found := spread(values)) is not None]
            if middles:
                axis.plot(
                    *zip(*middles, strict=True),
                    label=title,
                    color=f"C{index}",
                    linewidth=1,
                    marker="." if measure != "steps" else None,
                )
        if measure == "steps":
            axis.set_title("call + fence", fontsize=8)
        else:
            axis.set_xscale("log", base=2 if measure != "counts" else 10)
        axis.set_yscale("log")
        axis.set_xlabel(label)
    first: Any = axes[0][0]
    first.set_ylabel("seconds")
    first.legend(fontsize=7, loc="upper left", framealpha=0.8)
    figure.suptitle("How Cairn scales")
    return figure
