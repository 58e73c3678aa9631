"""The benchmark runs: its Cairn side on small states, and its report on rows of all subjects. No figure is judged here."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from real_daemon import binary

BENCH = Path(__file__).parent.parent.parent / "Benchmarks" / "bench.py"
# Those left out repeat what these do, with other sizes and for longer.
MEASUREMENTS = ["saves", "one-tier", "restores", "sharded", "tiny", "memory", "daemon", "steps"]
PEERS = ["torch.save", "safetensors", "dcp.save", "dcp.async_save, thread", "torch-checkpointing"]
MIB = 1 << 20


def bench(*arguments: str | Path) -> str:
    """What it prints. Where it takes too long it is ended in the way that lets it end its daemon."""
    process = subprocess.Popen([sys.executable, BENCH, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        output = process.communicate(timeout=75)[0]
    except subprocess.TimeoutExpired:
        process.terminate()
        output = process.communicate(timeout=10)[0]
    finally:
        process.kill()
    assert process.returncode == 0, output[-3000:]
    return output


@pytest.mark.skipif(shutil.which("fio") is None, reason="fio is not here, which measures the drive's limit")
def test_a_quick_run_without_peers_measures_everything(folder: Path) -> None:
    written = folder / "bench.json"
    plots = ["--plots", folder / "plots"] if importlib.util.find_spec("matplotlib") else []
    only = [word for name in MEASUREMENTS for word in ("--only", name)]
    sizes = ["--quick", "--no-peers", "--size", "8"]
    bench(*sizes, "--folder", folder, "--json", written, "--binaries", binary().parent, *only, *plots)
    record = json.loads(written.read_text())
    assert record["broken"] == {}
    assert {row["measure"] for row in record["rows"]} >= {name.replace("-", " ") for name in MEASUREMENTS}
    assert not [row for row in record["rows"] if "failed" in row]
    assert not list(folder.glob("cairn-bench.*")), "a run leaves its folder"
    if plots:
        assert sorted(path.name for path in (folder / "plots").iterdir()) == [
            f"bench-{name}.svg" for name in ("blocked", "scaling", "slowdown", "stages")
        ]


def test_the_report_judges_each_goal(folder: Path) -> None:
    """On made rows: Cairn takes a tenth of a second for each level, a peer thirty times as long for everything."""
    rows = []
    for measure in ("saves", "one tier", "restores", "sharded", "sizes", "ranks"):
        rows.append({"measure": measure, "subject": "limits", "round": 0, "memcpy": 1e9, "write": 1e9, "read": 1e9})
    common = {"round": 0, "bytes": 100 * MIB}
    levels = {"accepted": 0.0, "staged": 0.1, "local": 0.1, "durable": 0.1, "committed": 0.1, "cpu": 0.01}
    cost = {"call": 0.0005, "fence": 0.0, "blocked": 0.0005, "lost": 0.01}
    for name, times in (("cairn", 1), *((peer, 300) for peer in PEERS)):
        slower = {key: value * times for key, value in (levels | cost).items()}
        for work in ("idle", "launch", "matmul", "python"):
            rows.append({"measure": "saves", "subject": name, "work": work, **common, **slower})
        rows.append({"measure": "tiny", "subject": name, "tensors": 20_000, "loaded": 0.1 * times, **common, **slower})
        rows.append({"measure": "restores", "subject": name, "kind": "cold", "loaded": 0.1 * times, **common})
        rows.append({"measure": "throughput", "subject": name, "work": "python", "relative": 1 / times, **common})
        rows.append({"measure": "throughput", "subject": name, "work": "matmul", "relative": 1 / times, **common})
        rows.append({"measure": "memory", "subject": name, "extra": 100 * MIB, **common})
    for name in ("cairn, global tier alone", "cairn, a quarter's pool"):
        rows.append({"measure": "one tier", "subject": name, **common, **levels})
    rows += [
        {"measure": "restores", "subject": "cairn", "kind": "memory", "loaded": 0.1, **common},
        {"measure": "sharded", "subject": "cairn", "loaded": 0.1, **common},
        {"measure": "daemon", "subject": "cairn", "round": 0, "own": 10 * MIB, "idle": 0.0, "ready": 2.0},
        {"measure": "tiny", "subject": "orbax", "round": 0, "failed": "it has no such thing"},
    ]
    machine = {"cpu": "made", "cores": 2, "memoryBytes": 1 << 34, "kernel": "6", "hugePages": "never"}
    record = {"date": "today", "quick": False, "machine": machine, "load": [0.0, 0, 0], "loadAtEnd": [0.0, 0, 0]}
    record |= {"seconds": {"all": 60}, "drive": {}, "broken": {}, "rows": rows}
    (folder / "made.json").write_text(json.dumps(record))
    page = folder / "page.md"
    page.write_text("before\n<!-- figures: begin -->\nof another run\n<!-- figures: end -->\nafter\n")
    lines = bench("--report", folder / "made.json", "--docs", page).splitlines()
    judged = [line for line in lines if line.endswith((" met", " MISSED"))]
    assert not [line for line in lines if "not measured" in line]
    assert len(judged) == 26
    assert [line.split("  ")[1] for line in judged if line.endswith("MISSED")] == ["daemon answers after its start, pool of 4 GiB"]
    assert "  orbax (tiny): it has no such thing" in lines
    written = page.read_text()
    assert written.startswith("before\n<!-- figures")
    assert written.endswith("end -->\nafter\n")
    assert "of another run" not in written
    assert "| daemon answers after its start, pool of 4 GiB | < 1 s | 2 | 2 - 2 | 1 | MISSED |" in written
