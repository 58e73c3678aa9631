"""DeepSpeed's own partitions as flat shards: saved under one stage of ZeRO, whole to a single rank, and restored under the others.

Runs where DeepSpeed is installed: `pip install deepspeed ninja` into the environment of these tests; its CPU accelerator is enough.
"""

from __future__ import annotations

import importlib.util
import subprocess
from typing import Any

import pytest
import torch
from real_daemon import Cluster, Daemon, trainer

pytestmark = [
    pytest.mark.daemon,
    pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="DeepSpeed is not installed"),
]

WORLD = 2

TRAINER = """
import os, sys, torch
rank, world, port, stage, socket, run, what = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4]), *sys.argv[5:]
os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": str(rank),
               "DS_ACCELERATOR": "cpu", "LOCAL_SIZE": str(world)}
import deepspeed
sys.modules["deepspeed.comm.torch"].build_shm_op = lambda: None  # it would be compiled first
deepspeed.init_distributed("gloo")
from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state
import cairn
torch.manual_seed(0 if what == "save" else 1)
model = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Linear(7, 3))
config = {"train_micro_batch_size_per_gpu": 1, "zero_optimization": {"stage": stage}, "bf16": {"enabled": True},
          "zero_allow_untested_optimizer": True}
engine, optimizer, *_ = deepspeed.initialize(model=model, optimizer=torch.optim.AdamW(model.parameters(), lr=0.1), config=config)
for _ in range(2):
    engine.backward(engine(torch.ones(2, 5, dtype=torch.bfloat16) * (rank + 1)).float().sum())
    engine.step()
names = {id(parameter): name for name, parameter in engine.module.named_parameters()}
MOMENTS = ("exp_avg", "exp_avg_sq")
state = {"fp32": {}, **{kind: {} for kind in MOMENTS}}
partitions = optimizer.fp32_partitioned_groups_flat if stage == 3 else optimizer.single_partition_of_fp32_groups
for group, partition in enumerate(partitions):
    for kind in state:
        buffer = partition.detach() if kind == "fp32" else optimizer.optimizer.state[partition][kind]
        if stage < 3:  # one buffer of all of the group's tensors, padded and cut
            shapes = {names[id(each)]: each.shape for each in optimizer.round_robin_bit16_groups[group]}
            state[kind] |= cairn.flat_shards(buffer, shapes, rank)
        else:  # each tensor padded and cut, and these parts one after the other
            sizes = [each.ds_tensor.numel() for each in optimizer.fp16_groups[group]]
            for each, part in zip(optimizer.fp16_groups[group], buffer.split(sizes)):
                state[kind] |= cairn.flat_shards(part, {names[id(each)]: each.ds_shape}, rank)
checkpointer = cairn.Checkpointer(run, rank=rank, world_size=world, socket=socket)
if what == "save":
    print(checkpointer.save(1, state).wait("committed", timeout=30).level)
else:
    print(checkpointer.restore(state))
whole = {}
for name, parameter in engine.module.named_parameters():
    whole[f"fp32.{name}"] = safe_get_full_fp32_param(parameter).clone()
    whole |= {f"{kind}.{name}": safe_get_full_optimizer_state(parameter, kind).clone() for kind in MOMENTS}
if rank == 0:
    torch.save(whole, f"{socket}.{run}.{stage}.{what}")
checkpointer.close()
sys.stdout.flush()
os._exit(0)
"""


def trained(daemon: Daemon, stage: int, run: str, what: str) -> tuple[list[str], dict[str, torch.Tensor]]:
    """The last line of each rank, and what DeepSpeed itself gathers as whole tensors."""
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    port = str(store.port)
    del store
    arguments = (str(WORLD), port, str(stage), daemon.socket, run, what)
    processes: list[subprocess.Popen[str]] = [trainer(TRAINER, str(rank), *arguments) for rank in range(WORLD)]
    outputs = [process.communicate(timeout=80)[0] for process in processes]
    lines = [next(iter(reversed(output.strip().splitlines())), "") for output in outputs]
    return lines, torch.load(f"{daemon.socket}.{run}.{stage}.{what}")


@pytest.mark.parametrize(("stage", "other"), [(2, 3), (3, 1)])
def test_a_stage_of_zero_restores_what_another_saved(cluster: Cluster, stage: int, other: int) -> None:
    daemon = cluster.daemon()
    run = f"stage-{stage}"
    lines, saved = trained(daemon, stage, run, "save")
    assert lines == ["committed"] * WORLD
    state: dict[str, Any] = {}
    for path, tensor in saved.items():
        kind, _, name = path.partition(".")
        state.setdefault(kind, {})[name] = torch.zeros_like(tensor)
    with daemon.open(run, world_size=1) as checkpointer:
        assert checkpointer.restore(state) == 1
    lines, restored = trained(daemon, other, run, "restore")
    assert lines == ["1"] * WORLD
    for path, tensor in saved.items():
        kind, _, name = path.partition(".")
        assert torch.equal(state[kind][name], tensor), path
        assert torch.equal(restored[path], tensor), f"{stage} -> {other}: {path}"
