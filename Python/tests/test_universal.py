"""DeepSpeed's universal folder: what DeepSpeed's own loader makes of an export, and what an import makes of DeepSpeed's own converter's."""

from __future__ import annotations

import importlib.util
import secrets
from pathlib import Path
from typing import Any

import pytest
import torch
from real_daemon import Daemon, free_port, trainer

import cairn
from cairn.convert import export_step, import_step

pytestmark = [pytest.mark.daemon, pytest.mark.seconds(170)]

RANK = """
import os, sys, torch
import deepspeed
import deepspeed.comm.torch
sys.modules["deepspeed.comm.torch"].build_shm_op = lambda: None  # a C++ extension that would be compiled now, and is not needed
from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

source, target = sys.argv[1:]
deepspeed.init_distributed(dist_backend="gloo", verbose=False)
model = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.Tanh(), torch.nn.Linear(32, 16))
universal = {"checkpoint": {"load_universal": True}}
config = {"train_micro_batch_size_per_gpu": 4, "zero_optimization": {"stage": 1}, "bf16": {"enabled": True},
          "zero_allow_untested_optimizer": True, "zero_force_ds_cpu_optimizer": False}
engine, *_ = deepspeed.initialize(model=model, optimizer=torch.optim.AdamW(model.parameters(), lr=0.5), config=config | universal)
folder, tag = os.path.split(source)
engine.load_checkpoint(folder, tag=tag)

def now():
    keys = ("exp_avg", "exp_avg_sq")
    return {name: {"fp32": safe_get_full_fp32_param(part), **{key: safe_get_full_optimizer_state(part, key) for key in keys}}
            for name, part in engine.module.named_parameters()}

found = {"loaded": now(), "steps": engine.global_steps, "lr": engine.optimizer.param_groups[0]["lr"]}
rows = torch.randn(4, 16, generator=torch.Generator().manual_seed(engine.global_rank)).bfloat16()
engine.backward(engine(rows).float().square().mean())
engine.step()
found["trained"] = now()
engine._config.load_universal_checkpoint = False
engine.save_checkpoint(target, tag="plain")
if engine.global_rank == 0:
    torch.save(found, os.path.join(target, "found.pt"))
    # What DeepSpeed saved, as its own converter makes it universal.
    import deepspeed.checkpoint.ds_to_universal as converter
    sys.argv = ["", "--input_folder", f"{target}/plain", "--output_folder", f"{target}/theirs", "--inject_missing_state",
                "--num_extract_workers", "1", "--num_merge_workers", "1"]
    converter.main(converter.parse_arguments())
print("DONE", flush=True)
os._exit(0)
"""


def model_and_optimizer(named: bool) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(3)
    model = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.Tanh(), torch.nn.Linear(32, 16))
    optimizer = torch.optim.AdamW(model.named_parameters() if named else model.parameters(), lr=0.25)
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(4, 16)).square().mean().backward()
        optimizer.step()
    return model, optimizer


def parts(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, dict[str, torch.Tensor]]:
    return {
        name: {"fp32": part.detach(), "exp_avg": optimizer.state[part]["exp_avg"], "exp_avg_sq": optimizer.state[part]["exp_avg_sq"]}
        for name, part in model.named_parameters()
    }


def assert_parts(left: dict[str, Any], right: dict[str, Any]) -> None:
    assert left.keys() == right.keys()
    for name, tensors in left.items():
        for key, tensor in tensors.items():
            assert torch.equal(tensor, right[name][key]), f"{name} {key}"


def commit(daemon: Daemon, run: str, state: Any) -> None:
    with daemon.open(run) as checkpointer:
        checkpointer.save(9, state).wait("committed", timeout=30)


@pytest.fixture
def run() -> str:
    return f"run-{secrets.token_hex(4)}"


@pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="deepspeed is not installed (requirements-frameworks.txt)")
def test_deepspeed_loads_an_export_and_its_own_is_imported(shared: Daemon, run: str, tmp_path: Path) -> None:
    model, optimizer = model_and_optimizer(named=True)
    commit(shared, run, {"model": model, "optimizer": optimizer})
    report = export_step(run, 9, "universal", tmp_path / "universal", socket=shared.socket)
    assert report.left_out == []
    known = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    known |= {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    arguments = [str(tmp_path / "universal"), str(tmp_path)]
    ranks = [trainer(RANK, *arguments, environment=known | {"RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in range(2)]
    told = [rank.communicate(timeout=150)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], told
    found = torch.load(tmp_path / "found.pt")
    assert (found["steps"], found["lr"]) == (9, 0.25)
    assert_parts(parts(model, optimizer), found["loaded"])

    with pytest.raises(cairn.CannotConvert, match="--allow-pickle"):
        import_step(tmp_path / "theirs", "universal", f"{run}-back", 10, socket=shared.socket)
    import_step(tmp_path / "theirs", "universal", f"{run}-back", 10, allow_pickle=True, socket=shared.socket)
    with shared.open(f"{run}-back") as checkpointer:
        assert checkpointer.restore({"model": model, "optimizer": optimizer}) == 10
    assert_parts(found["trained"], parts(model, optimizer))
    assert all(int(state["step"]) == 4 for state in optimizer.state.values())


def test_an_export_comes_back_the_same(shared: Daemon, run: str, tmp_path: Path) -> None:
    model, optimizer = model_and_optimizer(named=False)
    model.register_buffer("seen", torch.tensor(5))
    before = {name: {key: tensor.clone() for key, tensor in tensors.items()} for name, tensors in parts(model, optimizer).items()}
    plain = {name: part.detach() for name, part in model.named_parameters()}
    commit(shared, run, {"net": plain, "opt": optimizer.state_dict(), "seen": model.get_buffer("seen")})
    report = export_step(run, 9, "universal", tmp_path / "made", prefix="net.", socket=shared.socket)
    assert report.left_out == ["seen"]
    import_step(tmp_path / "made", "universal", f"{run}-back", 1, prefix="net.", socket=shared.socket)
    with torch.no_grad():
        for part in model.parameters():
            part.zero_()
            for tensor in optimizer.state[part].values():
                tensor.zero_()
    with shared.open(f"{run}-back") as checkpointer:
        assert checkpointer.restore({"net": plain, "optimizer": optimizer}, strict=False) == 1
    assert_parts(before, parts(model, optimizer))


def grouped(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> Any:
    two = torch.optim.AdamW([{"params": [part]} for part in model.parameters()][::-1])
    model(torch.randn(4, 16)).square().mean().backward()
    two.step()
    return {"model": model, "optimizer": two}


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (grouped, r"model\.named_parameters"),
        (lambda model, optimizer: {"model": model}, "has 0"),
        (lambda model, optimizer: {"net": model, "optimizer": optimizer}, "is named 'model"),
        (lambda model, optimizer: {"model": model, "optimizer": torch.optim.SGD(model.named_parameters())}, "made for Adam"),
    ],
)
def test_what_is_not_of_the_form_is_refused(shared: Daemon, run: str, tmp_path: Path, made: Any, text: str) -> None:
    commit(shared, run, made(*model_and_optimizer(named=False)))
    with pytest.raises(cairn.CannotConvert, match=text):
        export_step(run, 9, "universal", tmp_path / "made", socket=shared.socket)
    with pytest.raises(cairn.CannotConvert, match=r"ds_to_universal\.py"):
        import_step(tmp_path, "universal", f"{run}-back", 1, socket=shared.socket)
    assert list(tmp_path.iterdir()) == []
