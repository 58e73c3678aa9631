"""Which launch this is and who shares this node, as real torchrun and the variables of other launchers tell."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from real_daemon import free_port

import cairn
from cairn import attempt, launch

SLURM = {"SLURM_JOB_ID": "812", "SLURM_STEP_ID": "0", "SLURM_RESTART_COUNT": "0"}


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in list(os.environ):
        if variable.startswith(("SLURM_", "OMPI_", "PMI_", "MPI_", "MV2_", "TORCHELASTIC_", "MASTER_", "LOCAL_", "CAIRN_ATTEMPT")):
            monkeypatch.delenv(variable)


@pytest.fixture
def token(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, str]], str]:
    """The token of rank 1 of 4 in a new process with these variables."""

    def make(variables: dict[str, str]) -> str:
        with monkeypatch.context() as patch:
            patch.setattr(attempt, "_drawn", {})
            for name, value in variables.items():
                patch.setenv(name, value)
            return attempt.token(1, 4)

    return make


def test_steps_and_requeues_of_one_slurm_job_are_launches(token: Callable[[dict[str, str]], str]) -> None:
    first = token(SLURM)
    assert first == token(SLURM)
    others = {token(SLURM | change) for change in ({"SLURM_STEP_ID": "1"}, {"SLURM_RESTART_COUNT": "1"}, {"SLURM_JOB_ID": "813"})}
    assert len(others | {first}) == 4


def test_a_larger_world_without_any_sign_is_told_what_to_do(token: Callable[[dict[str, str]], str]) -> None:
    with pytest.raises(cairn.NoAttempt, match="CAIRN_ATTEMPT"):
        token({"TORCHELASTIC_RUN_ID": "none", "TORCHELASTIC_RESTART_COUNT": "0"})
    assert token({"CAIRN_ATTEMPT": "mine"} | SLURM) == "mine"


@pytest.mark.parametrize(
    ("text", "counts"),
    [("2(x3),1", [2, 2, 2, 1]), ("4", [4]), ("8(x2)", [8, 8]), ("1,2(x2),3", [1, 2, 2, 3]), ("", None), ("2(x", None), ("a", None)],
)
def test_slurms_tasks_per_node_are_read(text: str, counts: list[int] | None) -> None:
    assert launch.tasks_per_node(text) == counts


STEP = {"SLURM_STEP_NUM_TASKS": "7", "SLURM_STEP_NUM_NODES": "4", "SLURM_STEP_TASKS_PER_NODE": "2(x3),1"}
UNKNOWN = (None, None)


@pytest.mark.parametrize(
    ("variables", "world", "expected"),
    [
        (STEP | {"SLURM_NODEID": "1", "SLURM_LOCALID": "1"}, 7, (1, 2)),
        (STEP | {"SLURM_NODEID": "3", "SLURM_LOCALID": "0"}, 7, (0, 1)),
        (STEP | {"SLURM_NODEID": "1", "SLURM_LOCALID": "1"}, 14, UNKNOWN),  # each task forks ranks: Slurm knows nothing of them
        (STEP | {"SLURM_NODEID": "9", "SLURM_LOCALID": "1"}, 7, (1, None)),
        ({"SLURM_NTASKS": "4", "SLURM_TASKS_PER_NODE": "4"}, 4, UNKNOWN),  # the batch script's own, outside of any srun
        ({"SLURM_STEP_NUM_TASKS": "8", "SLURM_STEP_NUM_NODES": "2", "SLURM_NTASKS_PER_NODE": "4", "SLURM_LOCALID": "3"}, 8, (3, 4)),
        ({"OMPI_COMM_WORLD_SIZE": "6", "OMPI_COMM_WORLD_LOCAL_RANK": "2", "OMPI_COMM_WORLD_LOCAL_SIZE": "3"}, 6, (2, 3)),
        ({"PMI_SIZE": "6", "MPI_LOCALRANKID": "0", "MPI_LOCALNRANKS": "2"}, 6, (0, 2)),
        ({"PMI_SIZE": "6", "PMI_LOCAL_RANK": "1", "PMI_LOCAL_SIZE": "2"}, 6, (1, 2)),
        ({"MV2_COMM_WORLD_SIZE": "6", "MV2_COMM_WORLD_LOCAL_RANK": "1", "MV2_COMM_WORLD_LOCAL_SIZE": "2"}, 6, (1, 2)),
        ({"LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"} | STEP | {"SLURM_NODEID": "3", "SLURM_LOCALID": "0"}, 7, (1, 2)),
        ({"LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "8"}, 4, (1, None)),  # of another job
        ({"LOCAL_RANK": "6", "LOCAL_WORLD_SIZE": "8"}, 4, UNKNOWN),
        ({"LOCAL_RANK": "6", "LOCAL_WORLD_SIZE": "8"}, 1, (0, 1)),  # each rank of a job with a run of its own
        ({}, 1, (0, 1)),
        ({}, 4, UNKNOWN),
    ],
)
def test_local_ranks_come_from_the_launcher_that_started_them_all(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], world: int, expected: tuple[int | None, int | None]
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert launch.local(None, None, world) == expected
    assert launch.local(0, 1, world) == (0, 1)
    with pytest.raises(ValueError, match="local world size"):
        launch.local(None, world + 1, world)


WORKER = """
import json, os, sys, time
import torch.distributed as dist
from cairn import attempt
rank, world, restart = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "TORCHELASTIC_RESTART_COUNT"))
how, out = sys.argv[1], sys.argv[2]
if how == "group":
    dist.init_process_group("gloo")
token = attempt.token(rank, world)
with open(f"{out}/{os.getpid()}", "w") as file:
    json.dump([restart, rank, world, token], file)
if how == "group":
    dist.barrier()
    dist.destroy_process_group()
if "dies" in sys.argv and restart == 0:
    while rank == 1 and len(os.listdir(out)) < world:
        time.sleep(0.05)
    if rank == 1:
        os._exit(1)
    time.sleep(50)  # until the agent ends this one too
"""


def torchrun(tmp_path: Path, how: str, processes: int, *arguments: str, options: tuple[str, ...] = ()) -> list[list[Any]]:
    """What the workers of one launch wrote, in order: restart count, rank, world size, token."""
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    out = tmp_path / f"out-{len(list(tmp_path.iterdir()))}"
    out.mkdir()
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}", *options, str(script), how, str(out)]
    done = subprocess.run([*command, *arguments], env=environment, capture_output=True, text=True, timeout=55)
    assert done.returncode == 0, done.stderr[-3000:]
    return sorted(json.loads(path.read_text()) for path in out.iterdir())


@pytest.mark.parametrize("how", ["group", "store"])
def test_two_launches_with_the_default_id_are_two_attempts(tmp_path: Path, how: str) -> None:
    port = f"--master-port={free_port()}"  # static rendezvous, whose id is `none`
    launches = [torchrun(tmp_path, how, processes, options=(port,)) for processes in (2, 3 if how == "group" else 2)]
    tokens = []
    for launched in launches:
        assert [entry[1] for entry in launched] == list(range(launched[0][2]))
        (token,) = {entry[3] for entry in launched}
        tokens.append(token)
    assert tokens[0] != tokens[1]


def test_a_restart_by_torchrun_is_a_new_attempt(tmp_path: Path) -> None:
    """A worker dies and all start again, at a store of the agent that outlives them."""
    options = (
        "--nnodes=1:1",
        "--max-restarts=1",
        "--rdzv-backend=c10d",
        f"--rdzv-endpoint=127.0.0.1:{free_port()}",
        "--monitor-interval=0.2",
    )
    found = torchrun(tmp_path, "store", 2, "dies", options=options)
    assert [(restart, rank) for restart, rank, _, _ in found] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    first, second = ({token for restart, _, _, token in found if restart == count} for count in (0, 1))
    assert len(first) == len(second) == 1
    assert first != second


SRUN = """
import json, os, sys
import torch.distributed as dist
from cairn import attempt
rank, tokens = int(os.environ["SLURM_PROCID"]), []
for port in sys.argv[1:]:
    os.environ["MASTER_PORT"] = port
    attempt._drawn.clear()
    tokens.append(attempt.token(rank, 2))
    dist.init_process_group("gloo", rank=rank, world_size=2)  # at once, on the port of the token's store
    dist.barrier()
    attempt.release_store()
    dist.barrier()
    dist.destroy_process_group()
    assert not attempt._stores
print(json.dumps(tokens))
"""


def test_ranks_of_srun_agree_over_a_store_before_there_is_a_process_group() -> None:
    """Two tasks of one Slurm step whose script sets MASTER_ADDR, as most do; ten launches of one job, each on its own port."""
    ports = [str(free_port()) for _ in range(10)]
    environment = os.environ | SLURM | {"MASTER_ADDR": "127.0.0.1", "PYTHONPATH": str(Path(__file__).parent.parent)}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", SRUN, *ports], env=environment | {"SLURM_PROCID": str(rank)}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for rank in range(2)
    ]  # fmt: skip
    outputs = [rank.communicate(timeout=55) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], outputs
    tokens = [json.loads(output) for output, _ in outputs]
    assert tokens[0] == tokens[1]
    assert len(set(tokens[0])) == len(ports)
    assert not any("Warning" in error or "[W" in error for _, error in outputs), outputs
