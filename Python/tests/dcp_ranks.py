"""One rank of a job that saves and loads by torch.distributed.checkpoint: started by test_dcp.py, which tells it by stdin what to do.

Arguments: rank, world size, folder of the rendezvous. A line is a JSON list, the name of a function below and its arguments; so is each answer.
"""

from __future__ import annotations

import json
import sys
import traceback
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as stock
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

import cairn.torch.dcp as dcp

torch.set_num_threads(1)
RANK, WORLD = int(sys.argv[1]), int(sys.argv[2])
WIDTH, INNER, BATCH = 24, 40, 8
group: Any = None


class Block(nn.Module):
    """Odd sizes, so that shards are uneven; a buffer that training changes."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(WIDTH, INNER)
        self.down = nn.Linear(INNER, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def forward(self, batch: Any) -> Any:
        self.seen += 1
        return batch + self.down(torch.relu(self.up(self.norm(batch))))


def build(layout: str, seed: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A model in one of the layouts, with other weights for each seed, the same on each rank before it is split."""
    torch.manual_seed(seed)
    model: nn.Module = nn.Sequential(Block(), Block())
    if layout == "plain":  # as DDP has it: equal on all ranks
        pass
    elif layout == "fsdp":
        split(model, init_device_mesh("cpu", (WORLD,)))
    elif layout == "hsdp":
        split(model, init_device_mesh("cpu", (2, WORLD // 2), mesh_dim_names=("copy", "part")))
    elif layout == "tp":
        parallel(model, init_device_mesh("cpu", (WORLD,)))
    elif layout == "fsdp-tp":
        mesh = init_device_mesh("cpu", (2, WORLD // 2), mesh_dim_names=("dp", "tp"))
        parallel(model, mesh["tp"])
        split(model, mesh["dp"])
    else:
        raise ValueError(layout)
    return model, torch.optim.AdamW(model.parameters(), lr=0.01 * seed)


def split(model: Any, mesh: Any) -> None:
    for block in model:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)


def parallel(model: Any, mesh: Any) -> None:
    for block in model:
        parallelize_module(block, mesh, {"up": ColwiseParallel(), "down": RowwiseParallel()})


def step(model: Any, optimizer: Any) -> None:
    torch.manual_seed(1)
    optimizer.zero_grad()
    model(torch.randn(BATCH, WIDTH)).square().mean().backward()
    optimizer.step()


def state_of(model: Any, optimizer: Any, extra: Any) -> dict[str, Any]:
    weights, moments = get_state_dict(model, optimizer)
    return {"model": weights, "optim": moments, "extra": {"epoch": extra, "list": [extra, {"deep": "text"}], "set": {1, 2}}}


def whole(node: Any) -> Any:
    """All tensors as they are before they are split."""
    if isinstance(node, DTensor):
        return node.full_tensor().clone()
    if isinstance(node, torch.Tensor):
        return node.clone()
    if isinstance(node, dict):
        return {key: whole(child) for key, child in node.items()}
    if isinstance(node, list):
        return [whole(child) for child in node]
    return node


def difference(left: Any, right: Any, path: str = "") -> str:
    if isinstance(left, dict):
        if left.keys() != right.keys():
            return f"{path}: {sorted(left)} and {sorted(right)}"
        found = [difference(left[key], right[key], f"{path}.{key}") for key in left]
    elif isinstance(left, list):
        found = [difference(*pair, f"{path}.{index}") for index, pair in enumerate(zip(left, right, strict=True))]
    elif isinstance(left, torch.Tensor):
        same = left.dtype == right.dtype and torch.equal(left, right)
        found = ["" if same else f"{path}: {left.dtype} {left.flatten()[:4]} and {right.dtype} {right.flatten()[:4]}"]
    else:
        found = ["" if left == right else f"{path}: {left} and {right}"]
    return next((text for text in found if text), "")


saved: dict[str, Any] = {}


def save(layout: str, checkpoint_id: str, how: str) -> str:
    """Train a step, save, and keep what was saved as whole tensors."""
    model, optimizer = build(layout, 1)
    step(model, optimizer)
    state = state_of(model, optimizer, 3)
    saved[checkpoint_id] = whole(state)
    if how == "sync":
        dcp.save(state, checkpoint_id=checkpoint_id)
        return ""
    if how == "guarded":
        dcp.guard(optimizer, checkpoint_id)
        answer = dcp.async_save(state, checkpoint_id=checkpoint_id, process_group=group)
        step(model, optimizer)  # fenced
    else:
        writer = dcp.CairnWriter(cairn_run(checkpoint_id), lazy=how == "lazy" or None)
        answer = dcp.async_save(state, checkpoint_id=checkpoint_id, storage_writer=writer, process_group=group)
        if how == "lazy":
            answer.staging_completion.result(60)
        step(model, optimizer)
    state["extra"]["epoch"] = 99
    state["extra"]["list"][1]["deep"] = "changed"
    assert not isinstance(answer, stock.state_dict_saver.Future)
    answer.staging_completion.result(60)
    answer.upload_completion.result(60)
    return ""


def cairn_run(checkpoint_id: str) -> str:
    return checkpoint_id.split("/")[-2]


def load(layout: str, checkpoint_id: str, by: str, saved_as: str) -> str:
    """Load into a model of another seed; what differs from what was saved."""
    model, optimizer = build(layout, 2)
    state = state_of(model, optimizer, 0)
    if by == "cairn":
        dcp.load(state, checkpoint_id=checkpoint_id)
    else:
        stock.load(state, storage_reader=stock.FileSystemReader(by))
    set_state_dict(model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optim"])
    return difference(saved[saved_as], whole(state_of(model, optimizer, 3) | {"extra": state["extra"]}))


def remember(checkpoint_id: str, layout: str) -> str:
    """What `save` would have saved, for another job's checkpoint."""
    model, optimizer = build(layout, 1)
    step(model, optimizer)
    saved[checkpoint_id] = whole(state_of(model, optimizer, 3))
    return ""


def odd(checkpoint_id: str) -> str:
    """Parts that are empty on some ranks, replicas along one dimension of a mesh, scalars, and types of all sizes."""
    mesh = init_device_mesh("cpu", (WORLD,))
    grid = init_device_mesh("cpu", (2, WORLD // 2), mesh_dim_names=("a", "b"))
    from torch.distributed.tensor import Replicate, Shard

    def made(factor: int) -> dict[str, Any]:
        torch.manual_seed(factor)
        return {
            "short": distribute_tensor(torch.arange(3.0) * factor, mesh, [Shard(0)]),
            "both": distribute_tensor(torch.randn(6, 10), grid, [Shard(1), Replicate()]),
            "copies": distribute_tensor(torch.randn(5, dtype=torch.float64), mesh, [Replicate()]),
            "narrow": distribute_tensor(torch.randn(9, 4).to(torch.bfloat16), mesh, [Shard(1)]),
            "eight": torch.randn(7).to(torch.float8_e4m3fn),
            "pair": torch.randn(3, dtype=torch.complex128),
            "flag": torch.tensor(factor == 1),
            "none": torch.zeros(0, 4),
            "columns": torch.randn(4, 6).t(),
        }

    state = made(1)
    expected = whole(state)
    dcp.save(state, checkpoint_id=checkpoint_id)
    answer = dcp.async_save(made(1), checkpoint_id=checkpoint_id + "1")
    answer.result(60)
    for suffix in ("", "1"):
        into = made(2)
        dcp.load(into, checkpoint_id=checkpoint_id + suffix)
        found = difference(
            {name: plain(value) for name, value in expected.items()}, {name: plain(value) for name, value in whole(into).items()}
        )
        if found:
            return found
    return ""


def plain(tensor: Any) -> Any:
    return tensor.view(torch.uint8) if tensor.dtype == torch.float8_e4m3fn else tensor


def stage(layout: str, checkpoint_id: str) -> str:
    """Stage and save nothing."""
    model, optimizer = build(layout, 1)
    step(model, optimizer)
    dcp.CairnWriter(cairn_run(checkpoint_id)).stage(state_of(model, optimizer, 3)).result(60)
    return ""


def refused(checkpoint_id: str) -> str:
    """A checkpoint that was never saved, on all ranks alike."""
    try:
        dcp.load({"x": torch.zeros(1)}, checkpoint_id=checkpoint_id)
    except BaseException as failure:  # DCP's own derive from it
        return type(failure).__name__
    return "loaded"


def main() -> None:
    global group
    dist.init_process_group("gloo", init_method=f"file://{sys.argv[3]}/rendezvous", rank=RANK, world_size=WORLD)
    group = dist.new_group(backend="gloo")  # async_save talks while the model does
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        try:
            answer: Any = globals()[name](*arguments)
        except BaseException:
            answer = traceback.format_exc()
        print(json.dumps(answer), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
