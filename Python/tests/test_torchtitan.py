"""torchtitan's own optimizers and manager around ours: FSDP2 on two ranks, then one."""

from __future__ import annotations

from pathlib import Path

import pytest
from real_daemon import Daemon, free_port, trainer

pytestmark = [pytest.mark.daemon, pytest.mark.seconds(170)]
pytest.importorskip("torchtitan", reason="torchtitan is not installed (scripts/requirements-frameworks.txt)")

RANK = """
import sys, os, json
import torch, torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torchtitan.components.checkpointer import CheckpointManager
from torchtitan.components.optimizer import default_adamw
from torchtitan.components.optimizer.lr_scheduler import LRSchedulersContainer
from cairn.torchtitan import CairnCheckpointManager
what, base, where = sys.argv[1:]
dist.init_process_group("gloo")

class TrainState:
    step = 0
    def state_dict(self): return {"step": torch.tensor(self.step)}
    def load_state_dict(self, state): self.step = int(state["step"])

def made(manager=CairnCheckpointManager, **options):
    torch.manual_seed(7 + len(options))
    model = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.ReLU(), torch.nn.Linear(32, 4))
    fully_shard(model, mesh=init_device_mesh("cpu", (dist.get_world_size(),)))
    optimizers = default_adamw(lr=0.1).build(model_parts=[model])
    state = TrainState()
    schedulers = LRSchedulersContainer.Config(warmup_steps=2).build(optimizers=optimizers, training_steps=20)
    built = manager.Config(enable=True, interval=2, folder="titan", **options).build(
        dataloader=None, model_parts=[model], optimizers=optimizers, lr_schedulers=schedulers, states={"train_state": state}, sd_adapter=None,
        base_folder=base)
    return model, optimizers, schedulers, state, built

def whole(model, optimizers):
    found = {name: tensor.full_tensor().detach() for name, tensor in model.state_dict().items()}
    return found | {name: getattr(tensor, "full_tensor", lambda: tensor)() for name, tensor in optimizers.state_dict().items() if isinstance(tensor, torch.Tensor)}

def train(model, optimizers, schedulers, state, manager, until):
    while state.step < until:
        state.step += 1
        torch.manual_seed(state.step)
        optimizers.zero_grad()
        model(torch.randn(8, 16)).square().mean().backward()
        manager.maybe_wait_for_staging()
        optimizers.step()
        schedulers.step()
        if manager.save(state.step): print(state.step, file=sys.stderr)
    manager.maybe_wait_for_saving()

def same(left, right):
    assert left.keys() == right.keys(), left.keys() ^ right.keys()
    for name, tensor in left.items(): assert torch.equal(tensor.float(), right[name].float()), name

if what == "save":
    parts = made()
    assert not parts[4].load()
    train(*parts, 3)
    kept = {}
    def keep(): kept.update({name: tensor.clone() for name, tensor in whole(*parts[:2]).items()})
    train(*parts, 4); keep()
    train(*parts, 5)
    if dist.get_rank() == 0: torch.save(kept, base + "/kept")
    parts[4].close()
    again = made(last_save_model_only=False)
    assert again[4].load()
    assert again[3].step == 4 and again[2].schedulers[0].last_epoch == 4
    same(whole(*again[:2]), kept)
    train(*again, 5)
    same(whole(*again[:2]), whole(*parts[:2]))
    assert again[4].save(7, last_step=True)
    again[4].close()
elif what == "one":
    parts = made(exclude_from_loading=["lr_scheduler"])
    assert parts[4].load(4) and parts[3].step == 4 and parts[2].schedulers[0].last_epoch == 0
    same(whole(*parts[:2]), torch.load(base + "/kept"))
    parts[4].close()
elif what == "stock":
    # torchtitan's own manager finds and reads our folders.
    parts = made(CheckpointManager, initial_load_path=where, initial_load_model_only=False)
    assert parts[4]._find_load_step(os.path.dirname(where)) == 7
    assert parts[4].load() and parts[3].step == 4
    same(whole(*parts[:2]), torch.load(base + "/kept"))
    parts[4].close()
dist.barrier()
dist.destroy_process_group()
os._exit(0)  # see test_ranks.py: Gloo may abort at the interpreter's end
"""


def launch(daemon: Daemon, world: int, what: str, folder: Path, where: str = "") -> None:
    known = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world)}
    known |= {"OMP_NUM_THREADS": "1", "CAIRN_SOCKET": daemon.socket, "CAIRN_RUN": folder.name, "CAIRN_ATTEMPT": f"{folder}-{what}"}
    ranks = [
        trainer(RANK, what, str(folder), where, environment=known | {"RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in range(world)
    ]
    for rank in ranks:
        rank.communicate(timeout=150)
    assert [rank.returncode for rank in ranks] == [0] * world


def test_fsdp2_goes_on_and_torchtitans_own_manager_reads_it(shared: Daemon, tmp_path: Path) -> None:
    launch(shared, 2, "save", tmp_path)
    launch(shared, 1, "one", tmp_path)
    run = next(folder for folder in shared.tier.glob(f"*/{tmp_path.name}"))
    step = next(folder for folder in run.iterdir() if folder.name.startswith("step-4."))
    launch(shared, 2, "stock", tmp_path, str(step))


@pytest.mark.parametrize(("option", "value"), [("keep_latest_k", 3), ("async_mode", "async_with_pinned_mem")])
def test_what_the_daemon_does_instead_is_said(option: str, value: object) -> None:
    from cairn.torchtitan import CairnCheckpointManager

    with pytest.raises(ValueError, match=f"checkpoint.{option}"):
        CairnCheckpointManager.Config(**{option: value})
