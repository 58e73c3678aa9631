"""Cairn beside torch.distributed.checkpoint, on the same state, in the same run, by turns.

For each: how long the call blocked the trainer, how long the fence did, how much slower the step's work was meanwhile,
and when the bytes were on the drive (fsync counted); then restores. Units beside seconds: one memcpy of the state, and
what fio writes and reads with O_DIRECT. Figures of a shared machine are noisy: read the ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from daemon import Daemon
from machine import fio_bytes_per_second, memcpy_seconds
from subjects import CairnSubject, DCPSubject, Row, State, Work

CASES = {"large": (400, (1024, 655), 3), "small": (20_000, (256,), 1)}
WORK_SECONDS = 1.0


def make_state(count: int, shape: tuple[int, ...]) -> State:
    generator = torch.Generator().manual_seed(17)
    return {f"layers.{index}.weight": torch.randn(shape, generator=generator) for index in range(count)}


def make_work() -> Work:
    """A launch-bound step: many small operations from Python, as long as WORK_SECONDS on an idle machine."""
    matrix = torch.randn(64, 64)

    def some(count: int) -> tuple[float, float]:
        began, own = time.perf_counter(), time.thread_time()
        value = matrix
        for _ in range(count):
            value = torch.tanh(value @ matrix)
        return time.perf_counter() - began, time.thread_time() - own

    some(1000)
    count = int(5000 * WORK_SECONDS / some(5000)[0])
    return lambda: some(count)


def median(rows: list[Row], key: str) -> float:
    return statistics.median(row[key] for row in rows)


def run_case(name: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    count, shape, rounds = CASES[name]
    rounds = options.rounds or rounds
    state = make_state(count, shape)
    tensors = list(state.values())
    size = sum(tensor.nbytes for tensor in tensors)
    copies = [torch.zeros_like(tensor) for tensor in tensors]
    work = make_work()
    print(f"\n{name}: {count} tensors, {size / 2**30:.2f} GiB, {rounds} round(s), step's work {work()[0]:.2f} s alone", flush=True)

    memcpys: list[float] = []
    alone: list[float] = []
    writes: list[float] = []
    reads: list[float] = []
    results: dict[str, Any] = {}
    with (
        Daemon(options.binaries, folder / f"{name}-two", tiers=2, pool=options.pool) as two,
        Daemon(options.binaries, folder / f"{name}-one", tiers=1, pool=options.pool) as one,
    ):
        subjects: list[CairnSubject | DCPSubject] = [
            CairnSubject("cairn, two tiers", two, state),
            CairnSubject("cairn, one tier", one, state),
            DCPSubject("dcp.save", folder / f"{name}-dcp", state, asynchronous=False),
            DCPSubject("dcp.async_save", folder / f"{name}-async", state, asynchronous=True),
        ]
        rows: dict[str, list[Row]] = {subject.name: [] for subject in subjects}
        for subject in subjects:
            subject.save(work)  # the first of each registers, allocates and warms; it is not counted
        for index in range(rounds):
            memcpys.append(memcpy_seconds(tensors, copies))
            alone.append(work()[0])
            for direction, speeds in (("write", writes), ("read", reads)):
                speed = fio_bytes_per_second(folder, direction, 1 << 30) if name == "large" else None
                speeds += [speed] if speed else []
            for subject in subjects:
                rows[subject.name].append(subject.save(work))
                print(f"  round {index + 1}, {subject.name}: {short(rows[subject.name][-1])}", flush=True)
        loads: dict[str, dict[str, float]] = {}
        for subject in subjects:
            loads[subject.name] = {}
            for kind in ("load_from_memory", "load_cold"):
                load = getattr(subject, kind, None)
                if load is not None and not (isinstance(subject, DCPSubject) and subject.asynchronous):
                    for tensor in tensors:
                        tensor.zero_()
                    loads[subject.name][kind] = load()
                    if not all(torch.equal(tensor, copy) for tensor, copy in zip(tensors, copies, strict=True)):
                        sys.exit(f"{subject.name}: {kind} gave other bytes than were saved")
        for subject in subjects:
            subject.close()

    unit, base = statistics.median(memcpys), statistics.median(alone)
    for subject in subjects:
        taken = rows[subject.name]
        cost = {key: median(taken, key) for key in taken[0]}
        cost["lost"] = cost["call"] + cost["fence"] + max(0.0, cost["work"] - base)
        results[subject.name] = {**cost, **loads[subject.name]}
    limits = {"memcpySeconds": unit, "stepAloneSeconds": base,
              "fioWriteBytesPerSecond": statistics.median(writes) if writes else None,
              "fioReadBytesPerSecond": statistics.median(reads) if reads else None}  # fmt: skip
    show(results, limits, size)
    return {"tensors": count, "bytes": size, "rounds": rounds, "limits": limits, "subjects": results}


def short(row: Row) -> str:
    return ", ".join(f"{key} {value * 1000:.1f} ms" if value < 0.1 else f"{key} {value:.2f} s" for key, value in row.items())


def show(results: dict[str, Any], limits: dict[str, Any], size: int) -> None:
    unit, write, read = limits["memcpySeconds"], limits["fioWriteBytesPerSecond"], limits["fioReadBytesPerSecond"]
    drive = f", fio write {write / 1e9:.2f}, read {read / 1e9:.2f} GB/s" if write and read else ""
    print(f"\n  memcpy {size / unit / 1e9:.1f} GB/s{drive}")
    heads = "|save() ms|fence ms|step +ms|lost/memcpy|staged s|local s|committed s|durable s|/fio|CPU s/GB"
    table = [heads.split("|")]
    for name, cost in results.items():
        slower = max(0.0, cost["work"] - limits["stepAloneSeconds"])
        table.append([
            name, f"{cost['call'] * 1000:.2f}", f"{cost['fence'] * 1000:.1f}", f"{slower * 1000:.0f}", f"{cost['lost'] / unit:.2f}",
            *(f"{cost[level]:.2f}" if level in cost else "-" for level in ("staged", "local", "committed")),
            f"{cost['durable']:.2f}", f"{cost['durable'] * write / size:.2f}" if write else "-", f"{cost['cpu'] / size * 1e9:.2f}",
        ])  # fmt: skip
    print_table(table)
    table = [["restore", "from memory s", "GB/s", "/memcpy", "cold s", "GB/s", "/fio read"]]
    for name, cost in results.items():
        memory, cold = cost.get("load_from_memory"), cost.get("load_cold")
        if cold is not None:
            table.append([
                name, *([f"{memory:.2f}", f"{size / memory / 1e9:.2f}", f"{unit / memory:.2f}"] if memory else ["-"] * 3),
                f"{cold:.2f}", f"{size / cold / 1e9:.2f}", f"{size / cold / read:.2f}" if read else "-",
            ])  # fmt: skip
    print_table(table)
    ours = results["cairn, two tiers"]
    # A step's slowing is a difference of two medians: below a twentieth of the step it is not told from noise.
    floor = limits["stepAloneSeconds"] / 20
    for peer in ("dcp.save", "dcp.async_save"):
        theirs = results[peer]
        blocked = theirs["call"] / max(ours["call"] + ours["fence"], 1e-9)
        print(f"  {peer} blocks {blocked:.0f}x as long, costs {theirs['lost'] / max(ours['lost'], floor):.0f}x in all,"
              f" is durable {theirs['durable'] / results['cairn, one tier']['durable']:.1f}x as late (one tier)")  # fmt: skip


def warn_of_load() -> None:
    load, cpus = os.getloadavg()[0], os.cpu_count() or 1
    if load > cpus / 2:
        print(f"this machine is busy (load {load:.1f} on {cpus} cores): figures are noise, only large ratios say something")


def print_table(table: list[list[str]]) -> None:
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    for row in table:
        print("  " + "  ".join(cell.ljust(width) if not index else cell.rjust(width)
                               for index, (cell, width) in enumerate(zip(row, widths, strict=True))))  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = Path(__file__).resolve().parent.parent
    parser.add_argument("--case", choices=[*CASES, "all"], default="all")
    parser.add_argument("--rounds", type=int, help="default: 3 of large, 1 of small")
    parser.add_argument("--pool", default="2GiB", help="each daemon's (default: 2GiB)")
    parser.add_argument("--folder", type=Path, default=Path(os.environ.get("TMPDIR", "/var/tmp")), help="on the drive to measure")
    parser.add_argument("--json", type=Path, default=root / ".build" / "bench-dcp.json", help="where exact figures go")
    parser.add_argument("--binaries", type=Path, default=Path(os.environ.get("CAIRN_BIN", root / ".build" / "release")))
    options = parser.parse_args()

    warn_of_load()
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp(prefix="cairn-bench.", dir=options.folder))
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/group", rank=0, world_size=1)
    try:
        names = list(CASES) if options.case == "all" else [options.case]
        cases = {name: run_case(name, options, folder) for name in names}
    finally:
        torch.distributed.destroy_process_group()
        shutil.rmtree(folder, ignore_errors=True)
    report = {"torch": torch.__version__, "kernel": platform.release(), "cpus": os.cpu_count(), "cases": cases}
    options.json.write_text(json.dumps(report, indent=2) + "\n")
    print(f"\nwritten to {options.json}")


if __name__ == "__main__":
    main()
