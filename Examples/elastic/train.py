"""Trains under torchrun's elastic agent: started again with any number of ranks, it goes on where it was.

    export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
    torchrun --standalone --nproc-per-node 2 --max-restarts 3 Examples/elastic/train.py

(Without it, torch 2.13's restarted ranks find the dead ones' addresses in the store that they share with the agent, and Gloo calls
those, pytorch #135712; with it, each start has a store of its own.)

Kill a rank, and the agent starts all of them again; they restore the newest whole step, as a new attempt. Send SIGTERM to
torchrun, and all ranks stop at the same step with a save. Start it with fewer or more ranks, and the data's shards are dealt out
anew, each with its position: no sample is left out or seen twice.
"""

from __future__ import annotations

import argparse
import os
import time

import torch
import torch.distributed as dist
from torch.nn import functional

import cairn

SHARDS = 4
BATCH = 8
EVERY = 2


def make() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    """The same on all ranks. Doubles, so that the order in which ranks' gradients are added hardly shows."""
    torch.manual_seed(17)
    model = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.Tanh(), torch.nn.Linear(32, 1)).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()  # makes the momentum, of zeros: another number of ranks restores what is there, and adds nothing
    return model, optimizer


def train_step(model: torch.nn.Module, optimizer: torch.optim.Optimizer, loader: dict[str, dict[str, int]]) -> float:
    """One batch of each of this rank's shards; all ranks' gradients are added up, so that the step is the same for any world."""
    optimizer.zero_grad(set_to_none=False)
    total = torch.zeros((), dtype=torch.float64)
    for shard, position in loader.items():
        generator = torch.Generator().manual_seed(int(shard) * 1_000_000 + position["next"])
        batch = torch.randn(BATCH, 8, generator=generator, dtype=torch.float64)
        loss = functional.mse_loss(model(batch), batch.square().mean(1, keepdim=True)) / SHARDS
        loss.backward()
        total += loss.detach()
        position["next"] += 1
    if dist.is_initialized():
        for parameter in model.parameters():
            dist.all_reduce(parameter.grad)
        dist.all_reduce(total)
    optimizer.step()
    return total.item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    # Not --run, which torchrun takes for a short --run-path.
    parser.add_argument("run", nargs="?", default="elastic", help="the run's name (default: elastic)")
    parser.add_argument("--steps", type=int, default=200, help="train up to this step (default: 200)")
    parser.add_argument("--pause", type=float, default=0.0, help="seconds that each step takes longer (default: 0)")
    options = parser.parse_args()

    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    mine = [str(shard) for shard in range(SHARDS) if shard % world == rank]
    ckpt = cairn.Checkpointer(
        options.run,
        replicated=True,  # all tensors are equal on all ranks: written once, restored by any number
        shared=True,  # so are plain values,
        keyed={f"loader.{shard}.*": f"data-{shard}" for shard in mine},  # but for these: restored by whoever has the shard
    )
    model, optimizer = make()
    ckpt.guard(optimizer)
    ckpt.watch_preemption()  # torchrun sends SIGTERM, and SIGKILL 30 s later
    loader = {shard: {"next": 0} for shard in mine}
    state = {"model": model, "optim": optimizer, "loader": loader}
    step = ckpt.restore(state) or 0
    print(f"rank {rank} of {world}, pid {os.getpid()}, begins at step {step}, positions {loader}", flush=True)
    while step < options.steps:
        loss = train_step(model, optimizer, loader)
        step += 1
        time.sleep(options.pause)
        told = ckpt.preempted()
        if (told and told.enough) or (not told and (step % EVERY == 0 or step == options.steps)):
            ckpt.save(step, state)
        if rank == 0:
            print(f"step {step}, loss {loss:.4f}", flush=True)
        if told:
            break
    ckpt.wait_until_finished()
    ckpt.check_for_errors()
    weights = sum(parameter.sum().item() for parameter in model.parameters())
    print(f"rank {rank} of {world} ends at step {step}, weights {weights!r}, positions {loader}", flush=True)
    ckpt.close()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
