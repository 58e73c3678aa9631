"""A run in words: the goals with what was measured, and for each measurement a table of the subjects."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

from goals import GOALS, held, lost
from results import Row, Rows, Spread, spread

MIB = 1 << 20
Cell = Callable[[Rows, str], list[float]]


def show(record: dict[str, Any]) -> None:
    print(text(record))


def text(record: dict[str, Any]) -> str:
    rows = Rows(record["rows"])
    parts = [head(record, rows), goals(rows), *tables(rows)]
    failures = [f"{subject} ({measure}): {why}" for (measure, subject), why in sorted(rows.failures().items())]
    if failures:
        parts.append("Failed or left out:\n" + "\n".join(f"  {line}" for line in failures))
    return "\n\n".join(part for part in parts if part)


def head(record: dict[str, Any], rows: Rows) -> str:
    machine = record["machine"]
    lines = [
        f"{record['date']}: {machine['cpu']}, {machine['cores']} cores, {machine['memoryBytes'] / 2**30:.0f} GiB,"
        f" Linux {machine['kernel']}, huge pages: {machine['hugePages']}; load {record['load'][0]:.1f}"
        f" at the start, {record['loadAtEnd'][0]:.1f} at the end; {record['seconds']['all'] / 60:.1f} minutes",
        *(f"fio {name}: {how}" for name, how in record["drive"].items()),
    ]
    for name, unit in (("memcpy", "GB/s"), ("write", "GB/s by fio"), ("read", "GB/s by fio")):
        found = spread([value / 1e9 for value in rows.values(name, subject="limits")])
        lines += [f"{name}: {figure(found, unit)}"] if found else []
    if record["load"][0] > machine["cores"] / 2:
        lines.append("The machine was busy with other work: figures are noise, and only large ratios say something.")
    if record["quick"]:
        lines.append("A quick run: states are too small for the goals to mean much.")
    return "\n".join(lines)


def figure(found: Spread, unit: str) -> str:
    return f"{short(found.median)} {unit} ({short(found.least)}-{short(found.most)}, {found.repeats})"


def short(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def markdown(record: dict[str, Any]) -> str:
    """The head and the goals for Docs/performance.md, the tables as they are printed."""
    rows = Rows(record["rows"])
    table = ["| " + " | ".join(row) + " |" for row in judged(rows)]
    table.insert(1, "|---|---|---|---|---|---|")
    others = "\n\n".join(part for part in tables(rows) if part)
    return (
        f"    {head(record, rows)}\n\n".replace("\n", "\n    ").rstrip()
        + "\n\n"
        + "\n".join(table)
        + f"\n\n```text\n{others}\n```\n"
    )


def goals(rows: Rows) -> str:
    return "Goals (m: one memcpy of the state)\n" + aligned(judged(rows))


def judged(rows: Rows) -> list[list[str]]:
    table = [["goal", "bound", "median", "min - max", "repeats", "verdict"]]
    for goal in GOALS:
        found = spread(goal.samples(rows))
        bound = f"{goal.compare} {short(goal.bound)} {goal.unit}"
        if found is None:
            table.append([goal.title, bound, "-", "-", "0", "not measured"])
        else:
            verdict = "met" if goal.met(found.median) else "MISSED"
            ends = f"{short(found.least)} - {short(found.most)}"
            table.append([goal.title, bound, short(found.median), ends, str(found.repeats), verdict])
    return table


def tables(rows: Rows) -> list[str]:
    return [
        subjects(rows, "saves", "Saves of one state. Blocked: call + fence, a step between. Lost: in memcpys. Else idle.", {
            "call ms": seconds("saves", "call", 1000, work="idle"), "blocked ms": blocked,
            "lost launch": losses("launch"), "lost matmul": losses("matmul"),
            "staged s": seconds("saves", "staged", work="idle"), "durable s": seconds("saves", "durable", work="idle"),
            "durable/fio": over_fio, "GIL held x": lambda rows, name: held(name)(rows),
            "CPU s/GB": per_byte("saves", "cpu", 1e9, work="idle"),
        }),
        subjects(rows, "throughput", "Throughput with a save every 10 s of compute, of that without", {
            "Python-bound %": seconds("throughput", "relative", 100, work="python"),
            "matmul %": seconds("throughput", "relative", 100, work="matmul"),
        }),
        subjects(rows, "restores", "Restores into the state's own tensors, seconds", {
            "from memory": seconds("restores", "loaded", kind="memory"), "cold": seconds("restores", "loaded", kind="cold"),
            "cold, saved by 2 ranks": seconds("sharded", "loaded"),
        }),
        *(subjects(rows, "tiny", f"{count:,} tensors of 1 KiB, seconds", {
            "call ms": seconds("tiny", "call", 1000, tensors=count), "durable": seconds("tiny", "durable", tensors=count),
            "restored": seconds("tiny", "loaded", tensors=count),
        }) for count in sorted({row["tensors"] for row in rows.where(measure="tiny") if "tensors" in row})),
        subjects(rows, "memory", "Extra memory at the peak of a save, of the state (Cairn: its pool, and what the trainer took)", {
            "extra": per_byte("memory", "extra", 1.0),
        }),
        *curves(rows),
    ]  # fmt: skip


def seconds(measure: str, key: str, factor: float = 1.0, **where: Any) -> Cell:
    return lambda rows, name: [value * factor for value in rows.values(key, measure=measure, subject=name, **where)]


def per_byte(measure: str, key: str, factor: float, **where: Any) -> Cell:
    return lambda rows, name: [
        row[key] / row["bytes"] * factor for row in rows.where(measure=measure, subject=name, **where) if key in row
    ]


def losses(work: str) -> Cell:
    return lambda rows, name: lost(work, name)(rows)


def blocked(rows: Rows, name: str) -> list[float]:
    work = "launch" if rows.where(measure="saves", subject=name, work="launch") else "idle"
    return [value * 1000 for value in rows.values("blocked", measure="saves", subject=name, work=work)]


def over_fio(rows: Rows, name: str) -> list[float]:
    writes = {row["round"]: row["write"] for row in rows.where(measure="saves", subject="limits")}
    return [row["bytes"] / row["durable"] / writes[row["round"]]
            for row in rows.where(measure="saves", subject=name, work="idle") if row["round"] in writes]  # fmt: skip


def subjects(rows: Rows, measure: str, title: str, columns: dict[str, Cell]) -> str:
    """A row for each subject that gave any figure; nothing where none did."""
    names = list(dict.fromkeys(row["subject"] for row in rows.where(measure=measure) if row["subject"] != "limits"))
    table = [["", *columns]]
    for name in names:
        cells = [spread(cell(rows, name)) for cell in columns.values()]
        if any(cells):
            table.append([name, *(short(found.median) if found else "-" for found in cells)])
    return f"{title} (medians)\n{aligned(table)}" if len(table) > 1 else ""


def curves(rows: Rows) -> list[str]:
    """Cairn alone, over bytes, tensors, ranks and steps kept."""
    found = []
    for measure, by, title in (("sizes", "bytes", "bytes"), ("counts", "tensors", "tensors"), ("ranks", "ranks", "ranks at once")):
        table = [[title, "MiB", "call ms", "staged s", "local s", "committed s", "GB/s local", "from memory s", "cold s"]]
        for value in sorted({row[by] for row in rows.where(measure=measure, subject="cairn")}):
            same = rows.where(measure=measure, subject="cairn", **{by: value})
            size = same[0]["bytes"]
            local = usual(same, "local")
            table.append([
                f"{value / MIB:.0f} MiB" if by == "bytes" else f"{value:,}", f"{size / MIB:.0f}",
                *(cell(usual(same, key), 1000 if key == "call" else 1) for key in ("call", "staged", "local", "committed")),
                cell(size / local / 1e9 if local else None), cell(usual(same, "loaded")), cell(usual(same, "cold")),
            ])  # fmt: skip
        if len(table) > 1:
            found.append(f"Cairn over {title} (medians)\n{aligned(table)}")
    steps = [row["blocked"] * 1000 for row in rows.where(measure="steps")]
    if steps:
        some = max(1, len(steps) // 5)
        first, last = statistics.median(steps[:some]), statistics.median(steps[-some:])
        found.append(f"A save every step, {len(steps)} steps: blocked {short(first)} ms in the first {some} (median),"
                     f" {short(last)} ms in the last {some}, {short(max(steps))} ms at most")  # fmt: skip
    return found


def usual(rows: list[Row], key: str) -> float | None:
    values = [row[key] for row in rows if key in row]
    return statistics.median(values) if values else None


def cell(value: float | None, factor: float = 1.0) -> str:
    return "-" if value is None else short(value * factor)


def aligned(table: list[list[str]]) -> str:
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    lines = ["  ".join(text.ljust(width) if not index else text.rjust(width)
                       for index, (text, width) in enumerate(zip(row, widths, strict=True))) for row in table]  # fmt: skip
    return "\n".join(f"  {line.rstrip()}" for line in lines)
