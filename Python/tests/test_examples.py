"""Each framework's example, as its reader starts it: killed in mid-run and started again, it ends with the weights that it would have had."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from real_daemon import ROOT, Daemon

import cairn
from cairn.torch.checkpointing import CheckpointManager

pytestmark = [pytest.mark.daemon, pytest.mark.seconds(170)]

NEEDS = {
    "jax": "jax", "transformers": "transformers", "lightning": "lightning", "accelerate": "accelerate", "torch_checkpointing": "torch",
}  # fmt: skip
STEPS = 60


def start(name: str, folder: Path, run: str, daemon: Daemon) -> subprocess.Popen[str]:
    environment = {"CAIRN_SOCKET": daemon.socket, "PYTHONPATH": str(ROOT / "Python"), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    if name == "jax":
        environment |= {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    folder.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, str(ROOT / "Examples" / name / "train.py"), "--run", run, "--steps", str(STEPS)],
        cwd=folder, stdout=subprocess.PIPE, text=True, env=os.environ | environment,
    )  # fmt: skip


def digest(process: subprocess.Popen[str]) -> str:
    told = process.communicate(timeout=150)[0]
    assert process.returncode == 0, told
    found = re.search(rf"finished at step {STEPS}, SHA-256 ([0-9a-f]{{64}})", told)
    assert found is not None, told
    return found[1]


@pytest.mark.parametrize("name", NEEDS)
def test_a_killed_example_ends_as_if_it_had_not_been(shared: Daemon, tmp_path: Path, name: str) -> None:
    if importlib.util.find_spec(NEEDS[name]) is None:
        pytest.skip(f"{NEEDS[name]} is not installed (scripts/requirements-frameworks.txt)")
    straight = start(name, tmp_path, f"{name}-straight", shared)
    killed = start(name, tmp_path, f"{name}-killed", shared)
    assert killed.stdout is not None
    losses = 0
    while losses < STEPS // 4:
        line = killed.stdout.readline()
        assert line, "it ended by itself"
        losses += "loss" in line
    killed.send_signal(signal.SIGKILL)
    killed.wait(10)
    killed.stdout.close()
    expected = digest(straight)
    run = f"{name}-killed"
    if name == "torch_checkpointing":  # the run is named after the folder
        run = CheckpointManager()._run(str(tmp_path / run))
    reached = cairn.newest_step(run, socket=shared.socket)
    assert reached is not None
    assert 0 < reached < STEPS
    assert digest(start(name, tmp_path, f"{name}-killed", shared)) == expected
    assert cairn.newest_step(run, socket=shared.socket) == STEPS
    assert cairn.newest_step("unheard-of", socket=shared.socket) is None
