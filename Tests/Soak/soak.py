"""A long run of mixed work: ranks that save, restore and are killed, a daemon whose workers are, and what it all takes.

Eight ranks train on one daemon with two tiers. Every launch restores, checks each byte, trains some steps with saves of all
levels, and ends in one of several ways: by closing, by SIGKILL of one rank or of all. Now and then a worker of the daemon is
killed, or, in the first half only, the daemon itself (so that a leak cannot hide behind its new starts). Sampled all along: the
daemon's memory beyond the pool, its descriptors and processes, how long save() takes and when a step is committed. It fails when
a restore gives wrong bytes or an older step than was committed, when anything is left over at the end, and when memory,
descriptors or processes grow from the third quarter to the last.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import secrets
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
sys.path[:0] = [str(ROOT / "Python"), str(ROOT / "Python/tests"), str(ROOT / "Tests/EndToEndTests")]

from machine import anonymous_bytes, cli, descriptors, leftovers, living, status, until, workers  # noqa: E402
from real_daemon import Cluster, Daemon, trainer  # noqa: E402

RANKS = 8
MIB = 1 << 20
SAMPLE_SECONDS = 5.0
LEVELS = ["local", "committed", "committed", "staged", "global"]
GROWTH = {"memory": 8 * MIB, "descriptors": 16, "processes": 0}
"""What the last quarter's median may lie above the third's."""

RANK = """
import json, sys, time, cairn
import numpy as np
rank, world, socket, attempt = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
ckpt = cairn.Checkpointer("run", rank=rank, world_size=world, socket=socket, attempt=attempt)
names = [f"layers.{index}.weight" for index in range(200)] + ["embedding"]
def state(step):
    sizes = {name: 1 << 19 if name == "embedding" else 1 << 12 for name in names}
    return {name: np.full(size, step * 100 + rank, np.float32) for name, size in sizes.items()} | {"step": step}
def answer(value): print(json.dumps(value), flush=True)
saves = {}
for line in sys.stdin:
    name, *arguments = json.loads(line)
    try:
        if name == "restore":
            into = state(0)
            step = ckpt.restore(into, timeout=60)
            right = step is None or all(np.array_equal(into[key], value) for key, value in state(step).items())
            answer([step, right])
        elif name == "save":
            step, level = arguments
            began = time.perf_counter()
            saves[step] = ckpt.save(step, state(step), level=level)
            took = time.perf_counter() - began
            with ckpt.lock():
                pass  # the fence: from here on the trainer may change its tensors
            answer(took)
        elif name == "committed":
            try:
                answer(saves[arguments[0]].wait("committed", timeout=60).level)
            except (cairn.CairnError, TimeoutError) as failure:
                answer(f"{type(failure).__name__}: {failure}")
        elif name == "close":
            ckpt.close()
            answer("closed")
            break
    except cairn.CairnError as failure:
        answer(f"{type(failure).__name__}: {failure}")
"""


class Launch:
    """Eight rank processes of one attempt."""

    def __init__(self, daemon: Daemon) -> None:
        attempt = secrets.token_hex(8)
        self.ranks: list[subprocess.Popen[str]] = [
            trainer(RANK, str(rank), str(RANKS), daemon.socket, attempt) for rank in range(RANKS)
        ]

    def ask(self, *command: Any) -> list[Any]:
        """All are told, then heard; a rank that is gone answers None."""
        for rank in self.ranks:
            assert rank.stdin is not None
            try:
                rank.stdin.write(json.dumps(command) + "\n")
                rank.stdin.flush()
            except BrokenPipeError:
                pass
        answers = []
        for rank in self.ranks:
            assert rank.stdout is not None
            line = rank.stdout.readline()
            answers.append(json.loads(line) if line else None)
        return answers

    def end(self, how: str) -> None:
        if how == "close":
            self.ask("close")
        for rank in self.ranks:
            if how != "close":
                rank.kill()
            rank.communicate(timeout=60)


def name_of(pid: int) -> str:
    """As `ps` shows it: cairnd, cairnd-stager, ..."""
    return Path(f"/proc/{pid}/comm").read_text().strip()


class Samples:
    """What the daemon takes, every few seconds, in a thread of its own."""

    def __init__(self, daemon: Daemon) -> None:
        self.rows: list[dict[str, float]] = []
        self.saves: list[float] = []
        self.commits: list[float] = []
        self._daemon = daemon
        self._began = time.monotonic()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="samples")
        self._thread.start()

    def _run(self) -> None:
        while not self._over.wait(SAMPLE_SECONDS):
            try:
                pids = living(self._daemon.pid)
                row: dict[str, float] = {
                    "seconds": time.monotonic() - self._began,
                    "memory": anonymous_bytes(pids),
                    **{f"memory of {name_of(pid)}": anonymous_bytes([pid]) for pid in pids},
                    "descriptors": sum(descriptors(pid) for pid in pids),
                    "processes": len(pids),
                }
            except (AssertionError, OSError):
                continue  # between two lives of a process
            saves, self.saves = self.saves, []
            commits, self.commits = self.commits, []
            row |= {"save_ms": statistics.median(saves) * 1000} if saves else {}
            row |= {"commit_seconds": statistics.median(commits)} if commits else {}
            self.rows.append(row)

    def end(self) -> None:
        self._over.set()
        self._thread.join()


class Soak:
    def __init__(self, daemon: Daemon, seed: int, seconds: float) -> None:
        self.daemon = daemon
        self.random = random.Random(seed)
        self.samples = Samples(daemon)
        self.began = time.monotonic()
        self.half = self.began + seconds / 2
        self.until = self.began + seconds
        self.step = 0
        self.committed = 0
        self.counts: dict[str, int] = {}

    def count(self, what: str, by: int = 1) -> None:
        self.counts[what] = self.counts.get(what, 0) + by

    def run(self) -> None:
        while time.monotonic() < self.until:
            self.launch()

    def launch(self) -> None:
        launch = Launch(self.daemon)
        self.count("launches")
        ended = False
        try:
            self.restore(launch)
            for _ in range(self.random.randint(5, 25)):
                self.train(launch)
            how = self.random.choice(["close", "one killed", "all killed", "killed in mid-save"])
            if how == "one killed":
                self.random.choice(launch.ranks).kill()
                self.train(launch)
            elif how == "killed in mid-save":
                self.begin_save(launch)
            self.count(f"ended: {how}")
            ended = True
            launch.end("close" if how == "close" else "kill")
        finally:
            if not ended:
                launch.end("kill")

    def restore(self, launch: Launch) -> None:
        answers = launch.ask("restore")
        steps = {answer[0] if isinstance(answer, list) else str(answer) for answer in answers}
        assert len(steps) == 1, f"ranks were given different steps: {answers}"
        assert all(isinstance(answer, list) and answer[1] for answer in answers), f"wrong bytes: {answers}"
        found = steps.pop()
        assert (found or 0) >= self.committed, f"step {self.committed} was committed, and {found} was restored"
        self.step = max(self.step, found or 0)
        self.count("restores", RANKS)

    def begin_save(self, launch: Launch) -> None:
        """Some ranks are told to save, and nobody waits."""
        self.step += 1
        for rank in launch.ranks[: self.random.randint(1, RANKS)]:
            assert rank.stdin is not None
            rank.stdin.write(json.dumps(["save", self.step, "committed"]) + "\n")
            rank.stdin.flush()

    def train(self, launch: Launch) -> None:
        self.step += 1
        level = self.random.choice(LEVELS)
        event = self.random.random()
        began = time.monotonic()
        times = launch.ask("save", self.step, level)
        self.count("saves", sum(isinstance(took, float) for took in times))
        self.samples.saves += [took for took in times if isinstance(took, float)]
        if event < 0.02:
            self.kill(self.random.choice(["stager", "local", "global"]))
        elif event < 0.025 and time.monotonic() < self.half:
            self.kill("main")
        elif level == "committed" and event < 0.5:
            told = launch.ask("committed", self.step)
            if told == ["committed"] * RANKS:
                self.committed = self.step
                self.samples.commits.append(time.monotonic() - began)
                self.count("commits waited for")
            else:
                self.count("saves that failed")

    def kill(self, role: str) -> None:
        self.count(f"{role} killed")
        if role == "main":
            session = self.daemon.pid
            self.daemon.stop(signal.SIGKILL)
            assert leftovers(session) == [], "workers that outlived their main process"
            self.daemon.start()
        else:
            os.kill(until(f"{role} runs", lambda: workers(self.daemon).get(role)), signal.SIGKILL)

    def end(self) -> dict[str, Any]:
        self.samples.end()
        until("every save has ended", lambda: status(self.daemon)["saves"] == [], seconds=90)
        partial = [str(path) for path in self.daemon.folder.rglob(".saving-*")]
        assert not partial, f"partial folders are left: {partial}"
        verify = cli(self.daemon, "verify", "run", timeout=300)
        growth = {}
        for name, allowed in GROWTH.items():
            third, last = (quarter(self.samples.rows, name, number) for number in (2, 3))
            growth[name] = (third, last)
            assert last <= third + allowed, f"{name} grew from {third:,.0f} to {last:,.0f}"
        session = self.daemon.pid
        self.daemon.stop()
        assert leftovers(session) == [], "processes are left"
        return {
            "counts": self.counts,
            "growth": growth,
            "steps": self.step,
            "verify": verify.strip().splitlines()[-1],
            "samples": self.samples.rows,
        }


def quarter(rows: list[dict[str, float]], name: str, number: int) -> float:
    part = rows[len(rows) * number // 4 : len(rows) * (number + 1) // 4]
    return statistics.median(row[name] for row in part)


def plot(rows: list[dict[str, float]], where: Path) -> None:
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "cairn"
    import matplotlib.pyplot as pyplot

    panels = [
        ("memory", "memory beyond the pool, MiB", 1 / MIB),
        ("descriptors", "descriptors, all processes", 1),
        ("save_ms", "save() of a rank, ms (median of 5 s)", 1),
        ("commit_seconds", "save() to committed, s (median of 5 s)", 1),
    ]
    figure, axes = pyplot.subplots(len(panels), sharex=True, figsize=(8, 9))
    for axis, (name, title, scale) in zip(axes, panels, strict=True):
        found = [row for row in rows if name in row]
        axis.plot([row["seconds"] / 60 for row in found], [row[name] * scale for row in found], linewidth=0.8)
        axis.set_ylim(bottom=0)
        axis.set_title(title, fontsize=9, loc="left")
        axis.grid(alpha=0.3)
    axes[-1].set_xlabel("minutes")
    figure.tight_layout()
    figure.savefig(where, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write counts and samples there")
    parser.add_argument("--plot", type=Path, help="draw the samples as SVG there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cairn-soak-") as folder:
        cluster = Cluster(Path(folder))
        try:
            daemon = cluster.daemon(tiers=2, pool="512MiB", retention="{local: {keep: 3}, global: {keep: 4}}")
            soak = Soak(daemon, options.seed, options.minutes * 60)
            try:
                soak.run()
            finally:
                soak.samples.end()
                # Kept whatever comes of it: what has grown is seen there.
                if options.json:
                    options.json.write_text(json.dumps({"counts": soak.counts, "samples": soak.samples.rows}, indent=1) + "\n")
                if options.plot:
                    plot(soak.samples.rows, options.plot)
            found = soak.end()
        except BaseException:
            print((Path(folder) / "0" / "log").read_text()[-6000:], file=sys.stderr)
            raise
        finally:
            cluster.stop()
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    for what, number in sorted(found["counts"].items()):
        print(f"{number:8}  {what}")
    for name, (third, last) in found["growth"].items():
        print(f"{name}: median of the third quarter {third:,.0f}, of the last {last:,.0f}")
    print(f"verify: {found['verify']}")
    print("soak: nothing was lost, nothing is left")


if __name__ == "__main__":
    main()
