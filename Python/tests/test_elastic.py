"""Under torchrun's elastic agent: a rank that dies, a job that is told to end, fewer ranks and more, and no sample lost or seen twice."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import subprocess
import sys
import threading
from typing import Any

import pytest
from real_daemon import ROOT, Daemon, free_port

import cairn

pytestmark = [pytest.mark.daemon, pytest.mark.seconds(170)]

EXAMPLE = ROOT / "Examples" / "elastic" / "train.py"
BEGINS = re.compile(r"rank (\d+) of \d+, pid (\d+), begins at step (\d+), positions (\{.*?\}\})")
ENDS = re.compile(r"rank (\d+) of \d+ ends at step (\d+), weights (\S+), positions (\{.*?\}\})")


class Job:
    """One torchrun with its ranks; ``lines`` are what they printed so far."""

    def __init__(self, daemon: Daemon, ranks: int, *arguments: str) -> None:
        environment = {"CAIRN_SOCKET": daemon.socket, "PYTHONPATH": str(ROOT / "Python"), "OMP_NUM_THREADS": "1"}
        environment["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"  # see the example's head
        elastic = ["--nnodes=1:1", "--max-restarts=1", "--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{free_port()}"]
        agent = [sys.executable, "-m", "torch.distributed.run", *elastic, f"--nproc-per-node={ranks}", "--monitor-interval=0.2"]
        with (daemon.folder / "torchrun.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*agent, str(EXAMPLE), "elastic", *arguments], env=os.environ | environment, stdout=subprocess.PIPE, stderr=log, text=True
            )
        self.lines: list[str] = []

    def read(self, steps: int) -> None:
        """Until rank 0 has trained so many more steps."""
        assert self.process.stdout is not None
        while steps:
            self.lines.append(self.process.stdout.readline())
            assert self.lines[-1], self.lines
            steps -= self.lines[-1].startswith("step ")

    def end(self) -> None:
        self.lines += self.process.communicate(timeout=120)[0].splitlines(keepends=True)

    def found(self, pattern: re.Pattern[str]) -> list[Any]:
        """Ranks write into one pipe, and their line ends as writes of their own."""
        return sorted(found.groups() for found in pattern.finditer("".join(self.lines)))


def test_a_job_goes_on_whatever_the_number_of_its_ranks(shared: Daemon) -> None:
    jobs: list[Job] = []
    timer = threading.Timer(80, lambda: [job.process.terminate() for job in jobs])  # the agent ends its ranks
    timer.start()
    try:
        # Two ranks; one is killed, both are started again, and then all are told to end.
        jobs.append(Job(shared, 2, "--steps", "100000", "--pause", "0.02"))
        job = jobs[-1]
        job.read(12)
        (_, _, first, _), (_, victim, _, _) = job.found(BEGINS)
        assert first == "0"
        os.kill(int(victim), signal.SIGKILL)
        while len(job.found(BEGINS)) < 4:
            job.lines.append(job.process.stdout.readline())  # type: ignore[union-attr]
            assert job.lines[-1], job.lines
        again = [begun for begun in job.found(BEGINS) if begun[2] != "0"]
        assert [(rank, step) for rank, _, step, _ in again] == [("0", again[0][2]), ("1", again[0][2])]
        restored = int(again[0][2])
        assert restored >= 2
        job.read(12)
        job.process.send_signal(signal.SIGTERM)
        job.end()
        ends = job.found(ENDS)
        assert [(rank, step) for rank, step, _, _ in ends] == [("0", ends[0][1]), ("1", ends[0][1])]
        preempted = int(ends[0][1])
        assert preempted > restored
        assert cairn.newest_step("elastic", socket=shared.socket) == preempted
        attempts = {int(folder.name.partition(".")[2].partition("-")[0]) for folder in shared.step_folders("elastic")}
        assert len(attempts) == 2  # one of each start

        # One rank has all shards, then three share them.
        last = preempted
        for ranks, upto in ((1, preempted + 20), (3, preempted + 40)):
            jobs.append(Job(shared, ranks, "--steps", str(upto)))
            jobs[-1].end()
            assert jobs[-1].process.returncode == 0
            assert {step for _, _, step, _ in jobs[-1].found(BEGINS)} == {str(last)}
            ends = jobs[-1].found(ENDS)
            assert [(int(rank), int(step)) for rank, step, _, _ in ends] == [(rank, upto) for rank in range(ranks)]
            last = upto
    finally:
        timer.cancel()
        for job in jobs:
            if job.process.poll() is None:
                job.process.terminate()
                job.process.communicate(timeout=100)

    # What one process trains without interruption.
    spec = importlib.util.spec_from_file_location("elastic_example", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    model, optimizer = example.make()
    loader = {str(shard): {"next": 0} for shard in range(example.SHARDS)}
    for _ in range(last):
        example.train_step(model, optimizer, loader)
    expected = sum(parameter.sum().item() for parameter in model.parameters())
    for rank, _, weights, positions in ends:
        assert positions == str({shard: {"next": last} for shard in loader if int(shard) % 3 == int(rank)})
        assert float(weights) == pytest.approx(expected, rel=1e-9)
