"""How long dcp.async_save keeps a training step waiting, with torch's own writer and with Cairn's, on the same FSDP2 state.

    CAIRN_SOCKET=… torchrun --nproc-per-node 4 Benchmarks/dcp_async.py --millions 32 --folder /somewhere/empty

Prints, for each way, of the slowest rank: seconds until async_save has returned, until the next optimizer step is done (which waits
for the copy where it is lazy), and until the checkpoint is complete: written and synced, with Cairn committed.
"""

from __future__ import annotations

import argparse
import os
import time
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as stock
from torch.distributed.checkpoint.state_dict import get_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import cairn.torch.dcp as dcp

SAVES = 4
WAYS = ("torch", "cairn", "cairn, guarded optimizer")


def build(millions: int) -> tuple[Any, Any]:
    """That many million parameters in layers of one million, and AdamW's moments: three times 4 bytes each."""
    torch.manual_seed(1)
    model: Any = torch.nn.Sequential(*(torch.nn.Linear(1024, 1024, bias=False) for _ in range(millions)))
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for layer in model:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    optimizer = torch.optim.AdamW(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    return model, optimizer


def measure(way: str, folder: str, model: Any, optimizer: Any, group: Any) -> list[list[float]]:
    """Of each save but the first: returned, stepped, complete."""
    rows = []
    for number in range(SAVES):
        weights, moments = get_state_dict(model, optimizer)
        state = {"model": weights, "optim": moments}
        dist.barrier()
        begin = time.monotonic()
        if way == "torch":
            answer: Any = stock.async_save(state, checkpoint_id=f"{folder}/step-{number}", process_group=group)
        else:
            run = f"dcp-async-{len(way)}/step-{number}"
            if way != "cairn":
                dcp.guard(optimizer, run)
            answer = dcp.async_save(state, checkpoint_id=run, process_group=group)
        returned = time.monotonic() - begin
        optimizer.step()
        stepped = time.monotonic() - begin
        answer.result()
        slowest = torch.tensor([returned, stepped, time.monotonic() - begin])
        dist.all_reduce(slowest, dist.ReduceOp.MAX)
        rows.append(slowest.tolist())
    return rows[1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--millions", type=int, default=32)
    parser.add_argument("--folder", required=True, help="for torch's own checkpoints; nothing is removed")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    group = dist.new_group(backend="gloo")
    model, optimizer = build(arguments.millions)
    for way in WAYS:
        rows = measure(way, arguments.folder, model, optimizer, group)
        if dist.get_rank() == 0:
            columns = [" ".join(f"{row[column]:6.3f}" for row in rows) for column in range(3)]
            print(
                f"{way:26} returned {columns[0]}  stepped {columns[1]}  complete {columns[2]}  (load {os.getloadavg()[0]:.1f})",
                flush=True,
            )
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
