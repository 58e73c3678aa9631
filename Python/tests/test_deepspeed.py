"""DeepSpeed's engine with CairnCheckpointEngine, ZeRO on two CPU processes: what was resumed is bit by bit what would have been."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from real_daemon import Daemon, free_port, trainer

pytestmark = [
    pytest.mark.daemon,
    pytest.mark.seconds(170),
    pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="deepspeed is not installed (requirements-frameworks.txt)"),
]

RANK = """
import hashlib, os, sys, torch
import deepspeed
import deepspeed.comm.torch
sys.modules["deepspeed.comm.torch"].build_shm_op = lambda: None  # a C++ extension that would be compiled now, and is not needed
from cairn.deepspeed import CairnCheckpointEngine

folder, socket, stage, until, how = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
deepspeed.init_distributed(dist_backend="gloo", verbose=False)
torch.manual_seed(1)
model = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.Tanh(), torch.nn.Linear(32, 16))
config = {"train_micro_batch_size_per_gpu": 4, "zero_optimization": {"stage": stage}, "bf16": {"enabled": stage > 0},
          "zero_allow_untested_optimizer": True, "zero_force_ds_cpu_optimizer": False}
engine, *_ = deepspeed.initialize(model=model, optimizer=torch.optim.AdamW(model.parameters(), lr=0.01), config=config)
checkpoints = CairnCheckpointEngine(engine, f"ds-{stage}", socket=socket)
tag = checkpoints.latest_tag(folder)
if how == "resumed":
    assert tag == "global_step2", tag
    path, client = engine.load_checkpoint(folder, tag=tag)
    assert engine.global_steps == 2 and client["note"] == "n", (path, client)
else:
    assert tag is None
while engine.global_steps < until:
    rows = torch.randn(4, 16, generator=torch.Generator().manual_seed(10 * engine.global_steps + engine.global_rank))
    loss = engine(rows.to(next(engine.module.parameters()).dtype)).float().square().mean()
    engine.backward(loss)
    engine.step()
    if engine.global_steps == 2 and how == "first":
        engine.save_checkpoint(folder, client_state={"note": "n"})
        layout = checkpoints.checkpointer._layouts.last
        assert any("optim" in layout.leaves[index].name or "exp_avg" in layout.leaves[index].name for index in layout.lazy_tensors)
        last = checkpoints.checkpointer._last
checkpoints.cleanup()
weights = b"".join(tensor.float().numpy().tobytes() for tensor in engine.module.state_dict().values())
print("WEIGHTS", hashlib.sha256(weights).hexdigest(), flush=True)
os._exit(0)
"""


def launch(daemon: Daemon, folder: Path, stage: int, until: int, how: str) -> list[str]:
    known = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    known |= {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    ranks = [
        trainer(RANK, str(folder), daemon.socket, str(stage), str(until), how, environment=known | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(2)
    ]
    told = [rank.communicate(timeout=150)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], told
    return [text.partition("WEIGHTS ")[2].split()[0] for text in told]


@pytest.mark.parametrize("stage", [1])
def test_a_resumed_training_is_bit_exact(shared: Daemon, tmp_path: Path, stage: int) -> None:
    expected = launch(shared, tmp_path, stage, 4, "first")
    names = sorted(path.name for path in (tmp_path / "global_step2").glob("*.pt"))
    assert "mp_rank_00_model_states.pt" in names
    assert all(path.stat().st_size < 200 for path in (tmp_path / "global_step2").glob("*.pt"))
    assert launch(shared, tmp_path, stage, 4, "resumed") == expected
